"""Runs that differ in loss and seed, side by side: figures of each, and tests of their differences.

Two things make a difference uncertain, and each has its own test. Images: the same networks on other images of the
same kind, by a bootstrap that draws the images anew and takes all runs with them. Seeds: other networks trained in the
same way, by flipping signs of the differences of pairs that share a seed.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ols.evaluation.predictions import Predictions, load_predictions
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.calibration_noise import ece_noise
from ols.metrics.embeddings import embedding_metrics
from ols.metrics.posterior import posterior_calibration
from ols.metrics.resampling import bootstrap_interval, bootstrap_p, holm, resample, sign_flip_test
from ols.metrics.scaling import TemperatureScaling
from ols.phantoms import PhantomConfig, known_posterior
from ols.runs.folder import FREE_KEYS, RunFolder, flat_config

ECE_BINS = 15
RESAMPLES = 2000
NOT_FOR_RESULTS = FREE_KEYS | {"run_dir", "seed"}


@dataclass(frozen=True)
class Figure:
    """A number that runs are compared by.

    Args:
        name: Name in tables.
        higher_is_better: Which way is better.
        percent: Whether it is a fraction that is printed in percent.
        scaled: Whether it is taken after temperature scaling; None where scaling does not change it.
    """

    name: str
    higher_is_better: bool
    percent: bool = False
    scaled: bool | None = None


FIGURES = {
    "top1": Figure("Top-1", True, percent=True),
    "top5": Figure("Top-5", True, percent=True),
    "balanced_accuracy": Figure("balanced accuracy", True, percent=True),
    "nll": Figure("NLL", False, scaled=False),
    "nll_scaled": Figure("NLL, scaled", False, scaled=True),
    "ece": Figure("ECE-15", False, scaled=False),
    "ece_scaled": Figure("ECE-15, scaled", False, scaled=True),
    "aurc": Figure("AURC", False, scaled=False),
    "aurc_scaled": Figure("AURC, scaled", False, scaled=True),
}
IMAGE_FIGURES = tuple(FIGURES)  # of single images, which can be drawn anew
FIGURES |= {  # of the penultimate features, where they were saved
    "inter_class_separation": Figure("class separation", True),
    "silhouette": Figure("silhouette", True),
    "knn_accuracy": Figure("kNN accuracy", True, percent=True),
}
FIGURES |= {  # against the true posterior, where phantoms have one
    "posterior_kl": Figure("KL from the truth", False, scaled=False),
    "posterior_kl_scaled": Figure("KL from the truth, scaled", False, scaled=True),
    "confidence_error": Figure("confidence less truth, absolute", False, scaled=False),
    "confidence_error_scaled": Figure("confidence less truth, absolute, scaled", False, scaled=True),
}


@dataclass(frozen=True)
class EvaluatedRun:
    """A run and its figures on the test split.

    Args:
        run_dir: Folder.
        config: Configuration by dotted keys.
        loss: Label of the loss, among the runs that it was loaded with.
        temperature: Fitted on the validation split.
        figures: By keys of `FIGURES`.
        resampled: Those that images can be drawn anew for, on each resample of the test images `[R]`.
        nulls: What a perfectly calibrated model with the same confidences would show, by keys of ECEs.
        test_images: Their number.
    """

    run_dir: Path
    config: dict[str, Any]
    loss: str
    temperature: float
    figures: dict[str, float]
    resampled: dict[str, NDArray]
    nulls: dict[str, float]
    test_images: int

    @property
    def architecture(self) -> str:
        """The architecture."""
        return self.config["model.name"]

    @property
    def seed(self) -> int:
        """The seed."""
        return self.config["seed"]


@dataclass(frozen=True)
class Summary:
    """A figure over the seeds of a loss.

    Args:
        architecture: Architecture.
        loss: Label of the loss.
        seeds: Number of seeds.
        mean: Mean of each figure, of the temperature, and of the nulls as `ece_null` and `ece_scaled_null`.
        deviation: Standard deviation of each, with n - 1; NaN for a single seed.
    """

    architecture: str
    loss: str
    seeds: int
    mean: dict[str, float]
    deviation: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """A loss less the reference, in one figure.

    Args:
        architecture: Architecture.
        figure: Key of `FIGURES`.
        loss: Label of the loss.
        reference: Label of the loss that it is compared with.
        seeds: Number of seeds that both have.
        difference: Mean over these seeds of loss less reference.
        low: Lower end of the 95 % interval over images.
        high: Upper end.
        p_images: p over images, adjusted by Holm over the losses compared in this figure.
        p_seeds: p over seeds, adjusted likewise; NaN with less than two seeds.
    """

    architecture: str
    figure: str
    loss: str
    reference: str
    seeds: int
    difference: float
    low: float
    high: float
    p_images: float
    p_seeds: float


def load_runs(
    run_dirs: Sequence[Path], *, allow: Collection[str] = (), resamples: int = RESAMPLES, seed: int = 0
) -> list[EvaluatedRun]:
    """Read runs that may be compared, and compute their figures.

    Args:
        run_dirs: Folders of runs, with predictions of both splits.
        allow: Dotted keys that may differ beside the loss and the seed; `model` allows all of `model.*`. They count
            as part of the loss, but for the architecture, within which losses are compared.
        resamples: Resamples of the test images: the same for all runs.
        seed: Of the resamples.

    Raises:
        FileNotFoundError: Something was not evaluated; the message has the command.
        ValueError: Runs differ in what may not differ, or in their test images, or two are the same but for their
            folder, or logits are not finite. The message names keys and values.
    """
    if not run_dirs:
        raise ValueError("no runs")
    configs = [flat_config(RunFolder(run_dir).load_config()) for run_dir in run_dirs]
    check_comparable(run_dirs, configs, allow=allow)
    missing = [run_dir for run_dir in run_dirs if not all(map(Path.is_file, _predictions(run_dir)))]
    if missing:
        raise FileNotFoundError(
            "no predictions of these runs; write them with\n"
            f"python recipes/evaluate.py {' '.join(str(run_dir) for run_dir in missing)}"
        )
    labels = loss_labels(configs, allow=allow)
    same = Counter((label, config["model.name"], config["seed"]) for label, config in zip(labels, configs, strict=True))
    for (label, architecture, run_seed), count in same.items():
        if count > 1:
            raise ValueError(f"{count} runs of {label}, {architecture}, seed {run_seed}")
    runs, first = [], None
    for run_dir, config, label in zip(run_dirs, configs, labels, strict=True):
        val, test = (load_predictions(path) for path in _predictions(run_dir))
        for predictions, split in ((val, "val"), (test, "test")):
            if lacking := int((~predictions.logits.isfinite().all(dim=1)).sum()):
                raise ValueError(f"{run_dir}: {lacking} {split} images have logits that are not finite")
        first = first or (run_dir, test)
        _check_same_images(*first, run_dir, test)
        try:
            scaling = TemperatureScaling().fit(val.logits, val.targets)
        except ValueError as error:
            raise ValueError(f"{run_dir}, temperature on val: {error}") from error
        statistic = image_figures(test.logits, scaling(test.logits), test.targets)
        figures = dict(zip(IMAGE_FIGURES, statistic(np.ones((1, len(test.targets))))[0].tolist(), strict=True))
        if test.features is not None:
            embedding = embedding_metrics(test.features, test.targets)
            figures |= {name: embedding[name] for name in FIGURES if name in embedding}
        figures |= posterior_figures(config, test, scaling(test.logits))
        resampled = resample(statistic, len(test.targets), resamples=resamples, seed=seed)
        resampled = dict(zip(IMAGE_FIGURES, resampled.T, strict=True))
        nulls = {"ece": ece_null(test.logits, test.targets), "ece_scaled": ece_null(scaling(test.logits), test.targets)}
        runs.append(
            EvaluatedRun(run_dir, config, label, scaling.temperature, figures, resampled, nulls, len(test.targets))
        )
    if len({len(run.figures) for run in runs}) > 1:
        without = min(runs, key=lambda run: len(run.figures)).run_dir
        raise ValueError(f"some runs have features and {without} has none; evaluate it again")
    return runs


def check_comparable(run_dirs: Sequence[Path], configs: Sequence[dict[str, Any]], *, allow: Collection[str]) -> None:
    """Make sure that runs differ in loss and seed alone, or in what is allowed.

    Raises:
        ValueError: They differ otherwise; the message has the keys, and each value with a run that has it.
    """
    lines = []
    for key in sorted(set().union(*configs)):
        if key in NOT_FOR_RESULTS or _within(key, ["loss", *allow]):
            continue
        examples: dict[str, Path] = {}
        for run_dir, config in zip(run_dirs, configs, strict=True):
            examples.setdefault(repr(config.get(key)), run_dir)
        if len(examples) > 1:
            values = ", ".join(f"{value} ({run_dir.name})" for value, run_dir in examples.items())
            lines.append(f"  {key}: {values}")
    if lines:
        raise ValueError(
            "these runs differ in more than loss and seed:\n" + "\n".join(lines) + "\n"
            "Leave out those that do not belong, or allow a difference with --allow KEY."
        )


def loss_labels(configs: Sequence[dict[str, Any]], *, allow: Collection[str] = ()) -> list[str]:
    """Return a label for the loss of each run: its name, and what tells it from others of that name."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for config in configs:
        by_name.setdefault(config["loss.name"], []).append(config)
    labels = []
    for config in configs:
        like = by_name[config["loss.name"]]
        keys = [key for key in sorted(set().union(*like)) if _within(key, ["loss", *allow]) and key != "model.name"]
        telling = [key for key in keys if len({repr(other.get(key)) for other in like}) > 1]
        labels.append(
            " ".join([config["loss.name"], *(f"{key.removeprefix('loss.')}={config.get(key)}" for key in telling)])
        )
    return labels


