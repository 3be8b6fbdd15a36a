import itertools
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from sklearn.metrics import silhouette_score

from ols.command_line import parse_config
from ols.evaluation.predictions import Predictions, load_predictions, save_predictions
from ols.metrics.resampling import bootstrap_interval, resample
from ols.metrics.weighted import weighted_measures
from ols.phantoms import known_posterior
from ols.studies.comparison import compare_runs, summarise
from ols.studies.evaluated_runs import IMAGE_MEASURES, image_statistic, load_runs

QUICKSTART = Path(__file__).parents[2] / "recipes" / "configs" / "quickstart.yaml"
K = 7  # classes of the runs that `write_run` writes


def _drawn(images: int, seed: int):
    """Two models of the same images with a known posterior: one reports it, the other sharpens its own noisy view."""
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(images, K, generator=generator)
    targets = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    other = 1.6 * (logits + 0.5 * torch.randn(images, K, generator=generator))
    return logits, other, targets


def _differences(images: int, seed: int, statistic):
    logits, other, targets = _drawn(images, seed)
    statistics = [image_statistic(model, model / 2, targets) for model in (other, logits)]
    return statistic(lambda counts: statistics[0](counts) - statistics[1](counts))


@pytest.mark.slow
def test_the_interval_over_images_covers_the_true_difference_but_of_an_ece_near_zero():
    images, trials = 800, 300
    truth = _differences(200_000, 1, lambda f: f(np.ones((1, 200_000)))[0])
    covered, by_percentiles = np.zeros(len(IMAGE_MEASURES)), np.zeros(len(IMAGE_MEASURES))
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
    found = dict(zip(IMAGE_MEASURES, covered, strict=True))
    ece = found.pop("ece")  # one of the two models is perfectly calibrated
    assert all(least <= count <= most for count in found.values()), found
    assert by_percentiles[IMAGE_MEASURES.index("ece")] < ece < least


def test_scaling_takes_out_a_factor_and_nothing_else(write_run):
    over, good = write_run("hard", 0, scale=3.0), write_run("ols", 0, scale=1.0)
    runs = load_runs([over, good], resamples=10)
    assert runs[0].temperature == pytest.approx(3 * runs[1].temperature, rel=1e-4)
    assert runs[0].measures["ece"] > runs[1].measures["ece"] + 0.05
    for name in ("nll_scaled", "ece_scaled", "aurc_scaled", "top1"):
        assert runs[0].measures[name] == pytest.approx(runs[1].measures[name], abs=1e-5)


def test_the_null_of_an_ece_is_what_drawing_labels_from_the_predictions_gives(write_run):
    (run,) = load_runs([write_run("hard", 0, scale=2.0)], resamples=5)
    logits, _ = write_run.logits("test", strength=1.5, scale=2.0, seed=0)
    probs = logits.double().softmax(1)
    draws = torch.multinomial(probs, 300, replacement=True, generator=torch.Generator().manual_seed(0)).T
    once = np.ones((1, len(probs)))
    drawn = [weighted_measures(probs.log(), labels, ["ece"])["ece"](once)[0] for labels in draws]
    assert run.nulls["ece"] == pytest.approx(np.mean(drawn), rel=0.1)
    assert run.nulls["ece"] < run.measures["ece"]


def test_features_are_measured_where_all_runs_have_them(write_run):
    dirs = [write_run("hard", 0, features=True), write_run("ols", 0, features=True)]
    logits, targets = write_run.logits("test", strength=1.5, scale=1, seed=0)
    runs = load_runs(dirs, resamples=5)
    assert list(runs[0].measures) == [*IMAGE_MEASURES, "inter_class_separation", "silhouette", "knn_accuracy"]
    assert runs[0].measures["silhouette"] == pytest.approx(silhouette_score(logits[:, :5], targets), abs=1e-5)
    with pytest.raises(ValueError, match="max_sup-seed0 has none"):
        load_runs([*dirs, write_run("max_sup", 0)], resamples=5)


def test_what_does_not_matter_for_results_may_differ_and_all_else_must_be_named(write_run):
    dirs = [
        write_run("hard", 0, "--data.root=elsewhere", "--data.workers=3", "--train.keep_last=3"),
        write_run("ols", 0),
        write_run("max_sup", 0, "--optim.peak_lr=0.3"),
    ]
    with pytest.raises(ValueError, match=r"optim.peak_lr: 0.1 \(hard-seed0\), 0.3 \(max_sup-seed0\)"):
        load_runs(dirs)
    with pytest.raises(ValueError, match=r"differ in more than optim\.peak_lr, loss and seed"):
        load_runs([*dirs, write_run("hard", 1, "--train.epochs=2", only=[])], along=["optim.peak_lr"])
    runs = load_runs(dirs, within=["optim.peak_lr"], resamples=5)
    assert [(run.axis, run.label, run.setting) for run in runs] == [
        ("loss", loss, {"model": "test_resnet", "optim.peak_lr": rate})
        for loss, rate in (("hard", "0.1"), ("ols", "0.1"), ("max_sup", "0.3"))
    ]


