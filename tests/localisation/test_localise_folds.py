"""`recipes/localise.py` on folders of folds, against tables of the folds that are put together here."""

import csv
import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from conftest import accelerate_begins_anew, export_fresh_net
from PIL import Image

from ols.command_line import parse_config
from ols.data.sources.table import Table
from ols.data.splits import load_folds, make_folds, save_folds
from ols.data.transforms import Preprocessing
from ols.phantoms.targets import LesionConfig, write_lesion_phantoms
from recipes import localise

SIDE = 40
MEASURES = ("dice", "iou", "dice_own_area", "iou_own_area", "pointing", "energy")
RIGHT = {"right": "1", "wrong": "0"}


def _write_starts(root, *, patients: int):
    """Write a table with masks, two folds, and two starts with a fresh net for each; the second has them swapped."""
    write_lesion_phantoms(root / "set", LesionConfig(patients=patients, most_images=4, image_size=SIDE))
    path = root / "set" / "targets.csv"
    save_folds(root / "folds.json", make_folds(Table(path, targets=["malignant"]), folds=2, val_share=0.5))
    (root / "empty.yaml").write_text("loss: {name: hard}\n")
    for number, (start, order) in enumerate({"imagenet": (0, 1), "own": (1, 0)}.items()):
        for place, fold in enumerate(order):
            run = root / start / f"fold{place}"
            given = {
                "task": "binary", "data.root": path, "data.targets": "[malignant]", "data.image_size": SIDE,
                "split.file": root / "folds.json", "split.fold": fold, "model.name": "test_resnet",
            }  # fmt: skip
            config = parse_config(root / "empty.yaml", [f"--{key}={value}" for key, value in given.items()])
            seen = Preprocessing(image_size=SIDE, resize_size=SIDE)
            export_fresh_net(run / "export", seen, classes=["0", "1"], seed=2 * number + fold)
            (run / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
    return root


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    return _write_starts(tmp_path_factory.mktemp("folds"), patients=16)


def _localise(*arguments) -> None:
    with accelerate_begins_anew():
        localise.main(localise.parse_options([*map(str, arguments), "--device=cpu", "--threads=1"]))


def _rows(folder):
    with (folder / "localisation.csv").open() as file:
        return list(csv.DictReader(file))


def _report(folder):
    return json.loads((folder / "localisation.json").read_text())


def _column(rows, name):
    return np.array([float(row[name]) for row in rows])


def _write_boxes(path, names):
    path.write_text("\n".join(["filename,x0,y0,x1,y1", *(f"{name},10,10,30,30" for name in names)]) + "\n")


def _drawn_by_patient(values, patients):
    """Return the basic interval of the mean, drawing patients by a plain loop."""
    of_patient = [values[patients == name] for name in np.unique(patients)]
    rng = np.random.default_rng(1)
    drawn = [
        np.concatenate([of_patient[place] for place in rng.integers(len(of_patient), size=len(of_patient))]).mean()
        for _ in range(4000)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return 2 * values.mean() - high, 2 * values.mean() - low


def test_folds_together_are_all_their_images_and_starts_are_compared_image_by_image(starts, capsys):
    _localise(starts / "imagenet", starts / "own")
    table = Table(starts / "set" / "targets.csv", targets=["malignant"])
    every, rows = sorted(table.names), {}
    for start in ("imagenet", "own"):
        folds = [(f"fold{number}", starts / start / f"fold{number}" / "evaluation") for number in (0, 1)]
        rows[start] = _rows(starts / start / "localisation")
        assert rows[start] == [{"fold": fold, **row} for fold, place in folds for row in _rows(place / "localisation")]
        assert sorted(row["filename"] for row in rows[start]) == every
        report = _report(starts / start / "localisation")
        each = [_report(place / "localisation") for _, place in folds]
        assert report["folds"] == ["fold0", "fold1"]
        assert report["thresholds"] == {
            name: [one["thresholds"][name] for one in each] for name in report["thresholds"]
        }
        assert set(report["conditions"]["weights"]) == {"fold0", "fold1"}
        groups = {"all": rows[start]}
        groups |= {name: [row for row in rows[start] if row["right"] == right] for name, right in RIGHT.items()}
        for group, chosen in groups.items():
            found = report["groups"][group]
            assert (found["images"], found["patients"]) == (len(chosen), len({row["patient"] for row in chosen}))
            for measure in MEASURES:
                own = _column(chosen, f"grad_cam_{measure}")
                for name in ("centre_prior", "random_map", "input_gradient"):
                    other = _column(chosen, f"{name}_{measure}")
                    assert found["maps"][name][measure]["mean"] == pytest.approx(other.mean())
                    assert found["ahead"][name][measure]["mean"] == pytest.approx((own - other).mean())
        patients = np.array([row["patient"] for row in rows[start]])
        estimate = report["groups"]["all"]["maps"]["grad_cam"]["energy"]
        low, high = _drawn_by_patient(_column(rows[start], "grad_cam_energy"), patients)
        assert (estimate["low"], estimate["high"]) == pytest.approx((low, high), abs=0.1 * (high - low))
        page = (starts / start / "localisation" / "localisation.md").read_text()
        assert f"{len(every)} images of test, 2 folds together, whose lesion is marked (16 patients)" in page
        with Image.open(starts / start / "localisation" / "overlays.png") as figure:
            figure.load()

    first, second = ({row["filename"]: float(row["grad_cam_energy"]) for row in rows[start]} for start in rows)
    assert list(first) != list(second)
    difference = np.array([second[name] - first[name] for name in every])
    patients = np.array([table.sample_group(table.names.index(name)) for name in every])
    estimate = report["ahead"]["imagenet"]["energy"]
    assert estimate["mean"] == pytest.approx(difference.mean())
    low, high = _drawn_by_patient(difference, patients)
    assert (estimate["low"], estimate["high"]) == pytest.approx((low, high), abs=0.1 * (high - low))
    assert "ahead of imagenet" in capsys.readouterr().out


def test_many_images_of_few_patients_give_no_interval(tmp_path):
    root = _write_starts(tmp_path, patients=4)
    _localise(root / "imagenet", f"--output={tmp_path / 'found'}", "--threshold=0.5")
    assert (tmp_path / "found" / "fold1" / "localisation.md").is_file()
    group = _report(tmp_path / "found")["groups"]["all"]
    assert group["images"] > group["patients"] == 4
    assert {estimate["low"] for of_map in group["maps"].values() for estimate in of_map.values()} == {None}


def test_folds_without_a_mark_have_no_part_and_those_without_a_threshold_leave_it_out(starts, tmp_path, capsys):
    folds = load_folds(starts / "folds.json")
    first, second = ([folds.ids[place] for place in fold["test"]] for fold in folds.folds)
    validates_first = {folds.ids[place] for place in folds.folds[0]["val"]}

    _write_boxes(tmp_path / "first.csv", first)
    output = f"--output={tmp_path / 'found'}"
    _localise(starts / "imagenet", f"--boxes={tmp_path / 'first.csv'}", output)
    assert f"{starts / 'imagenet' / 'fold1'} has no part: no image of test is marked" in capsys.readouterr().out
    assert _report(tmp_path / "found")["folds"] == ["fold0"]

    _write_boxes(tmp_path / "most.csv", first + sorted(set(second) - validates_first))
    _localise(starts / "imagenet", starts / "own", f"--boxes={tmp_path / 'most.csv'}", output)
    report = _report(tmp_path / "found" / "imagenet")
    assert report["thresholds"] == {}
    assert report["groups"]["all"]["maps"]["grad_cam"].keys() == set(MEASURES) - {"dice", "iou"}
    assert report["chosen_on"].startswith("fold0: No lesion of val is marked: nothing is measured at a threshold")
    assert "fold1: Thresholds were chosen on" in report["chosen_on"]
    assert "grad_cam_dice" in _rows(tmp_path / "found" / "imagenet" / "fold1")[0]
    assert set(_report(tmp_path / "found" / "own")["ahead"]["imagenet"]) == set(MEASURES) - {"dice", "iou"}


def test_what_is_wrong_with_folds_is_named_on_one_line(starts, tmp_path, capsys):
    def refused(message, folder, *options):
        with pytest.raises(SystemExit):
            _localise(folder, *options)
        assert message in capsys.readouterr().err

    folds, arm = load_folds(starts / "folds.json"), tmp_path / "arm"
    never = set(range(len(folds.ids))).difference(*(fold["val"].tolist() for fold in folds.folds))
    _write_boxes(tmp_path / "boxes.csv", [folds.ids[place] for place in never])
    options = [f"--boxes={tmp_path / 'boxes.csv'}", "--split=val", "--threshold=0.5"]
    refused(f"no fold of {starts / 'own'} has a marked image of val", starts / "own", *options)
    shutil.copytree(starts / "own" / "fold1", arm / "fold1")
    refused(f"{arm} has no runs fold0, fold1 and so on; it has [1]", arm)
    (arm / "fold0").mkdir()
    refused(f"no run and no export in {arm / 'fold0'}", arm)