def image_figures(logits: Tensor, scaled_logits: Tensor, targets: Tensor) -> Callable[[NDArray], NDArray]:
    """Return a function from how often each image counts, float64 `[R, N]`, to `IMAGE_FIGURES`, `[R, 9]`.

    Conventions: Top-5 counts equal logits against the target; balanced accuracy is the mean recall of the classes that
    occur in a resample; ECE has 15 right-closed bins of equal width; AURC (Geifman et al. 2019) is the mean error
    of the k most confident images over k = 1..N, equal confidences in random order.

    Args:
        logits: Logits `[N, K]`.
        scaled_logits: The same after temperature scaling `[N, K]`.
        targets: Class indices `[N]`.
    """
    raw, scaled = logits.double(), scaled_logits.double()
    correct = (raw.argmax(1) == targets).double()
    as_high = (raw >= raw.gather(1, targets[:, None])).sum(1)  # the target itself is one
    one_hot = F.one_hot(targets, raw.shape[1]).double().numpy()  # [N, K]
    means = [correct.numpy(), (as_high <= 5).double().numpy()]
    columns = [_probability_columns(values, targets, correct) for values in (raw, scaled)]

    def figures(counts: NDArray) -> NDArray:
        total = counts.sum(1)
        of_class, right = counts @ one_hot, (counts * means[0]) @ one_hot
        recall = np.divide(right, of_class, out=np.zeros_like(right), where=of_class > 0)
        top1, top5 = (counts @ values / total for values in means)
        nlls, eces, aurcs = zip(*(column(counts) for column in columns), strict=True)
        return np.stack([top1, top5, recall.sum(1) / (of_class > 0).sum(1), *nlls, *eces, *aurcs], axis=1)

    return figures


