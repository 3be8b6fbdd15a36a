"""Runs with the measures of their test images, read from what they have written."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ols.config import Config
from ols.evaluation.predictions import Predictions, load_predictions
from ols.metrics.arguments import usable_rows
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.calibration_noise import ece_noise
from ols.metrics.embeddings import embedding_metrics
from ols.metrics.measures import MEASURES
from ols.metrics.posterior import posterior_calibration
from ols.metrics.resampling import resample
from ols.metrics.scaling import TemperatureScaling, possible_rows
from ols.metrics.weighted import weighted_measures
from ols.phantoms import known_posterior
from ols.runs.folder import RunFolder, flat_config
from ols.studies.labels import LOSS, MODEL, SEED, axis_labels, check_comparable, is_within

RESAMPLES = 2000
OF_IMAGES = ("top1", "top5", "balanced_accuracy", "nll", "ece", "aurc")
OF_FEATURES = ("inter_class_separation", "silhouette", "knn_accuracy")
OF_POSTERIOR = ("posterior_kl", "confidence_error")
# Measures of single images, which can be drawn anew, raw beside scaled.
IMAGE_MEASURES = tuple(
    key for name in OF_IMAGES for key in (name, f"{name}_scaled") if key == name or MEASURES[name].scaled is False
)


@dataclass(frozen=True)
class EvaluatedRun:
    """A run and its measures on the test split.

    Args:
        run_dir: Folder.
        axis: Name of the axis that runs are compared along, such as `loss`.
        label: Its label on that axis, among the runs that it was loaded with.
        setting: Its labels on the other axes, by their names; runs are compared within each setting.
        seed: Seed, by which runs are paired.
        temperature: Fitted on the validation images whose class is not masked.
        measures: By names of `ols.metrics.measures.MEASURES`.
        resampled: Those of `IMAGE_MEASURES`, on each resample of the test images `[R]`.
        nulls: What a perfectly calibrated model with the same confidences would show, by names of ECEs.
        test_images: Their number.
    """

    run_dir: Path
    axis: str
    label: str
    setting: dict[str, str]
    seed: int
    temperature: float
    measures: dict[str, float]
    resampled: dict[str, NDArray]
    nulls: dict[str, float]
    test_images: int


def load_runs(
    run_dirs: Sequence[Path],
    *,
    along: Sequence[str] = (LOSS,),
    within: Sequence[str] = (),
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> list[EvaluatedRun]:
    """Read runs that may be compared, and compute their measures.

    Args:
        run_dirs: Folders of runs, with predictions of both splits.
        along: Sections and dotted keys of the configuration that make the axis to compare along; it is called by the
            first of them.
        within: Sections and dotted keys, each an axis of its own, that may differ as well: runs are compared within
            each of their combinations. The loss is one of them where it is not compared.
        resamples: Resamples of the test images: the same for all runs.
        seed: Of the resamples.

    Raises:
        FileNotFoundError: Something was not evaluated; the message names the runs.
        ValueError: Runs differ in what may not differ, or in their test images, or two are the same but for their
            folder, or logits are not finite. The message names keys and values.
    """
    if not run_dirs:
        raise ValueError("no runs")
    configs = [RunFolder(run_dir).load_config() for run_dir in run_dirs]
    labels, settings = _place(run_dirs, configs, along, within)
    missing = [run_dir for run_dir in run_dirs if not all(path.is_file() for path in _predictions(run_dir))]
    if missing:
        raise FileNotFoundError(
            "these runs have no predictions of both splits; evaluate them first: " + " ".join(map(str, missing))
        )
    runs, first = [], None
    for run_dir, config, label, setting in zip(run_dirs, configs, labels, settings, strict=True):
        val, test = (load_predictions(path) for path in _predictions(run_dir))
        for predictions, split in ((val, "val"), (test, "test")):
            if lacking := int((~usable_rows(predictions.logits)).sum()):
                raise ValueError(f"{run_dir}: {lacking} {split} images have logits that give no probabilities")
        first = first or (run_dir, test)
        _check_same_images(*first, run_dir, test)
        try:
            fitted = possible_rows(val.logits, val.targets)
            scaling = TemperatureScaling().fit(val.logits[fitted], val.targets[fitted])
        except ValueError as error:
            raise ValueError(f"{run_dir}, temperature on val: {error}") from error
        scaled = scaling(test.logits)
        count = len(test.targets)
        statistic = image_statistic(test.logits, scaled, test.targets)
        measures = dict(zip(IMAGE_MEASURES, statistic(np.ones((1, count)))[0].tolist(), strict=True))
        resampled = resample(statistic, count, resamples=resamples, seed=seed)
        if test.features is not None:
            of_features = embedding_metrics(test.features, test.targets)
            measures |= {name: of_features[name] for name in OF_FEATURES}
        measures |= _measure_against_truth(config, test, scaled)
        nulls = {"ece": _ece_null(test.logits, test.targets), "ece_scaled": _ece_null(scaled, test.targets)}
        runs.append(
            EvaluatedRun(
                run_dir=run_dir,
                axis=along[0],
                label=label,
                setting=setting,
                seed=config.seed,
                temperature=scaling.temperature,
                measures=measures,
                resampled=dict(zip(IMAGE_MEASURES, resampled.T, strict=True)),
                nulls=nulls,
                test_images=count,
            )
        )
    if len({len(run.measures) for run in runs}) > 1:
        without = min(runs, key=lambda run: len(run.measures)).run_dir
        raise ValueError(f"some runs have features and {without} has none; evaluate it again")
    return runs


def _place(
    run_dirs: Sequence[Path], configs: Sequence[Config], along: Sequence[str], others: Sequence[str]
) -> tuple[list[str], list[dict[str, str]]]:
    """Return each run's label on the axis that is compared along, and its labels on the others by their names."""
    _check_axes(along, others)
    flat = [flat_config(config) for config in configs]
    taken = [*along, *others]
    always = [key for key in (MODEL, LOSS) if not any(is_within(other, [key]) for other in taken)]
    check_comparable(run_dirs, flat, allowed=[*along, *(key for key in always if key == LOSS), *others])
    labels = axis_labels(flat, along)
    columns = {name: axis_labels(flat, [name]) for name in (*always, *others)}
    settings = [{name: column[index] for name, column in columns.items()} for index in range(len(flat))]
    placed = zip(labels, settings, configs, strict=True)
    same = Counter(((label, *setting.values()), config.seed) for label, setting, config in placed)
    for (what, seed), count in same.items():
        if count > 1:
            raise ValueError(f"{count} runs of {', '.join(filter(None, what))}, seed {seed}")
    return labels, settings


