"""`recipes/similarity.py` on networks with random weights, and what it writes."""

import csv
import io
import json
import re
from contextlib import redirect_stderr
from importlib.metadata import version

import numpy as np
import pytest
import torch
from PIL import Image

from ols.data.transforms import Preprocessing
from ols.evaluation.agreement import agreement
from ols.evaluation.predictions import Predictions, save_predictions
from ols.models.build import build_model
from ols.representations.layers import LayerShape, draw_points
from ols.representations.pairs import compare_layers
from ols.representations.report import draw_all_layers, draw_layer_by_layer
from ols.representations.similarity import MEASURES
from ols.runs.export import export_model, load_export
from recipes import evaluate, similarity

CLASSES = ["a", "b"]
IMAGES = 12  # of each class in the test split


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tree of class folders, and three exports of the same architecture."""
    root = tmp_path_factory.mktemp("similarity")
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in CLASSES:
            place = root / "data" / split / name
            place.mkdir(parents=True)
            for number in range(IMAGES if split == "test" else 1):
                Image.fromarray(rng.integers(0, 255, (64, 64)).astype(np.uint8)).save(place / f"{number:02}.png")
    for seed, name in enumerate(("first", "second", "third")):
        _export(root / name, seed)
    return root


def _export(folder, seed, size=64):
    torch.manual_seed(seed)
    export_model(
        folder,
        build_model("test_resnet", 2),
        architecture="test_resnet",
        classes=CLASSES,
        groups=["g", "g"],
        preprocessing=Preprocessing(size, size),
        metrics={},
        task="multiclass",
    )


def _compare(folder, *arguments):
    fixed = [f"--data.root={folder / 'data'}", f"--output={folder / 'out'}", "--device=cpu", "--threads=1"]
    similarity.main(similarity.parse_options([*map(str, arguments), *fixed]))
    return json.loads((folder / "out" / "similarity.json").read_text())


def _rows(export):
    """Features of layer4 at all of its positions, by timm alone."""
    model, _ = load_export(export)
    paths = sorted((export.parent / "data" / "test").rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths])[:, None]
    with torch.no_grad():
        maps = model.forward_intermediates(
            torch.from_numpy(pixels) / 127.5 - 1, indices=[4], norm=False, intermediates_only=True
        )
    return maps[0].permute(0, 2, 3, 1).reshape(-1, maps[0].shape[1]).double()


def _unbiased_cka(x, y):
    """Song et al.'s estimator over kernel matrices."""

    def hsic(k, m):
        n, ones = len(k), torch.ones(len(k), dtype=k.dtype)
        k, m = k - k.diag().diag(), m - m.diag().diag()
        first = (k @ m).trace() + ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return first - 2 / (n - 2) * (ones @ k @ m @ ones)

    k, m = x @ x.T, y @ y.T
    return (hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()).item()


def test_the_recipe_writes_the_similarity_of_what_timm_computes(folder):
    found = _compare(folder, folder / "first", folder / "second", "--ceiling", folder / "third")
    layers = ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [(a, b) for a in layers for b in layers]
    pair = found["pairs"][-1]  # layer4, the coarsest, in all of its positions
    assert (found["format"], found["images"], found["points"], pair["rows"]) == (1, 24, 4, 96)
    first, second, third = (_rows(folder / name) for name in ("first", "second", "third"))
    assert pair["similarities"]["cka"]["value"] == pytest.approx(_unbiased_cka(first, second), abs=1e-5)
    assert pair["ceiling"]["cka"] == pytest.approx(_unbiased_cka(first, third), abs=1e-5)
    assert pair["similarities"]["mean_cca"] == dict.fromkeys(("value", "null", "null_low", "null_high"))
    assert found["first"]["preprocessing"]["image_size"] == 64
    assert found["conditions"]["versions"]["torch"] == version("torch")

    page = (folder / "out" / "similarity.md").read_text()
    assert "24 images, in each 4 points of every layer: 96 rows" in page
    assert re.search(
        r"mean CCA: \d+ of 25 pairs of layers have fewer than 10 rows for each of up to \d+ dimensions", page
    )
    assert all((folder / "out" / name).is_file() for name in re.findall(r"\]\((\w+\.png)\)", page))
    assert len(re.findall(r"\]\((\w+\.png)\)", page)) == 2
    with (folder / "out" / "similarity.csv").open() as file:
        lines = {line["measure"]: line for line in csv.DictReader(file) if line["first"] == line["second"] == "layer4"}
    assert lines.keys() == set(MEASURES)
    assert float(lines["cka"]["value"]) == pair["similarities"]["cka"]["value"]
    assert lines["mean_cca"]["value"] == lines["mean_cca"]["ceiling"] == ""


def test_a_start_from_an_export_is_that_export_and_fresh_weights_are_not(folder):
    found = _compare(folder, folder / "first", f"run:{folder / 'first'}", "--ceiling=none", "--layers=layer3")
    (pair,) = found["pairs"]
    assert pair["similarities"]["cka"]["value"] == pytest.approx(1, abs=1e-6)
    assert pair["similarities"]["cka"]["null"] < 0.9
    assert pair["ceiling"]["cka"] < 0.99
    assert found["second"]["name"] == "run:first"
    assert "fresh" in found["ceiling"]["weights"]
    assert found["remarks"] == ["Starts predict nothing: there is no agreement of predictions."]