def _probability_columns(logits: Tensor, targets: Tensor, correct: Tensor) -> Callable[[NDArray], tuple[NDArray, ...]]:
    """Return a function from counts `[R, N]` to NLL, ECE and AURC, `[R]` each."""
    log_probs = logits.log_softmax(1)
    nll = -log_probs.gather(1, targets[:, None]).squeeze(1).numpy()
    confidence = log_probs.amax(1).exp().clamp(max=1)
    bins = F.one_hot((confidence * ECE_BINS).ceil().long().sub(1).clamp(min=0), ECE_BINS).double()
    gaps = (bins * (confidence - correct)[:, None]).numpy()  # [N, 15]
    order = confidence.argsort(descending=True, stable=True).numpy()
    ranked = confidence.numpy()[order]
    starts = np.flatnonzero(np.diff(ranked, prepend=np.inf))  # of runs of equal confidence
    wrong = 1 - correct.numpy()[order]
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, len(order) + 1))])

    def figures(counts: NDArray) -> tuple[NDArray, ...]:
        total = counts.sum(1)
        # A run of m equal confidences with k errors after W images with E errors: sum over j = 1..m of
        # (E + j k / m) / (W + j), which harmonic numbers give in one step.
        m = np.add.reduceat(counts[:, order], starts, axis=1)
        k = np.add.reduceat(counts[:, order] * wrong, starts, axis=1)
        upto, errors = m.cumsum(1), k.cumsum(1) - k
        rate = np.divide(k, m, out=np.zeros_like(k), where=m > 0)
        reach = harmonic[upto.astype(np.int64)] - harmonic[(upto - m).astype(np.int64)]
        aurc = (k + (errors - rate * (upto - m)) * reach).sum(1) / total
        return counts @ nll / total, np.abs(counts @ gaps).sum(1) / total, aurc

    return figures


