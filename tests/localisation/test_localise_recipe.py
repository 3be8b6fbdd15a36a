"""`recipes/localise.py` on an export and a tree of class folders with masks or boxes."""

import csv
import io
import json
import re
import shutil
from contextlib import contextmanager, redirect_stderr

import numpy as np
import pytest
from conftest import export_fresh_net, forget_accelerate
from PIL import Image

from ols.data.transforms import Preprocessing
from recipes import localise

SIDE = 40


@contextmanager
def _refused(message: str):
    """Expect one line that matches, and no traceback."""
    errors = io.StringIO()
    with pytest.raises(SystemExit) as ended, redirect_stderr(errors):
        yield
    assert ended.value.code == 2
    assert re.search(message, errors.getvalue()), errors.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of a fresh net, three splits of two classes, and boxes and masks of the same lesions."""
    root, rng = tmp_path_factory.mktemp("localise"), np.random.default_rng(0)
    boxes, masks = ["filename,finding,x0,y0,x1,y1"], ["filename,lesion"]
    for split, count in (("train", 1), ("val", 4), ("test", 7)):
        for label in ("healthy", "ill"):
            (root / "set" / split / label).mkdir(parents=True)
            for number in range(count):
                name = f"{split}/{label}/{number}.png"
                pixels = rng.integers(60, 120, (SIDE, SIDE)).astype(np.uint8)
                x, y = rng.integers(6, 24, 2)
                if label == "ill":
                    pixels[y : y + 8, x : x + 10] += 100
                    mask = np.zeros((SIDE, SIDE), np.uint8)
                    mask[y : y + 8, x : x + 10] = 1
                    Image.fromarray(mask).save(root / f"{split}{number}.png")
                    boxes.append(f"{name},mass,{x},{y},{x + 10},{y + 8}")
                    masks.append(f"{name},{split}{number}.png")
                Image.fromarray(pixels).save(root / "set" / name)
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    (root / "masks.csv").write_text("\n".join(masks) + "\n")
    export_fresh_net(root / "net", Preprocessing(image_size=32, resize_size=36))
    return root


def _localise(folder, *options: str, also=()) -> None:
    forget_accelerate()
    arguments = [folder / "net", *also, f"--data.root={folder / 'set'}", "--device=cpu", "--threads=1", *options]
    localise.main(localise.parse_options(list(map(str, arguments))))


def test_table_summary_and_page_are_of_the_same_images(folder, tmp_path, capsys):
    _localise(folder, f"--boxes={folder / 'boxes.csv'}", f"--output={tmp_path / 'found'}")
    with (tmp_path / "found" / "localisation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["filename"] for row in rows] == [f"test/ill/{number}.png" for number in range(7)]
    assert {row["explained"] for row in rows} == {"ill"}
    report = json.loads((tmp_path / "found" / "localisation.json").read_text())
    assert (report["format"], report["layer"], report["groups"]["all"]["images"]) == (1, "layer4", 7)
    right = sum(row["right"] == "1" for row in rows)
    assert (report["groups"]["right"]["images"], report["groups"]["wrong"]["images"]) == (right, 7 - right)
    for name in ("grad_cam", "centre_prior", "random_map", "input_gradient"):
        for measure in ("dice", "iou", "dice_own_area", "iou_own_area", "pointing", "energy"):
            column = [float(row[f"{name}_{measure}"]) for row in rows]
            assert report["groups"]["all"]["maps"][name][measure]["mean"] == pytest.approx(np.mean(column))
    assert report["conditions"]["versions"]["torch"]
    page = (tmp_path / "found" / "localisation.md").read_text()
    assert "Thresholds were chosen on 4 images of val." in page
    assert f"{report['groups']['all']['maps']['centre_prior']['energy']['mean']:.3f}" in page
    with Image.open(tmp_path / "found" / "overlays.png") as figure:
        figure.load()
        assert min(figure.size) > 300
    assert "7 marked images of test" in capsys.readouterr().out


def test_masks_of_files_and_their_boxes_are_scored_the_same_and_models_are_compared(folder, tmp_path):
    again = shutil.copytree(folder / "net", tmp_path / "again")
    options = ["--threshold=0.5", "--mask_column=lesion", f"--output={tmp_path / 'masks'}"]
    _localise(folder, f"--masks={folder / 'masks.csv'}", *options, also=[again])
    _localise(folder, f"--boxes={folder / 'boxes.csv'}", f"--output={tmp_path / 'boxes'}", "--threshold=0.5")
    tables = [(tmp_path / place / "localisation.csv").read_text() for place in ("masks/net", "masks/again", "boxes")]
    assert tables[0] == tables[1] == tables[2]
    report = json.loads((tmp_path / "masks" / "again" / "localisation.json").read_text())
    assert set(report["ahead"]) == {"net"}
    assert {estimate["mean"] for estimate in report["ahead"]["net"].values()} == {0}


def test_an_image_that_all_folds_test_counts_once_each_and_is_drawn_with_its_patient(folder, tmp_path, capsys):
    for place in ("arm/fold0", "arm/fold1", "single"):
        shutil.copytree(folder / "net", tmp_path / place)
    options = [f"--boxes={folder / 'boxes.csv'}", f"--output={tmp_path / 'found'}"]
    _localise(folder, *options, also=[tmp_path / "single", tmp_path / "arm"])
    single, arm = (
        json.loads((tmp_path / "found" / name / "localisation.json").read_text()) for name in ("single", "arm")
    )
    assert (arm["groups"]["all"]["images"], arm["groups"]["all"]["patients"]) == (14, 7)
    for measure, estimate in single["groups"]["all"]["maps"]["grad_cam"].items():
        assert arm["groups"]["all"]["maps"]["grad_cam"][measure] == pytest.approx(estimate)
    assert set(single["ahead"]) == {"net"}
    assert not arm["ahead"]
    assert f"{tmp_path / 'arm'} is not compared with single, which has other images" in capsys.readouterr().out


def test_what_is_wrong_is_named_on_one_line(folder, tmp_path, capsys):
    boxes = f"--boxes={folder / 'boxes.csv'}"
    with _refused("no class is named 'il'; there are healthy, ill, true and predicted"):
        _localise(folder, boxes, "--explain=il", "--threshold=0.5")
    with _refused("what should be looked at: name --boxes or --masks"):
        _localise(folder)
    with _refused("ResNet has no layer 'layer9'"):
        _localise(folder, boxes, "--layer=layer9")
    with _refused("has no finding 'edema'; it has mass"):
        _localise(folder, boxes, "--findings=edema")
    with _refused("no image of train is marked"):
        (tmp_path / "boxes.csv").write_text("filename,x0,y0,x1,y1\ntest/ill/0.png,0,0,9,9\n")
        _localise(folder, f"--boxes={tmp_path / 'boxes.csv'}", "--split=train")
    for options, message in (
        ([boxes, "--masks=masks.csv"], "name one of --boxes and --masks"),
        (["--findings=mass"], "--findings chooses among --boxes, and none are named"),
        ([boxes, "--split=val"], "--split val needs a --threshold"),
        ([boxes, "--threshold=1.5"], r"--threshold must lie in \(0, 1\], got 1.5"),
    ):
        with pytest.raises(SystemExit):
            localise.parse_options(["run", *options])
        assert re.search(message, capsys.readouterr().err)