def test_saved_predictions_are_compared(folder):
    right = {"first": np.arange(24) % 3 > 0, "second": np.arange(24) % 4 > 0}
    targets = torch.arange(24) // IMAGES
    names = [f"test/{CLASSES[number // IMAGES]}/{number % IMAGES:02}.png" for number in range(24)]
    patients = [str(number // 2) for number in range(24)]
    for name, correct in right.items():
        predicted = torch.where(torch.from_numpy(correct), targets, 1 - targets)
        logits = torch.nn.functional.one_hot(predicted, 2).float()
        saved = Predictions(logits, targets, torch.arange(24), names, patients, CLASSES, ["g", "g"], "multiclass")
        save_predictions(folder / name / "evaluation" / "test.safetensors", saved)
    found = _compare(folder, folder / "first", folder / "second", "--layers=layer4")
    expected = agreement(right["first"], right["second"], patients=patients)
    assert found["agreements"]["second"] == pytest.approx(expected._asdict())
    assert found["remarks"] == []
    assert f"Kappa {expected.kappa:.3f}" in (folder / "out" / "similarity.md").read_text()


@pytest.mark.slow
def test_runs_know_their_data_and_what_they_predicted(train):
    runs = [train(name, f"--seed={seed}", "--train.epochs=1") for seed, name in enumerate("abc")]
    options = ["--device=cpu", "--threads=1"]
    evaluate.main(evaluate.parse_options([*map(str, runs), "--report=false", "--data.workers=0", *options]))
    words = [str(runs[0]), str(runs[1]), f"--ceiling={runs[2]}", f"--output={train.folder / 'out'}", *options]
    similarity.main(similarity.parse_options(words))
    found = json.loads((train.folder / "out" / "similarity.json").read_text())
    assert found["images"] == 12
    assert {found["agreements"][role]["images"] for role in ("second", "ceiling")} == {12}
    assert found["pairs"][0]["first"] == "stem"
    values = [pair["similarities"]["cka"]["value"] for pair in found["pairs"]]
    assert len(values) == 25
    assert max(values) <= 1 + 1e-9


def test_what_cannot_be_compared_is_said_in_one_line(folder, tmp_path):
    _export(tmp_path / "small", 0, size=32)
    first = str(folder / "first")
    cases = {
        r"nowhere is no folder of a run or an export, and no start: unknown start": (first, "nowhere"),
        "see different squares of an image .*64 px.*32 px.*give all --data.image_size": (first, tmp_path / "small"),
        "ResNet has no layer 'layer9'": (first, first, "--layers=layer9"),
        "name the architecture that none is for with --model": ("none", "none"),
        "none of the networks knows a data set": (first, first, "--data.root="),
    }
    for message, arguments in cases.items():
        errors = io.StringIO()
        output = [f"--output={tmp_path / 'out'}", "--device=cpu", "--threads=1"]
        data = [] if "--data.root=" in arguments else [f"--data.root={folder / 'data'}"]
        options = similarity.parse_options([*map(str, arguments), *output, *data])
        with pytest.raises(SystemExit) as ended, redirect_stderr(errors):
            similarity.main(options)
        assert ended.value.code == 2
        assert re.search(message, errors.getvalue()), errors.getvalue()
    assert not (tmp_path / "out").exists()
    resized = _compare(folder, first, tmp_path / "small", "--layers=layer4", "--data.image_size=32")
    assert {resized[role]["preprocessing"]["image_size"] for role in ("first", "second")} == {32}


def test_figures_show_every_number_and_say_where_there_is_none():
    points = draw_points(60, [LayerShape(2, 2, 4)], rows=240)
    rng = np.random.default_rng(0)
    first = {"stem$": rng.normal(size=(240, 4)), "wide": rng.normal(size=(240, 30))}
    second = {"stem$": first["stem$"] + 1, "wide": rng.normal(size=(240, 30))}
    pairs = compare_layers(first, second, points, ceiling=first)
    same = [pair for pair in pairs if pair.first == pair.second]
    panels = draw_layer_by_layer(same).axes
    assert [axes.get_title() for axes in panels] == ["mean CCA", "SVCCA", "PWCCA", "CKA"]
    lines = {line.get_label(): line.get_ydata() for line in panels[0].lines}
    assert lines["the two networks"][0] == lines["ceiling, another seed"][0] == pytest.approx(1)
    assert np.isnan(lines["the two networks"][1])
    assert [text.get_text() for axes in panels for text in axes.texts] == ["too few\nrows"] * 3
    figure = draw_all_layers(pairs)
    maps = [axes for axes in figure.axes if axes.images]
    assert len(maps) == 12
    similar, chance = (maps[place].images[0].get_array() for place in (3, 7))
    assert similar[0, 0] == pytest.approx(1)
    assert chance[0, 0] == pytest.approx(pairs[0].similarities["cka"].null)
    assert (maps[0].images[0].get_array().mask == [[False, True], [True, True]]).all()
    figure.draw_without_rendering()  # a name with a $ is no formula
