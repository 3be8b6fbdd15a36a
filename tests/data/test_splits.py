"""Folds: who is tested where, who never lies on both sides, and how shares of the training images grow."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ols.data.splits import (
    Folds,
    adopt_split,
    describe_folds,
    load_folds,
    make_folds,
    make_folds_of_training,
    save_folds,
)
from ols.files import DamagedFileError

RECIPES = Path(__file__).parents[2] / "recipes"


class Source:
    """Patients of one to five images, with targets of any kind."""

    def __init__(self, kind="class", patients=60, seed=0):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 6, patients)
        self.patients = np.repeat(np.arange(patients), sizes)
        count, self.kind = len(self.patients), kind
        ill = np.repeat(rng.random(patients) < 0.3, sizes)
        self.classes = ["well", "ill"] if kind == "class" else ["a", "b", "c"][: 3 if kind == "multilabel" else 1]
        self.groups = [""] * len(self.classes)
        self.targets = {
            "class": ill.astype(np.int64),
            "multilabel": np.stack([ill, rng.random(count) < 0.5, rng.random(count) < 0.02], 1).astype(np.float32),
            "regression": np.repeat(rng.normal(50, 20, patients), sizes).astype(np.float32),
        }[kind]

    def __len__(self):
        return len(self.patients)

    def sample_id(self, index):
        return f"{index}.png"

    def sample_group(self, index):
        return f"p{self.patients[index]}"


@pytest.mark.parametrize("kind", ["class", "multilabel", "regression"])
def test_every_image_is_tested_once_and_no_patient_lies_in_two_splits(kind):
    source = Source(kind)
    made = make_folds(source, folds=5, seed=3)
    tested = np.concatenate([fold["test"] for fold in made.folds])
    assert sorted(tested.tolist()) == list(range(len(source)))
    for fold in made.folds:
        parts = [{source.patients[i] for i in fold[split]} for split in ("train", "val", "test")]
        assert sum(map(len, parts)) == len(set.union(*parts)) == 60
        assert sum(len(fold[split]) for split in fold) == len(source)
        assert len(fold["val"]) == pytest.approx(0.2 * 0.8 * len(source), abs=0.05 * len(source))


def test_folds_have_the_class_shares_of_the_whole_nearly():
    source = Source(patients=300)
    made = make_folds(source, folds=5)
    for fold in made.folds:
        assert source.targets[fold["test"]].mean() == pytest.approx(source.targets.mean(), abs=0.03)
        assert source.targets[fold["val"]].mean() == pytest.approx(source.targets.mean(), abs=0.04)


def test_shares_are_nested_by_patient_stratified_and_leave_validation_and_test_whole():
    source = Source(patients=300)
    made = make_folds(source)
    pools = {share: made.pools(1, share=share) for share in (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)}
    whole = pools[1.0]
    before: set[int] = set()
    for share, pool in pools.items():
        patients = {source.patients[i] for i in pool["train"]}
        assert before <= set(pool["train"].tolist())
        assert not patients & {source.patients[i] for i in np.setdiff1d(whole["train"], pool["train"])}
        assert share * len(whole["train"]) <= len(pool["train"]) <= share * len(whole["train"]) + 5
        assert set(source.targets[pool["train"]]) == {0, 1}
        if share >= 0.25:
            assert source.targets[pool["train"]].mean() == pytest.approx(source.targets.mean(), abs=0.05)
        for split in ("val", "test"):
            np.testing.assert_array_equal(pool[split], whole[split])
        before = set(pool["train"].tolist())
    assert before == set(whole["train"].tolist())


def test_the_same_seed_makes_the_same_split_and_another_another(tmp_path):
    source = Source()
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_folds(tmp_path / name, make_folds(source, seed=seed))
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c


def test_a_split_file_is_read_back_for_a_table_in_another_order(tmp_path):
    source = Source()
    made = make_folds(source)
    save_folds(tmp_path / "folds.json", made)
    order = np.random.default_rng(0).permutation(len(source))

    class Shuffled(Source):
        def sample_id(self, index):
            return f"{order[index]}.png"

        def sample_group(self, index):
            return f"p{self.patients[order[index]]}"

    read = load_folds(tmp_path / "folds.json").aligned_with(Shuffled())
    for before, after in zip(made.folds, read.folds, strict=True):
        for split in before:
            assert order[after[split]].tolist() == before[split].tolist()


def test_a_split_that_was_altered_or_is_of_other_images_is_refused(tmp_path):
    path = tmp_path / "folds.json"
    save_folds(path, make_folds(Source()))
    with pytest.raises(ValueError, match=r"the split is of \d+ images, \d+ of which the data set lacks, such as"):
        load_folds(path).aligned_with(Source(patients=20))
    record = json.loads(path.read_text())
    record["folds"][0]["test"][0] += 1
    path.write_text(json.dumps(record))
    with pytest.raises(DamagedFileError, match="another checksum"):
        load_folds(path)


def test_a_patient_on_both_sides_is_refused_by_name():
    made = make_folds(Source())
    fold = made.folds[0]
    groups = np.array(made.groups)
    crossing = next(i for i in fold["train"] if (groups[fold["train"]] == groups[i]).sum() > 1)
    moved = {
        "train": np.setdiff1d(fold["train"], [crossing]),
        "val": fold["val"],
        "test": np.append(fold["test"], crossing),
    }
    with pytest.raises(ValueError, match=f"patient {groups[crossing]} lies in train and test of fold 0"):
        replace(made, folds=[moved])

    class Merged(Source):  # what was two patients turns out to be one
        def sample_group(self, index):
            return "p0"

    with pytest.raises(ValueError, match="patient p0 lies in two splits of fold 0"):
        made.aligned_with(Merged())


def test_images_that_are_missing_from_a_fold_or_tested_twice_are_refused():
    made = make_folds(Source())
    short = made.folds[0] | {"val": made.folds[0]["val"][1:]}
    with pytest.raises(ValueError, match="fold 0 does not have each of"):
        replace(made, folds=[short])
    with pytest.raises(ValueError, match=r"\.png is tested in [02] folds instead of one"):
        replace(made, folds=[made.folds[0], made.folds[1], made.folds[1]])
    with pytest.raises(ValueError, match=r"\.png is validated on in [02] folds instead of one"):
        replace(made, folds=[made.folds[0], made.folds[0]])


def test_a_given_split_is_taken_over_with_validation_from_training():
    source = Source()
    given = np.where(source.patients < 15, "test", "train")
    (fold,) = adopt_split(source, given).folds
    assert set(fold["test"]) == set(np.flatnonzero(source.patients < 15))
    assert len(fold["val"]) > 0
    with pytest.raises(ValueError, match="one of train, val, test, got 'Testing'"):
        adopt_split(source, np.where(given == "test", "Testing", given))
    with pytest.raises(ValueError, match="and test of fold 0"):
        adopt_split(source, np.where(np.arange(len(source)) % 2, "test", "train"), val_share=0.5)


def test_a_fixed_test_is_that_of_every_fold_and_all_else_validates_once(tmp_path):
    source = Source(patients=300)
    given = np.where(source.patients < 60, "test", np.where(source.patients < 90, "val", "train"))
    save_folds(tmp_path / "folds.json", make_folds_of_training(source, given, folds=4, seed=2))
    made = load_folds(tmp_path / "folds.json").aligned_with(source)
    assert made.has_fixed_test
    assert len(made.folds) == 4
    ill = source.targets[source.patients >= 60].mean()
    for fold in made.folds:
        assert fold["test"].tolist() == np.flatnonzero(source.patients < 60).tolist()
        assert not set(source.patients[fold["train"]]) & set(source.patients[fold["val"]])
        assert source.targets[fold["val"]].mean() == pytest.approx(ill, abs=0.1)
    validated = np.sort(np.concatenate([fold["val"] for fold in made.folds]))
    assert validated.tolist() == np.flatnonzero(source.patients >= 60).tolist()
    assert not make_folds(source).has_fixed_test
    assert not adopt_split(source, given).has_fixed_test


def test_the_command_divides_all_but_the_fixed_test(tmp_path, monkeypatch, capsys):
    table, output = tmp_path / "targets.csv", tmp_path / "folds.json"
    rows = [
        f"{number}.png,p{number // 2},{number % 4 // 2},{'test' if number < 8 else 'train'}" for number in range(40)
    ]
    table.write_text("\n".join(["filename,patient,ill,part", *rows]))
    for number in range(40):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    options = ["--data.root", table, "--data.targets", "[ill]", "--task", "binary", "--near_copies", "false"]
    options += ["--fixed_test", "part", "--folds", "4", "--output", output]
    monkeypatch.setattr(sys, "argv", ["split.py", *map(str, options)])
    runpy.run_path(str(RECIPES / "split.py"), run_name="__main__")
    made = load_folds(output)
    assert [fold["test"].tolist() for fold in made.folds] == [list(range(8))] * 4
    assert sorted(np.concatenate([fold["val"] for fold in made.folds])) == list(range(8, 40))
    assert capsys.readouterr().out.count("test 8 (4 groups)") == 4


def test_a_fixed_test_that_is_none_is_refused():
    source = Source()
    given = np.where(source.patients < 15, "test", "train")
    made = make_folds_of_training(source, given, folds=3)
    with pytest.raises(ValueError, match=r"\.png is validated on in 2 folds instead of one"):
        replace(made, folds=[*made.folds, made.folds[0]])
    for words, options, message in (
        (np.where(given == "test", "Testing", given), {}, "one of train, val, test, got 'Testing'"),
        (np.where(np.arange(len(source)) % 2, "test", "train"), {}, r"patient p\d+ lies in .* and test of fold 0"),
        (np.full(len(source), "train"), {}, "fold 0 has no image in test"),
        (given, {"folds": 1}, "folds must be at least 2, got 1"),
        (given, {"folds": 50}, "45 groups cannot be divided into 50"),
    ):
        with pytest.raises(ValueError, match=message):
            make_folds_of_training(source, words, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be at least 2"),
        ({"folds": 99}, "60 groups cannot be divided into 99"),
        ({"val_share": 0.7}, r"val_share must lie in \(0, 0.5\]"),
    ],
)
def test_impossible_folds_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_folds(Source(), **options)


def test_a_fold_without_a_class_is_named():
    source = Source(patients=40)
    source.targets[:] = 0
    source.targets[source.patients == 7] = 1  # one patient is ill
    made = make_folds(source)
    text = describe_folds(made, source).splitlines()
    holders = [number for number, fold in enumerate(made.folds) if 7 in source.patients[fold["test"]]]
    for number, line in enumerate(text):
        assert ("ill in test" in line) == (number not in holders)
        assert "well in" not in line


def test_a_fold_or_share_that_is_not_there_is_refused():
    made: Folds = make_folds(Source())
    with pytest.raises(ValueError, match=r"fold must lie in \[0, 4\], got 5"):
        made.pools(5)
    with pytest.raises(ValueError, match=r"share must lie in \(0, 1\]"):
        made.pools(0, share=0)