def _check_axes(along: Sequence[str], others: Sequence[str]) -> None:
    if not along:
        raise ValueError("along which axis? it is empty")
    if SEED in (*along, *others):
        raise ValueError("seeds are no axis of a comparison: runs are paired by them")
    for key in others:
        if is_within(key, along) or any(is_within(other, [key]) for other in along):
            raise ValueError(f"{key} cannot be compared along ({', '.join(along)}) and within at once")


def image_statistic(logits: Tensor, scaled: Tensor, targets: Tensor) -> Callable[[NDArray], NDArray]:
    """Return a function from how often each image counts, float64 `[R, N]`, to `IMAGE_MEASURES`, `[R, 9]`.

    Args:
        logits: Logits `[N, K]`.
        scaled: The same divided by a temperature `[N, K]`.
        targets: Class indices `[N]`.
    """
    changed = [name for name in OF_IMAGES if MEASURES[name].scaled is False]
    measures = weighted_measures(logits, targets, OF_IMAGES)
    measures |= {f"{name}_scaled": measure for name, measure in weighted_measures(scaled, targets, changed).items()}
    return lambda counts: np.stack([measures[name](counts) for name in IMAGE_MEASURES], axis=1)


def _measure_against_truth(config: Config, test: Predictions, scaled: Tensor) -> dict[str, float]:
    """Return how far predictions are from the true P(label | image), which phantoms with several readers have."""
    if not config.data.phantoms or not config.phantoms.reader_noise:
        return {}
    posterior, latent = map(torch.from_numpy, known_posterior(config.phantoms, "test"))
    found: dict[str, float] = {}
    for suffix, logits in (("", test.logits), ("_scaled", scaled)):
        truth = posterior_calibration(logits, posterior, latent=latent[test.indices])
        found |= {f"{name}{suffix}": truth[name] for name in OF_POSTERIOR}
    return {name: found[name] for of in OF_POSTERIOR for name in (of, f"{of}_scaled")}


def _ece_null(logits: Tensor, targets: Tensor) -> float:
    """Return the ECE that a perfectly calibrated model would show on these confidences, by chance alone."""
    histogram = CalibrationHistogram()
    histogram.update(logits, targets)
    return ece_noise(histogram.bins)["ece_null"].item()


def _predictions(run_dir: Path) -> tuple[Path, Path]:
    folder = RunFolder(run_dir)
    return folder.predictions("val"), folder.predictions("test")


def _check_same_images(first_dir: Path, first: Predictions, run_dir: Path, test: Predictions) -> None:
    """Make sure that two runs were tested on the same images, in the same order, with the same labels."""
    for what in ("classes", "sample_ids"):
        if getattr(first, what) != getattr(test, what):
            raise ValueError(f"{first_dir} and {run_dir} were tested on different {what.replace('_', ' ')}")
    if not torch.equal(first.targets, test.targets):
        raise ValueError(f"{first_dir} and {run_dir} were tested with different labels of the same images")
