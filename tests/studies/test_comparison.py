import csv
import itertools
import math
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, log_loss, silhouette_score, top_k_accuracy_score

from ols.config import parse_config
from ols.evaluation.predictions import Predictions, save_predictions
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.resampling import bootstrap_interval, resample
from ols.phantoms import known_posterior
from ols.studies.comparison import (
    FIGURES,
    IMAGE_FIGURES,
    compare_losses,
    image_figures,
    load_runs,
    loss_labels,
    summarise,
)
from ols.studies.report import markdown, sentences, write_report

ROOT = Path(__file__).parents[2]
QUICKSTART = ROOT / "recipes" / "configs" / "quickstart.yaml"
K = 7


def _logits(split: str, *, strength: float, scale: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a softmax model whose posterior is known up to `scale`: 1 is calibrated, 2 is over-confident."""
    generator = torch.Generator().manual_seed({"val": 1, "test": 2}[split])
    targets = torch.randint(K, (600,), generator=generator)
    evidence = torch.randn(600, K, generator=generator)
    evidence += 0.2 * torch.randn(600, K, generator=torch.Generator().manual_seed(10 + seed))
    return scale * strength * (evidence + strength * torch.eye(K)[targets]), targets


@pytest.fixture
def write_run(tmp_path):
    def write(
        loss, seed, *overrides, strength=1.5, scale=1.0, ids=None, only=("val", "test"), name=None, features=False
    ):
        run_dir = tmp_path / "runs" / (name or f"{loss}-seed{seed}")
        argv = [f"--loss.name={loss}", f"--seed={seed}", f"--run_dir={run_dir}", *overrides]
        run_dir.mkdir(parents=True)
        (run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(parse_config(QUICKSTART, argv))))
        for split in only:
            logits, targets = _logits(split, strength=strength, scale=scale, seed=seed)
            names = ids or [f"{split}/{i}.png" for i in range(600)]
            path = run_dir / "evaluation" / f"{split}.safetensors"
            classes = [f"class {k}" for k in range(K)]
            tensors = (logits, targets, torch.arange(600))
            kept = logits[:, :5].contiguous() if features else None
            save_predictions(path, Predictions(*tensors, names, classes, ["group"] * K, kept))
        return run_dir

    return write


def _figures(logits, targets, counts=None):
    counts = np.ones((1, len(targets))) if counts is None else np.asarray([counts], np.float64)
    return dict(zip(IMAGE_FIGURES, image_figures(logits, logits / 2, targets)(counts)[0], strict=True))


def _slow_aurc(confidence, wrong):
    order = np.argsort(-confidence, kind="stable")
    return np.mean([wrong[order[:k]].mean() for k in range(1, len(order) + 1)])


def test_the_figures_of_a_run_are_those_of_other_libraries():
    logits, targets = _logits("test", strength=1.5, scale=2, seed=0)
    found = _figures(logits, targets)
    predicted = logits.argmax(1)
    assert found["top1"] == pytest.approx((predicted == targets).double().mean().item())
    assert found["top5"] == pytest.approx(top_k_accuracy_score(targets, logits, k=5))
    assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(targets, predicted))
    for suffix, values in (("", logits), ("_scaled", logits / 2)):
        probs = values.double().softmax(1).numpy()
        assert found[f"nll{suffix}"] == pytest.approx(log_loss(targets, probs))
        histogram = CalibrationHistogram()
        histogram.update(values, targets)
        assert found[f"ece{suffix}"] == pytest.approx(histogram.compute()["ece"].item())
        aurc = _slow_aurc(probs.max(1), (predicted != targets).numpy())
        assert found[f"aurc{suffix}"] == pytest.approx(aurc)


def test_an_image_that_counts_three_times_is_one_that_is_there_three_times():
    logits, targets = _logits("test", strength=1.5, scale=2, seed=0)
    logits, targets = logits[:60].round(), targets[:60]  # rounded: ties
    drawn = (targets != 6).double().numpy()  # a resample without the last class
    counts = np.random.default_rng(0).multinomial(60, drawn / drawn.sum())
    repeated = torch.from_numpy(np.repeat(np.arange(60), counts))
    for name, value in _figures(logits, targets, counts).items():
        assert value == pytest.approx(_figures(logits[repeated], targets[repeated])[name]), name


def test_equal_confidences_are_taken_in_random_order():
    logits = torch.tensor([[3.0, 0], [1, 0], [1, 0], [1, 0], [0.5, 0]])
    targets = torch.tensor([0, 0, 1, 0, 1])
    wrong = targets.numpy() == 1
    orders = [[0, *middle, 4] for middle in itertools.permutations((1, 2, 3))]
    expected = np.mean([[wrong[order[:k]].mean() for k in range(1, 6)] for order in orders])
    assert _figures(logits, targets)["aurc"] == pytest.approx(expected)


def test_confidences_of_exactly_one_are_in_the_last_bin():
    logits = torch.tensor([[1000.0, 0]] * 4)
    assert _figures(logits, torch.tensor([0, 0, 0, 1]))["ece"] == pytest.approx(0.25)


def _drawn(images: int, seed: int):
    """Two models of the same images with a known posterior: one reports it, the other sharpens its own noisy view."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(images, K, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    other = 1.6 * (logits + 0.5 * torch.randn(images, K, generator=generator))
    return logits, other, targets


def _differences(images: int, seed: int, statistic):
    logits, other, targets = _drawn(images, seed)
    figures = [image_figures(model, model / 2, targets) for model in (other, logits)]
    return statistic(lambda counts: figures[0](counts) - figures[1](counts))


@pytest.mark.slow
def test_the_interval_over_images_covers_the_true_difference_but_of_an_ece_near_zero():
    images, trials = 800, 300
    truth = _differences(200_000, 1, lambda f: f(np.ones((1, 200_000)))[0])
    covered, by_percentiles = np.zeros(len(IMAGE_FIGURES)), np.zeros(len(IMAGE_FIGURES))
    for trial in range(trials):
        estimate, resampled = _differences(
            images,
            1000 + trial,
            lambda f, seed=trial: (f(np.ones((1, images)))[0], resample(f, images, resamples=400, seed=seed)),
        )
        low, high = bootstrap_interval(estimate, resampled)
        covered += (low <= truth) & (truth <= high)
        low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
        by_percentiles += (low <= truth) & (truth <= high)
    least, most = stats.binom.interval(0.999, trials, 0.95)
    found = dict(zip(IMAGE_FIGURES, covered, strict=True))
    ece = found.pop("ece")  # one of the two models is perfectly calibrated
    assert all(least <= count <= most for count in found.values()), found
    assert by_percentiles[IMAGE_FIGURES.index("ece")] < ece < least


def test_scaling_takes_out_a_factor_and_nothing_else(write_run):
    over, good = write_run("hard", 0, scale=3.0), write_run("ols", 0, scale=1.0)
    runs = load_runs([over, good], resamples=10)
    assert runs[0].temperature == pytest.approx(3 * runs[1].temperature, rel=1e-4)
    assert runs[0].figures["ece"] > runs[1].figures["ece"] + 0.05
    for name in ("nll_scaled", "ece_scaled", "aurc_scaled", "top1"):
        assert runs[0].figures[name] == pytest.approx(runs[1].figures[name], abs=1e-5)


def test_a_difference_that_is_there_is_found_in_its_direction(write_run):
    dirs = [write_run("hard", seed) for seed in range(6)]
    dirs += [write_run("ols", seed, strength=1.0) for seed in range(6)]
    runs = load_runs(dirs, resamples=400)
    found = {c.figure: c for c in compare_losses(runs)}
    assert list(found) == list(IMAGE_FIGURES)
    top1 = found["top1"]
    mean = {run.loss: [] for run in runs}
    for run in runs:
        mean[run.loss].append(run.figures["top1"])
    assert top1.difference == pytest.approx(np.mean(mean["ols"]) - np.mean(mean["hard"]))
    assert top1.low < top1.difference < top1.high < -0.05
    assert top1.p_images < 0.05
    assert top1.p_seeds == 0.03125
    assert found["nll"].low > 0
    assert found["aurc"].low > 0


def test_the_same_predictions_under_another_name_differ_in_nothing(write_run):
    runs = load_runs([write_run(loss, seed) for loss in ("hard", "ols") for seed in (0, 1)], resamples=50)
    for c in compare_losses(runs):
        assert (c.difference, c.low, c.high, c.p_images, c.p_seeds) == (0, 0, 0, 1, 1), c.figure


def test_p_values_are_adjusted_over_the_losses_of_a_figure(write_run):
    dirs = [write_run("hard", seed) for seed in range(6)]
    dirs += [write_run("ols", seed, strength=1.0) for seed in range(6)]
    dirs += [write_run("max_sup", seed, strength=1.1) for seed in range(6)]
    one = compare_losses(load_runs(dirs[:12], resamples=400))
    two = compare_losses(load_runs(dirs, resamples=400))
    by_loss = {(c.figure, c.loss): c for c in two}
    assert one[0].p_seeds == 0.03125
    assert by_loss["top1", "ols"].p_seeds == by_loss["top1", "max_sup"].p_seeds == 0.0625
    assert by_loss["top1", "ols"].p_images == pytest.approx(2 * one[0].p_images)


def test_only_seeds_that_both_have_are_paired(write_run):
    dirs = [write_run("hard", seed) for seed in (0, 1, 2)] + [
        write_run("ols", seed, strength=1.0) for seed in (1, 2, 3)
    ]
    runs = load_runs(dirs, resamples=10)
    (top1,) = (c for c in compare_losses(runs) if c.figure == "top1")
    value = {(run.loss, run.seed): run.figures["top1"] for run in runs}
    assert top1.seeds == 2
    assert top1.difference == pytest.approx(sum(value["ols", s] - value["hard", s] for s in (1, 2)) / 2)
    with pytest.raises(ValueError, match="ols shares no seed with hard"):
        compare_losses([run for run in runs if (run.loss, run.seed) in {("hard", 0), ("ols", 3)}])


def test_the_reference_is_hard_or_what_is_asked_for(write_run):
    runs = load_runs([write_run(loss, 0) for loss in ("ols", "hard", "max_sup")], resamples=10)
    assert {c.reference for c in compare_losses(runs)} == {"hard"}
    assert {c.loss for c in compare_losses(runs, "ols")} == {"hard", "max_sup"}
    assert {c.reference for c in compare_losses([runs[0], runs[2]])} == {"ols"}
    with pytest.raises(ValueError, match="no loss 'old' among these runs: ols, hard, max_sup"):
        compare_losses(runs, "old")


def test_one_seed_works_and_says_nothing_of_seeds(write_run):
    runs = load_runs([write_run("hard", 0), write_run("ols", 0, strength=1.0)], resamples=100)
    (summary, _) = summarise(runs)
    assert math.isnan(summary.deviation["top1"])
    comparisons = compare_losses(runs)
    assert all(math.isnan(c.p_seeds) for c in comparisons)
    text = markdown([*summarise(runs)], comparisons, "")
    assert "With one seed nothing can be said of other seeds." in text
    assert "over seeds Holm" not in text
    assert "nan" not in text


def test_the_words_name_the_floor_and_follow_the_tests(write_run):
    dirs = [write_run("hard", seed) for seed in range(5)]
    dirs += [write_run("ols", seed, strength=1.0) for seed in range(5)]
    dirs += [write_run("max_sup", seed) for seed in range(5)]
    runs = load_runs(dirs, resamples=400)
    comparisons = compare_losses(runs)
    text = markdown(summarise(runs), comparisons, "conditions")
    assert "With 5 seeds no p over seeds below 0.062 is possible" in text
    assert "the smallest of 2 is not below 0.12 when adjusted: nothing can be shown of other seeds." in text
    (shown,) = (s for s in sentences([c for c in comparisons if c.loss == "ols"]) if "Top-1" in s)
    assert shown.startswith(
        "Shown for other images, not shown for other seeds: ols has lower (worse) Top-1 (difference -"
    )
    (same,) = sentences([c for c in comparisons if c.loss == "max_sup"])
    assert same.startswith("Not shown, neither for other images nor for other seeds: max_sup has no other Top-1")


def test_the_csv_files_hold_what_the_table_prints(write_run, tmp_path):
    runs = load_runs([write_run(loss, seed) for loss in ("hard", "ols") for seed in (0, 1, 2)], resamples=50)
    write_report(tmp_path / "out", runs, summarise(runs), compare_losses(runs), "conditions")
    with (tmp_path / "out" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    values = [float(row["nll"]) for row in rows if row["loss"] == "ols"]
    mean, deviation = np.mean(values), np.std(values, ddof=1)
    text = (tmp_path / "out" / "comparison.md").read_text()
    assert f"{mean:.4f} ± {deviation:.4f}" in text
    with (tmp_path / "out" / "comparisons.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(IMAGE_FIGURES)
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("override", "key", "values"),
    [
        ("--train.epochs=12", "train.epochs", "6 (a), 12 (b)"),
        ("--optim.peak_lr=0.3", "optim.peak_lr", "0.1 (a), 0.3 (b)"),
        ("--model.name=resnet18", "model.name", "'test_resnet' (a), 'resnet18' (b)"),
        ("--data.class_weights=inverse", "data.class_weights", "'none' (a), 'inverse' (b)"),
    ],
)
def test_runs_that_differ_in_more_than_loss_and_seed_are_refused_by_name(write_run, override, key, values):
    dirs = [write_run("hard", 0, name="a"), write_run("ols", 0, override, name="b")]
    with pytest.raises(ValueError, match="differ in more than loss and seed") as error:
        load_runs(dirs)
    assert f"  {key}: {values}" in str(error.value)
    assert len(load_runs(dirs, allow=[key], resamples=10)) == 2


def test_what_does_not_matter_for_results_may_differ(write_run):
    other = write_run("ols", 0, "--data.root=elsewhere", "--data.workers=3", "--train.keep_last=2")
    assert len(load_runs([write_run("hard", 0), other], resamples=10)) == 2


def test_architectures_are_compared_within_themselves(write_run):
    dirs = [
        write_run(loss, 0, f"--model.name={model}", name=f"{loss}-{model}")
        for loss in ("hard", "ols")
        for model in ("resnet18", "resnet34")
    ]
    comparisons = compare_losses(load_runs(dirs, allow=["model"], resamples=10))
    assert {(c.architecture, c.loss, c.reference) for c in comparisons} == {
        ("resnet18", "ols", "hard"),
        ("resnet34", "ols", "hard"),
    }


def test_losses_of_one_name_are_told_apart_by_what_differs(write_run):
    configs = [
        {"loss.name": "hard", "optim.peak_lr": 0.1},
        {"loss.name": "ols", "loss.hard_weight": 0.5, "loss.momentum": 0.0, "optim.peak_lr": 0.1},
        {"loss.name": "ols", "loss.hard_weight": 0.3, "loss.momentum": 0.0, "optim.peak_lr": 0.1},
    ]
    assert loss_labels(configs) == ["hard", "ols hard_weight=0.5", "ols hard_weight=0.3"]
    configs[2] |= {"loss.hard_weight": 0.5, "optim.peak_lr": 0.2}
    assert loss_labels(configs, allow=["optim"]) == ["hard", "ols optim.peak_lr=0.1", "ols optim.peak_lr=0.2"]


def test_the_null_of_an_ece_is_what_drawing_labels_from_the_predictions_gives(write_run):
    run = load_runs([write_run("hard", 0, scale=2.0)], resamples=5)[0]
    probs = _logits("test", strength=1.5, scale=2.0, seed=0)[0].double().softmax(1)
    drawn = []
    for labels in torch.multinomial(probs, 300, replacement=True, generator=torch.Generator().manual_seed(0)).T:
        histogram = CalibrationHistogram()
        histogram.update(probs.log(), labels)
        drawn.append(histogram.compute()["ece"].item())
    assert run.nulls["ece"] == pytest.approx(np.mean(drawn), rel=0.1)
    assert run.nulls["ece"] < run.figures["ece"]
    assert f"(null {run.nulls['ece']:.4f})" in markdown(summarise([run]), [], "")


def test_features_are_compared_over_seeds_where_all_runs_have_them(write_run):
    dirs = [write_run("hard", seed, features=True) for seed in range(6)]
    dirs += [write_run("ols", seed, strength=1.0, features=True) for seed in range(6)]
    runs = load_runs(dirs, resamples=20)
    for run in runs[::6]:
        logits, targets = _logits("test", strength=1.5 if run.loss == "hard" else 1.0, scale=1, seed=0)
        assert run.figures["silhouette"] == pytest.approx(silhouette_score(logits[:, :5], targets), abs=1e-5)
    found = {c.figure: c for c in compare_losses(runs)}
    assert list(found) == [name for name in FIGURES if not name.startswith(("posterior", "confidence"))]
    assert found["silhouette"].difference < 0
    assert found["silhouette"].p_seeds == 0.03125
    assert math.isnan(found["silhouette"].p_images)
    text = markdown(summarise(runs), list(found.values()), "")
    assert "Shown for other seeds: ols has lower (worse) class separation" in text
    assert "nan" not in text
    with pytest.raises(ValueError, match="max_sup-seed0 has none"):
        load_runs([*dirs, write_run("max_sup", 0)], resamples=20)


def test_other_test_images_are_refused(write_run):
    dirs = [write_run("hard", 0), write_run("ols", 0, ids=[f"other/{i}.png" for i in range(600)])]
    with pytest.raises(ValueError, match="were tested on different sample ids"):
        load_runs(dirs)


def test_one_run_twice_is_refused(write_run):
    with pytest.raises(ValueError, match="2 runs of hard, test_resnet, seed 0"):
        load_runs([write_run("hard", 0, name="a"), write_run("hard", 0, name="b")])


def test_logits_that_are_not_finite_are_refused(write_run):
    run_dir = write_run("hard", 0)
    logits, targets = _logits("test", strength=1, scale=1, seed=0)
    logits[3, 2] = math.nan
    names = [str(i) for i in range(600)]
    broken = Predictions(logits, targets, torch.arange(600), names, list("abcdefg"), ["group"] * K)
    save_predictions(run_dir / "evaluation" / "test.safetensors", broken)
    with pytest.raises(ValueError, match="1 test images have logits that are not finite"):
        load_runs([run_dir])


def test_a_run_without_predictions_is_refused_with_the_command_that_writes_them(write_run):
    dirs = [write_run("hard", 0), write_run("ols", 0, only=["val"]), write_run("max_sup", 0, only=[])]
    with pytest.raises(FileNotFoundError) as error:
        load_runs(dirs)
    assert str(error.value).endswith(f"python recipes/evaluate.py {dirs[1]} {dirs[2]}")


def test_the_command_prints_and_writes_the_report(write_run, tmp_path):
    runs = [write_run("hard", 0), write_run("max_sup", 0)]
    command = [sys.executable, ROOT / "recipes" / "compare.py", *runs, "--reference", "max_sup", "--output", "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "## Differences from max_sup" in done.stdout
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"comparison.md", "comparison.png", "runs.csv", "losses.csv", "comparisons.csv"}


def test_runs_on_phantoms_whose_readers_disagree_are_compared_with_the_truth(tmp_path):
    overrides = ["--phantoms.reader_noise=1", "--phantoms.num_train=700", "--phantoms.num_test=80"]
    dirs = []
    for loss, seed in itertools.product(("hard", "ols"), (0, 1)):
        run_dir = tmp_path / f"{loss}-{seed}"
        config = parse_config(QUICKSTART, [f"--loss.name={loss}", f"--seed={seed}", f"--run_dir={run_dir}", *overrides])
        run_dir.mkdir()
        (run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
        for split in ("val", "test"):
            confusion, latent = map(torch.from_numpy, known_posterior(config.phantoms, split))
            truth = confusion[latent]
            targets = torch.multinomial(truth, 1, generator=torch.Generator().manual_seed(0)).squeeze(1)
            logits = (truth if loss == "hard" else truth.square()).clamp_min(1e-30).log()
            names = [str(index) for index in range(len(latent))]
            tensors = (
                logits,
                targets,
                torch.arange(len(latent)),
                names,
                ["c"] * len(confusion),
                ["g"] * len(confusion),
            )
            save_predictions(run_dir / "evaluation" / f"{split}.safetensors", Predictions(*tensors))
        dirs.append(run_dir)
    truth = truth.numpy()
    sharpened = truth**2 / (truth**2).sum(1, keepdims=True)
    runs = load_runs(dirs, resamples=10)
    assert runs[0].figures["posterior_kl"] == pytest.approx(0, abs=1e-9)
    assert runs[0].figures["confidence_error"] == pytest.approx(0, abs=1e-9)
    assert runs[2].figures["posterior_kl"] == pytest.approx(stats.entropy(truth, sharpened, axis=1).mean())
    assert runs[2].figures["confidence_error"] == pytest.approx((sharpened.max(1) - truth.max(1)).mean())
    assert "confidence less truth" in markdown(summarise(runs), compare_losses(runs), "")