@pytest.mark.parametrize(
    ("along", "within", "message"),
    [
        (["seed"], [], "seeds are no axis"),
        (["loss"], ["seed"], "seeds are no axis"),
        (["loss"], ["loss.smoothing"], r"loss.smoothing cannot be compared along \(loss\) and within"),
        (["model.name"], ["model"], "model cannot be compared along"),
        ([], [], "along which axis"),
    ],
)
def test_axes_that_make_no_comparison_are_refused(write_run, along, within, message):
    with pytest.raises(ValueError, match=message):
        load_runs([write_run("hard", 0, only=[])], along=along, within=within)


def test_other_test_images_are_refused(write_run):
    dirs = [write_run("hard", 0), write_run("ols", 0, ids=[f"other/{i}.png" for i in range(600)])]
    with pytest.raises(ValueError, match="were tested on different sample ids"):
        load_runs(dirs)


def test_one_run_twice_is_refused(write_run):
    with pytest.raises(ValueError, match="2 runs of hard, test_resnet, seed 0"):
        load_runs([write_run("hard", 0, name="a"), write_run("hard", 0, name="b")])


def test_logits_that_are_not_finite_are_refused(write_run):
    run_dir = write_run("hard", 0)
    logits, targets = write_run.logits("test", strength=1, scale=1, seed=0)
    logits[3, 2] = math.nan
    names = [str(i) for i in range(600)]
    broken = Predictions(logits, targets, torch.arange(600), names, names, list("abcdefg"), ["group"] * K, "multiclass")
    save_predictions(run_dir / "evaluation" / "test.safetensors", broken)
    with pytest.raises(ValueError, match="1 test images have logits that give no probabilities"):
        load_runs([run_dir])


def test_runs_without_predictions_are_refused_by_name(write_run):
    dirs = [write_run("hard", 0), write_run("ols", 0, only=["val"]), write_run("max_sup", 0, only=[])]
    with pytest.raises(FileNotFoundError) as error:
        load_runs(dirs)
    assert str(error.value).endswith(f"evaluate them first: {dirs[1]} {dirs[2]}")


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
                names,
                ["c"] * len(confusion),
                ["g"] * len(confusion),
                "multiclass",
            )
            save_predictions(run_dir / "evaluation" / f"{split}.safetensors", Predictions(*tensors))
        dirs.append(run_dir)
    truth = truth.numpy()
    sharpened = truth**2 / (truth**2).sum(1, keepdims=True)
    runs = load_runs(dirs, resamples=10)
    assert runs[0].measures["posterior_kl"] == pytest.approx(0, abs=1e-9)
    assert runs[0].measures["confidence_error"] == pytest.approx(0, abs=1e-9)
    assert runs[2].measures["posterior_kl"] == pytest.approx(stats.entropy(truth, sharpened, axis=1).mean())
    assert runs[2].measures["confidence_error"] == pytest.approx((sharpened.max(1) - truth.max(1)).mean())


def test_runs_that_mask_classes_are_measured_and_an_infinite_nll_is_no_difference(write_run):
    dirs = [write_run(loss, seed) for loss in ("hard", "ols") for seed in (0, 1)]
    for split in ("val", "test"):
        path = dirs[0] / "evaluation" / f"{split}.safetensors"
        before = load_predictions(path)
        logits = before.logits.clone()
        logits[0, before.targets[0]] = logits[1, (before.targets[1] + 1) % K] = -math.inf
        save_predictions(path, replace(before, logits=logits))
    runs = load_runs(dirs, resamples=50)
    first = runs[0]
    assert first.measures["nll"] == math.inf
    assert math.isfinite(first.temperature)
    counted = first.resampled["nll"]
    assert not np.isnan(counted).any()
    assert 0 < np.isinf(counted).mean() < 1  # in some resamples the image does not occur
    (compared,) = [found for found in compare_runs(runs) if found.measure == "nll"]
    assert math.isnan(compared.difference)
    assert all(math.isfinite(found.difference) for found in compare_runs(runs) if found.measure == "top1")
    assert {found.label: found.mean["nll"] for found in summarise(runs)}["hard"] == math.inf
