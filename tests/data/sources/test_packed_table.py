"""A packed table of targets is the table: item by item, fold by fold."""

import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ols.data.loading import TransformedImages
from ols.data.options import SourceOptions
from ols.data.sources.opening import find_form, open_table
from ols.data.splits import load_folds, make_folds, save_folds
from ols.data.table_packing import write_table_pack
from ols.data.transforms import Preprocessing, TrainTransform

RECIPES = Path(__file__).parents[3] / "recipes"
SIZE = 12


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A table of 15 images of 3 sizes and 8 patients, and its pack."""
    root = tmp_path_factory.mktemp("table")
    rng, lines = np.random.default_rng(0), ["filename,patient,label,age,a,b,sex,mask,given_split"]
    for index in range(15):
        shape = [(20, 16), (16, 16), (15, 21)][index % 3]
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(root / f"{index}.png")
        mask = np.zeros(shape, np.uint8)
        mask[1:2, 1:2] = 1 if index % 2 else 0  # one pixel, which resizing may lose
        if index > 10:
            mask[4:12, 3:9] = 2
        Image.fromarray(mask).save(root / f"m{index}.png")
        cells = [f"./{index}.png", f"p{index // 2}", "ab"[index % 2], 40.5 + index, index % 2, ["", 1, 0][index % 3]]
        split = "test" if index < 4 else "train"
        lines.append(",".join(map(str, [*cells, "FM"[index % 2], f"m{index}.png", split])))
    (root / "targets.csv").write_text("\n".join(lines) + "\n")
    write_table_pack(root / "targets.csv", root / "x.pack", size=SIZE, shard_images=4)
    return root / "targets.csv", root / "x.pack"


def both(places, kind, **options):
    return [open_table(SourceOptions(root=str(place), **options), kind=kind) for place in places]


KINDS = [
    ("class", {"targets": ["label"], "side": ["sex"]}),
    ("multilabel", {"targets": ["a", "b"]}),
    ("regression", {"targets": ["age"]}),
    ("mask", {"targets": ["one", "two"]}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_a_packed_table_has_the_items_names_and_folds_of_its_csv(places, kind, options, tmp_path):
    table, packed = both(places, kind, **options)
    for name in ("classes", "groups", "has_patients", "kind"):
        assert getattr(packed, name) == getattr(table, name)
    np.testing.assert_array_equal(packed.targets, table.targets)
    assert packed.targets.dtype == table.targets.dtype
    assert packed.attributes.keys() == table.attributes.keys()
    assert packed.attributes["given_split"].tolist() == table.attributes["given_split"].tolist()
    for index in range(15):
        assert packed.sample_id(index) == table.sample_id(index) == f"{index}.png"
        assert packed.sample_group(index) == table.sample_group(index)
    transform = TrainTransform(Preprocessing(image_size=9, resize_size=SIZE), seed=3)
    batches = [
        TransformedImages(source, transform).__getitems__([(2, i) for i in range(15)]) for source in (table, packed)
    ]
    assert batches[0].keys() == batches[1].keys()
    for name, values in batches[0].items():
        torch.testing.assert_close(batches[1][name], values, rtol=0, atol=0, equal_nan=True)

    for number, source in enumerate((table, packed)):
        save_folds(tmp_path / f"{number}.json", make_folds(source, folds=3, seed=1))
    assert (tmp_path / "0.json").read_bytes() == (tmp_path / "1.json").read_bytes()
    load_folds(tmp_path / "0.json").aligned_with(packed)


def test_a_pack_that_lacks_masks_its_csv_or_a_bit_is_refused_by_name(places, tmp_path):
    csv, pack = places
    copy = shutil.copytree(pack, tmp_path / "x.pack")
    with pytest.raises(ValueError, match=r"has no masks of column a; it has those of column mask"):
        open_table(SourceOptions(root=str(copy), mask="a"), kind="mask")
    with pytest.raises(ValueError, match="a pack of 1 channels; in_chans asks for 3"):
        open_table(SourceOptions(root=str(copy), targets=["label"]), in_chans=3)
    (copy / "table.csv").write_text(csv.read_text().replace("F", "M"))
    with pytest.raises(ValueError, match=r"table\.csv is missing or damaged"):
        open_table(SourceOptions(root=str(copy), targets=["label"]))
    (copy / "table.csv").unlink()
    assert find_form(copy) == "pack"
    other = csv.with_name("other.csv")
    other.write_text(csv.read_text().replace(",M,", ",F,"))
    with pytest.raises(ValueError, match="holds another pack"):
        write_table_pack(other, pack, size=SIZE, shard_images=4)


def test_the_recipe_packs_a_table_and_splits_the_pack(places, tmp_path, monkeypatch, capsys):
    def run(name, *argv):
        monkeypatch.setattr(sys, "argv", [name, *map(str, argv)])
        runpy.run_path(str(RECIPES / name), run_name="__main__")

    run("pack.py", "--data.root", places[0], "--output", tmp_path / "p", "--size", "12", "--workers", "1", "--verify")
    assert "15 all images in 1 files, every checksum is right\na table of targets, with masks of column mask" in (
        capsys.readouterr().out
    )
    folds = {}
    for place in (places[0], tmp_path / "p"):
        options = ["--task", "segmentation", "--folds", "3", "--near_copies", "false"]
        run("split.py", "--data.root", place, *options, "--output", tmp_path / f"{place.name}.json")
        folds[place] = (tmp_path / f"{place.name}.json").read_bytes()
    assert len(set(folds.values())) == 1
