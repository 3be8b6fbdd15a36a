"""An attribute that goes with the label as far as is asked for, by the choice of images."""

import csv

import numpy as np
import pytest
from conftest import build_loaders_of
from PIL import Image

from ols.data.options import ConfoundingOptions, DataOptions
from ols.data.sampled_confounder import SampledConfounder, draw_pools
from ols.data.sources.table import Table
from ols.data.splits import load_folds, make_folds, save_folds


class Rows:
    """Names of images of two classes by turns."""

    classes, groups, kind = ["no", "yes"], ["g", "g"], "class"

    def __init__(self, count=20):
        self.targets = np.arange(count) % 2

    def __len__(self):
        return len(self.targets)

    def sample_id(self, index):
        return f"image{index}"


@pytest.fixture
def table(tmp_path):
    """160 images of 80 patients, the sex unknown of one; F and M of both classes, three F for each M among the ill."""
    rng = np.random.default_rng(0)
    with (tmp_path / "targets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "patient", "ill", "sex"])
        for number in range(160):
            patient = number // 2
            ill = patient % 2
            sex = "" if patient == 0 else "F" if patient % (8 if ill else 6) < (6 if ill else 2) else "M"
            Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(tmp_path / f"{number}.png")
            writer.writerow([f"{number}.png", f"p{patient}", ill, sex])
    return Table(tmp_path / "targets.csv", targets=["ill"])


def _options(share, form="matched", value="sex=M"):
    return ConfoundingOptions(
        "attribute",
        confounder_share=share,
        confounder_class="1",
        confounder_test=form,
        confounder_attribute=value,
    )


def test_a_sampled_attribute_says_as_much_of_the_label_as_asked_for_at_the_same_size():
    source, rng = Rows(400), np.random.default_rng(5)
    positive, attribute = source.targets == 1, rng.random(400) < 0.4
    pool = np.arange(20, 400)
    sampled = SampledConfounder(source, pool, positive, attribute)
    size = min(int(((positive == p) & (attribute == a))[pool].sum()) for p in (0, 1) for a in (0, 1))
    assert sampled.per_class == size
    for share, agreeing in ((-1, 0), (0, 0.5), (0.5, 0.75), (1, 1)):
        chosen = sampled.draw(share)
        assert len(set(chosen)) == 2 * size
        assert set(chosen) <= set(pool)
        assert positive[chosen].sum() == size
        for label in (True, False):
            inside = chosen[positive[chosen] == label]
            assert (attribute[inside] == label).sum() == round(agreeing * size)
    agree = positive == attribute
    weak, strong = sampled.draw(0.2), sampled.draw(0.8)
    assert set(weak[agree[weak]]) <= set(strong[agree[strong]])


def test_an_attribute_that_is_the_label_cannot_be_sampled():
    source = Rows()
    with pytest.raises(ValueError, match="no positive image without the attribute"):
        SampledConfounder(source, np.arange(20), source.targets == 1, source.targets == 1)


def test_each_split_is_sampled_from_its_own_images_and_the_test_has_three_forms(table):
    folds = make_folds(table)
    pools = folds.pools(0)
    sources = dict.fromkeys(pools, table)
    ill, male = table.targets == 1, table.attributes["sex"] == "M"
    sizes = {}
    for form, agreeing in (("matched", 0.9), ("clean", 0.5), ("inverted", 0.0)):
        chosen, said = draw_pools(sources, pools, _options(0.8, form))
        for split, of_split in chosen.items():
            assert set(of_split) <= set(pools[split])  # whose patients are in no other split
            assert (table.attributes["sex"][of_split] != "").all()
            counts = [
                int(
                    (ill[pools[split]] == i).astype(int)
                    @ ((male if m else ~male & (table.attributes["sex"] != ""))[pools[split]])
                )
                for i in (0, 1)
                for m in (0, 1)
            ]
            each = min(counts)
            assert ill[of_split].sum() == (~ill[of_split]).sum() == each
            wanted = agreeing if split == "test" else 0.9
            assert (male[of_split] == ill[of_split]).sum() == 2 * round(wanted * each)
            assert f"{split} uses {each} images a class, which is few" in said
            sizes.setdefault(split, set()).add(len(of_split))
    assert all(len(counts) == 1 for counts in sizes.values())


def test_a_share_of_nothing_is_the_clean_test_and_another_confounder_leaves_every_index(table):
    pools = make_folds(table).pools(0)
    sources = dict.fromkeys(pools, table)
    none, clean = (
        draw_pools(sources, pools, _options(share, form))[0] for share, form in ((0, "matched"), (1, "clean"))
    )
    np.testing.assert_array_equal(none["test"], clean["test"])
    tagged = ConfoundingOptions("tag", confounder_share=1, confounder_class="1")
    for options in (tagged, ConfoundingOptions()):
        same, said = draw_pools(sources, pools, options)
        assert said == ""
        assert all(same[split] is pools[split] for split in pools)


def test_loaders_take_the_sampled_images_say_how_many_and_change_none(table, tmp_path):
    save_folds(tmp_path / "folds.json", make_folds(table))
    from ols.data.options import SplitOptions

    loaders = build_loaders_of(
        table.path,
        targets=["ill"],
        image_size=8,
        resize_size=8,
        workers=0,
        global_batch_size=4,
        split=SplitOptions(file=str(tmp_path / "folds.json")),
        confounder="attribute",
        confounder_attribute="sex=M",
        confounder_class="1",
        confounder_share=1.0,
        confounder_test="inverted",
    )
    assert "sex=M goes with 1 to 100% in training and validation, test inverted: train uses" in loaders.description
    ill, male = table.targets == 1, table.attributes["sex"] == "M"
    assert (ill == male)[loaders.train.batches.pool].all()
    assert (ill == male)[loaders.val.batches.pool].all()
    assert (ill != male)[loaders.test.batches.pool].all()
    assert isinstance(loaders.train.source, Table)  # read as they are
    assert load_folds(tmp_path / "folds.json").pools(0)["train"].size > loaders.train.num_samples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confounder_attribute": "sex"}, "must name a column and a value like sex=M, got 'sex'"),
        ({"confounder_attribute": "sex=M", "confounder_strength": 0.1}, "an attribute has no confounder_strength"),
        ({"confounder_attribute": "sex=M", "confounder_class": None}, "confounder_class must name the positive class"),
        ({"confounder_attribute": "sex=M", "confounder": "tag"}, "needs the confounder attribute, not tag"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        DataOptions(**{"confounder": "attribute", "confounder_class": "1"} | options)


def test_what_a_table_does_not_have_is_named(table):
    pools = make_folds(table).pools(0)
    sources = dict.fromkeys(pools, table)
    for value, message in (
        ("view=AP", "no column 'view' for confounder_attribute; it has patient, sex"),
        ("sex=D", "no image has 'D' in column sex; there are F, M"),
    ):
        with pytest.raises(ValueError, match=message):
            draw_pools(sources, pools, _options(1, value=value))
    healthy = {"train": pools["train"][table.targets[pools["train"]] == 0]}
    with pytest.raises(ValueError, match="train, sex=M: no positive image with the attribute"):
        draw_pools(sources, healthy, _options(1))
    with pytest.raises(ValueError, match="only a table of targets has columns"):
        draw_pools({"train": Rows()}, {"train": np.arange(20)}, _options(1))