def ece_null(logits: Tensor, targets: Tensor) -> float:
    """Return the ECE that a perfectly calibrated model would show on these confidences, by chance alone."""
    histogram = CalibrationHistogram()
    histogram.update(logits, targets)
    return ece_noise(histogram.bins)["ece_null"].item()


def posterior_figures(config: dict[str, Any], test: Predictions, scaled_logits: Tensor) -> dict[str, float]:
    """Return how far predictions are from the true P(label | image); nothing where it is not known.

    Args:
        config: Configuration by dotted keys; phantoms whose readers disagree have a known posterior.
        test: Predictions of their test split.
        scaled_logits: The logits after temperature scaling `[N, K]`.
    """
    if not config["data.phantoms"] or not config.get("phantoms.reader_noise"):
        return {}
    phantoms = PhantomConfig(**{field.name: config[f"phantoms.{field.name}"] for field in fields(PhantomConfig)})
    posterior, latent = map(torch.from_numpy, known_posterior(phantoms, "test"))
    found = {}
    for suffix, logits in (("", test.logits), ("_scaled", scaled_logits)):
        truth = posterior_calibration(logits, posterior, latent=latent[test.indices])
        found |= {f"{name}{suffix}": truth[name] for name in ("posterior_kl", "confidence_error")}
    return found


def summarise(runs: Sequence[EvaluatedRun]) -> list[Summary]:
    """Return mean and standard deviation over the seeds of each loss, in the order in which losses come."""
    summaries = []
    for (architecture, loss), members in _groups(runs).items():
        values = {name: [run.figures[name] for run in members] for name in members[0].figures}
        values["temperature"] = [run.temperature for run in members]
        values |= {f"{name}_null": [run.nulls[name] for run in members] for name in members[0].nulls}
        deviation = {name: np.std(v, ddof=1).item() if len(v) > 1 else np.nan for name, v in values.items()}
        mean = {name: np.mean(v).item() for name, v in values.items()}
        summaries.append(Summary(architecture, loss, len(members), mean, deviation))
    return summaries


