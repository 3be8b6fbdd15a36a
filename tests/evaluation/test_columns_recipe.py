"""`recipes/columns.py`: numbers of a run that a study's table takes beside those of its test."""

import csv
import shutil

import numpy as np
import pytest
import torch
from conftest import accelerate_begins_anew, export_fresh_net
from PIL import Image
from sklearn.metrics import roc_auc_score

from ols.data.confounding import tag
from ols.data.loading import EvalLoader
from ols.data.sampling import EvalBatches
from ols.data.sources.folder import ImageFolder
from ols.data.transforms import EvalTransform, Preprocessing
from ols.evaluation.localised_images import LOCALISED, LocalisedImages
from ols.files import read_record
from ols.models.build import build_model
from ols.representations.columns import similarity_columns
from ols.runs.export import load_export
from recipes import columns, localise

SIDE = 40
SEEN = Preprocessing(image_size=SIDE, resize_size=SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An export of a fresh binary net, three splits of two classes, and boxes of the ill."""
    root, rng = tmp_path_factory.mktemp("columns"), np.random.default_rng(0)
    boxes = ["filename,x0,y0,x1,y1"]
    for split, count in (("train", 1), ("val", 4), ("test", 8)):
        for label in ("healthy", "ill"):
            (root / "set" / split / label).mkdir(parents=True)
            for number in range(count):
                name = f"{split}/{label}/{number}.png"
                x, y = rng.integers(6, 24, 2)
                if label == "ill":
                    boxes.append(f"{name},{x},{y},{x + 10},{y + 8}")
                Image.fromarray(rng.integers(0, 255, (SIDE, SIDE)).astype(np.uint8)).save(root / "set" / name)
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    export_fresh_net(root / "net", SEEN)
    return root


def _columns(folder, *options, root="set"):
    run = [str(folder / "net"), f"--data.root={folder / root}", "--device=cpu", "--threads=1"]
    with accelerate_begins_anew():
        columns.main(columns.parse_column_options([*run, *map(str, options)]))
    return read_record(folder / "net" / "columns.json")["columns"]


def test_what_a_tag_does_is_what_scikit_learn_says_of_images_that_are_tagged_here(folder):
    found = _columns(folder, "--confounder=tag")
    model, _ = load_export(folder / "net")
    score, ill = {False: [], True: []}, []
    for path in sorted((folder / "set" / "test").rglob("*.png")):
        pixels = np.asarray(Image.open(path))[None]
        ill.append(path.parent.name == "ill")
        for tagged in score:
            shown = tag(pixels, 0, 0.1) if tagged else pixels
            with torch.no_grad():
                logits = model.eval()(torch.from_numpy(shown.copy())[None] / 127.5 - 1)[0]
            score[tagged].append(float(logits[1] - logits[0]))
    clean = roc_auc_score(ill, score[False])
    inverted = roc_auc_score(ill, np.where(ill, score[False], score[True]))
    assert found["confounder/clean_auc"] == found["confounder/matched_auc"] == pytest.approx(clean)
    assert found["confounder/inverted_auc"] == pytest.approx(inverted)
    assert {"confounder/inverted_ece", "confounder/inverted_ece_null"} <= found.keys()


def test_localisation_is_that_of_its_own_recipe_and_families_lie_beside_each_other(folder, capsys):
    boxes = f"--boxes={folder / 'boxes.csv'}"
    _columns(folder, "--confounder=tag")
    found = _columns(folder, boxes)
    assert any(name.startswith("confounder/") for name in found)
    with accelerate_begins_anew():
        options = [f"--data.root={folder / 'set'}", "--device=cpu", "--threads=1", f"--output={folder / 'found'}"]
        localise.main(localise.parse_options([str(folder / "net"), boxes, *options]))
    with (folder / "found" / "localisation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert found["localisation/images"] == len(rows) == 8
    images = LocalisedImages.read(folder / "net" / "evaluation" / LOCALISED)
    assert (images.names, images.patients) == ([row["filename"] for row in rows], [row["patient"] for row in rows])
    for measure in ("dice", "dice_own_area", "pointing", "energy"):
        for name, end in (("grad_cam", ""), ("centre_prior", "_centre_prior")):
            values = [float(row[f"{name}_{measure}"]) for row in rows]
            assert found[f"localisation/{measure}{end}"] == pytest.approx(np.mean(values))
            assert images.scores[name][measure].tolist() == values
    capsys.readouterr()
    before = (folder / "net" / "columns.json").stat().st_mtime_ns
    _columns(folder, boxes, "--confounder=tag")
    assert "kept" in capsys.readouterr().out
    assert (folder / "net" / "columns.json").stat().st_mtime_ns == before
    assert _columns(folder, "--confounder=gamma")["confounder/inverted_auc"] != found["confounder/inverted_auc"]


def test_a_network_is_like_itself_and_unlike_a_fresh_one_and_what_too_few_rows_leave_out_has_no_column(folder):
    source = ImageFolder(folder / "set", "test")
    loader = EvalLoader(source, EvalTransform(SEEN), EvalBatches(np.arange(16), batch_size=8))
    model, _ = load_export(folder / "net")
    torch.manual_seed(1)
    fresh = build_model("test_resnet", 2, 1)
    same = similarity_columns(model, model, loader)
    other = similarity_columns(model, fresh, loader)
    layers = {name.split("/")[1] for name in same}
    assert {"layer1", "layer4"} <= layers
    for layer in layers:
        assert same[f"similarity/{layer}/cka"] == pytest.approx(1)
        assert abs(same[f"similarity/{layer}/cka_null"]) < 0.6
    assert other["similarity/layer4/cka"] < 0.9
    assert "similarity/layer4/mean_cca" not in same  # 16 images


def test_what_cannot_be_measured_is_named_on_one_line(folder, capsys):
    for option, message in (
        ("--similarity", "net is an export alone: what it started from is not known"),
        ("--confounder=own", "net was trained without a confounder: name one"),
    ):
        with pytest.raises(SystemExit):
            _columns(folder, option)
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        columns.parse_column_options(["net"])
    assert "no columns are asked for" in capsys.readouterr().err


def test_columns_of_other_images_are_measured_anew_and_the_record_says_of_which(folder, capsys):
    _columns(folder, "--confounder=tag")
    before = read_record(folder / "net" / "columns.json")
    assert before["data"] == {"root": str(folder / "set"), "splits": None}
    shutil.copytree(folder / "set", folder / "moved")
    _columns(folder, "--confounder=tag", root="moved")
    assert "kept" in capsys.readouterr().out  # the same images at another place
    (folder / "moved" / "test" / "ill" / "0.png").unlink()
    assert "confounder/clean_auc" in _columns(folder, "--confounder=tag", root="moved")
    assert "kept" not in capsys.readouterr().out
    after = read_record(folder / "net" / "columns.json")
    assert after["data"]["root"] == str(folder / "moved")
    assert after["images"]["samples"] != before["images"]["samples"]


@pytest.mark.slow
def test_a_run_that_learned_nothing_is_like_its_own_start_of_fresh_weights(train):
    run = train("idle", "--train.epochs=1", "--optim.peak_lr=1e-30", "--optim.weight_decay=0", "--seed=5")
    with accelerate_begins_anew():
        columns.main(columns.parse_column_options([str(run), "--similarity", "--device=cpu", "--threads=1"]))
    found = {n: v for n, v in read_record(run / "columns.json")["columns"].items() if n.endswith("/cka")}
    assert len(found) >= 4
    assert all(value == pytest.approx(1, abs=1e-5) for value in found.values())