def compare_losses(runs: Sequence[EvaluatedRun], reference: str | None = None) -> list[Comparison]:
    """Compare every loss with a reference, within each architecture, in each figure.

    A difference is the mean over shared seeds of loss less reference. Over images, its interval and p come from drawing
    the test images anew, the same for all these runs, which stay as they are. Over seeds, p comes from the differences
    of the seeds. Both are adjusted over the losses that are compared in one figure and one architecture.

    Where a model is close to perfectly calibrated, chance makes most of its ECE, and the interval over images is too
    narrow: in a simulation with one such model of two and 800 images it held the true difference in 83 % of draws.

    Args:
        runs: What `load_runs` returns.
        reference: Label of the reference; by default `hard` where it is among the losses, otherwise the first.

    Raises:
        ValueError: No such loss, or one that shares no seed with the reference.
    """
    labels = list(dict.fromkeys(run.loss for run in runs))
    reference = reference or ("hard" if "hard" in labels else labels[0])
    if reference not in labels:
        raise ValueError(f"no loss {reference!r} among these runs: {', '.join(labels)}")
    groups = _groups(runs)
    comparisons = []
    for architecture in dict.fromkeys(run.architecture for run in runs):
        references = {run.seed: run for run in groups.get((architecture, reference), [])}
        if not references:
            raise ValueError(f"no runs of {architecture} with the reference {reference}")
        others = {loss: members for (a, loss), members in groups.items() if a == architecture and loss != reference}
        for name in runs[0].figures:
            found = []
            for loss, members in others.items():
                pairs = [(run, references[run.seed]) for run in members if run.seed in references]
                if not pairs:
                    raise ValueError(f"{loss} shares no seed with {reference} ({architecture})")
                found.append((loss, *_difference(name, pairs)))
            p_images, p_seeds = (holm([row[column] for row in found]) for column in (5, 6))
            comparisons += [
                Comparison(architecture, name, loss, reference, seeds, difference, low, high, *adjusted)
                for (loss, seeds, difference, low, high, *_), *adjusted in zip(found, p_images, p_seeds, strict=True)
            ]
    return comparisons


def _difference(name: str, pairs: list[tuple[EvaluatedRun, EvaluatedRun]]) -> tuple[float, ...]:
    """Return number of pairs, mean difference, its interval, and p over images and over seeds, not adjusted."""
    differences = [run.figures[name] - other.figures[name] for run, other in pairs]
    difference = float(np.mean(differences))
    low = high = p_images = np.nan
    if name in pairs[0][0].resampled:
        resampled = np.mean([run.resampled[name] - other.resampled[name] for run, other in pairs], axis=0)
        low, high = map(float, bootstrap_interval(difference, resampled))
        p_images = float(bootstrap_p(difference, resampled))
    p_seeds = sign_flip_test(differences) if len(pairs) > 1 else np.nan
    return len(pairs), difference, low, high, p_images, p_seeds


def _groups(runs: Sequence[EvaluatedRun]) -> dict[tuple[str, str], list[EvaluatedRun]]:
    groups: dict[tuple[str, str], list[EvaluatedRun]] = {}
    for run in runs:
        groups.setdefault((run.architecture, run.loss), []).append(run)
    return groups


def _predictions(run_dir: Path) -> tuple[Path, Path]:
    return run_dir / "evaluation" / "val.safetensors", run_dir / "evaluation" / "test.safetensors"


def _check_same_images(first_dir: Path, first: Predictions, run_dir: Path, test: Predictions) -> None:
    """Make sure that two runs were tested on the same images, in the same order, with the same labels."""
    for what in ("classes", "sample_ids"):
        if getattr(first, what) != getattr(test, what):
            raise ValueError(f"{first_dir} and {run_dir} were tested on different {what.replace('_', ' ')}")
    if not torch.equal(first.targets, test.targets):
        raise ValueError(f"{first_dir} and {run_dir} were tested with different labels of the same images")


def _within(key: str, sections: Collection[str]) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in sections)
