"""Do the tests of a study keep their level, and do its intervals cover: simulated studies whose truth is known.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/statistics_check.py

Two kinds of studies. *Scores*: two finished networks score the images of new patients, several images a patient, and
their AUCs are known. *Trainings*: two kinds of features of the same patients are each learnt by a weighted ridge
regression in five folds by patient and under several seeds, which draw the weights of the training images; one kind is
worth as much as the other for patients at large, or they are the very same. Reported is how often p is below 0.05, and
how often a 95 % interval holds the truth, with the exact binomial interval of these shares.
"""

import argparse
import json
import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from ols.metrics.auc import auc, auc_difference, auc_of_counts
from ols.metrics.resampling import (
    bootstrap_interval,
    bootstrap_p,
    holm,
    mean_of_counts,
    percentile_interval,
    resample,
)
from ols.runs.environment import environment_record
from ols.studies.statistics import TrainedCell, mixed_model, paired_trainings, spearman

RESULTS = Path(__file__).parent / "results"
PATIENTS, IMAGES, RESAMPLES = 60, 4, 500
FEATURES, FOLDS, RIDGE = 6, 5, 1.0


@dataclass(frozen=True)
class Share:
    """How often something was so in simulated studies.

    Args:
        name: What was tested or estimated, and with which data.
        kind: `level` where nothing was to be found, `power` where something was, `coverage` of 95 % intervals.
        share: Of the studies.
        low: Lower end of its exact binomial 95 % interval.
        high: Upper end.
        studies: Number of studies.
        floor: The smallest p that was possible, where that is a matter.
    """

    name: str
    kind: str
    share: float
    low: float
    high: float
    studies: int
    floor: float | None = None


def share_of(name: str, kind: str, hits: Sequence[bool], floor: float | None = None) -> Share:
    """Return the share of studies in which something was so, with its interval."""
    found = stats.binomtest(int(np.sum(hits)), len(hits))
    interval = found.proportion_ci(0.95)
    return Share(name, kind, float(found.statistic), float(interval.low), float(interval.high), len(hits), floor)


def draw_scores(
    rng: np.random.Generator, separations: Sequence[float], *, images: int = IMAGES
) -> tuple[NDArray, NDArray, NDArray]:
    """Return the scores of models `[M, N]`, which images are positive `[N]`, and the patient of each `[N]`.

    Given its class, a score is normal with variance 1: 0.4 of it is of the patient whatever the model, 0.3 of patient
    and model, 0.1 of the image, 0.2 of image and model. The AUC of a model is therefore that of its separation.
    """
    patients, m = np.repeat(np.arange(PATIENTS), images), len(separations)
    positive = patients % 2 == 0
    of_patient = 0.4**0.5 * rng.normal(size=PATIENTS) + 0.3**0.5 * rng.normal(size=(m, PATIENTS))
    of_image = 0.1**0.5 * rng.normal(size=len(patients)) + 0.2**0.5 * rng.normal(size=(m, len(patients)))
    return np.outer(separations, positive) + of_patient[:, patients] + of_image, positive, patients


def true_auc(separation: float) -> float:
    """Return the AUC of two normal scores of variance 1 whose means are so far apart."""
    return float(stats.norm.cdf(separation / 2**0.5))


def check_scores(studies: int, seed: int) -> Iterator[Share]:
    """Compare two finished networks on other patients: by AUC, and by the mean of an error of each image."""
    rng = np.random.default_rng(seed)
    for kind, separations in {"level": (1.0, 1.0), "power": (1.4, 1.0)}.items():
        areas = [true_auc(separation) for separation in separations]
        found = [_compare_scores(rng, separations, areas, study) for study in range(studies)]
        for name in found[0]:
            rejected, held = zip(*[result[name] for result in found], strict=True)
            if rejected[0] is not None:
                yield share_of(name, kind, rejected)
            if held[0] is not None:
                yield share_of(f"{name}{'' if kind == 'level' else ' (there is a difference)'}", "coverage", held)


def _compare_scores(
    rng: np.random.Generator, separations: Sequence[float], areas: Sequence[float], seed: int
) -> dict[str, tuple[bool | None, bool | None]]:
    """Return whether no difference was rejected, and whether the interval holds the truth, by the test."""
    results: dict[str, tuple[bool | None, bool | None]] = {}
    scores, positive, patients = draw_scores(rng, separations)
    statistic, ones = _auc_of_each(scores, positive), np.ones((1, len(positive)))
    estimates, truth = statistic(ones)[0], areas[0] - areas[1]
    for name, clusters in (("patients, 4 images each", patients), ("images, though patients have 4", None)):
        drawn = resample(statistic, len(positive), resamples=RESAMPLES, seed=seed, clusters=clusters)
        difference, differences = estimates[0] - estimates[1], drawn[:, 0] - drawn[:, 1]
        interval = bootstrap_interval(difference, differences)
        p = float(bootstrap_p(difference, differences))
        results[f"AUC difference, bootstrap over {name}"] = (p < 0.05, _holds(interval, truth))
        held = _holds(percentile_interval(drawn[:, 0]), areas[0])
        results[f"one AUC, bootstrap over {name}"] = (None, held)
    delong = auc_difference(*scores, positive)
    held = _holds((delong.low, delong.high), truth)
    results["AUC difference, DeLong, though patients have 4 images"] = (delong.p_value < 0.05, held)

    # Errors of a normal residual, of which one model's is larger by the ratio of the separations
    errors = np.abs(scores - np.outer(separations, positive))
    errors[0] *= separations[0] / separations[1]
    gap, truth_of_mean = errors[0] - errors[1], (separations[0] / separations[1] - 1) * math.sqrt(2 / math.pi)
    means = resample(mean_of_counts(gap), len(gap), resamples=RESAMPLES, seed=seed, clusters=patients)
    held = _holds(bootstrap_interval(gap.mean(), means), truth_of_mean)
    p = float(bootstrap_p(gap.mean(), means))
    results["difference of mean errors, bootstrap over patients, 4 images each"] = (p < 0.05, held)

    scores, positive, _ = draw_scores(rng, separations, images=1)
    delong, area = auc_difference(*scores, positive), auc(scores[0], positive)
    held = _holds((delong.low, delong.high), truth)
    results["AUC difference, DeLong, one image a patient"] = (delong.p_value < 0.05, held)
    results["one AUC, DeLong, one image a patient"] = (None, _holds((area.low, area.high), areas[0]))
    return results


def check_holm(studies: int, seed: int) -> Iterator[Share]:
    """Compare five networks with a reference, none of them better: how often any of the five is called different."""
    rng, hits = np.random.default_rng(seed), np.zeros((studies, 4), bool)
    for study in range(studies):
        scores, positive, patients = draw_scores(rng, [1.0] * 6)
        statistic = _auc_of_each(scores, positive)
        estimates = statistic(np.ones((1, len(positive))))[0]
        drawn = resample(statistic, len(positive), resamples=RESAMPLES, seed=study, clusters=patients)
        over_patients = bootstrap_p(estimates[1:] - estimates[0], drawn[:, 1:] - drawn[:, :1])
        single, positive, _ = draw_scores(rng, [1.0] * 6, images=1)
        delong = [auc_difference(score, single[0], positive).p_value for score in single[1:]]
        for column, p in enumerate((over_patients, delong)):
            hits[study, 2 * column : 2 * column + 2] = np.min(p) < 0.05, min(holm(p)) < 0.05
    names = ("bootstrap over patients", "DeLong, one image a patient")
    for column, name in enumerate(names):
        yield share_of(f"any of five, {name}, without Holm", "level", hits[:, 2 * column])
        yield share_of(f"any of five, {name}, after Holm", "level", hits[:, 2 * column + 1])


@dataclass(frozen=True)
class Trainings:
    """Simulated studies of trainings.

    Args:
        aucs: Test AUC `[studies, 2, FOLDS, seeds]`, the second axis the two kinds of features.
    """

    aucs: NDArray

    def cells(self, study: int) -> list[TrainedCell]:
        """Return the cells of a study."""
        return [
            TrainedCell({"source": str(s), "fold": str(f), "seed": str(r)}, 0.0, float(value))
            for (s, f, r), value in np.ndenumerate(self.aucs[study])
        ]


def train_studies(
    rng: np.random.Generator, studies: int, seeds: int, *, noise: Sequence[float], same_features: bool = False
) -> Trainings:
    """Learn two kinds of features of the same patients by ridge regression, in each fold and under each seed.

    Args:
        rng: Source of chance.
        studies: Number of studies.
        seeds: Trainings of each fold; each draws exponential weights of the training images.
        noise: Standard deviation of each kind of features about what tells the class.
        same_features: Whether both kinds are the same numbers, so that nothing but the weights differs.
    """
    folds = np.arange(PATIENTS) // 2 % FOLDS  # as many positive as negative patients in each
    patients = np.repeat(np.arange(PATIENTS), IMAGES)
    positive = patients % 2 == 0
    shared = positive[:, None] * 0.4 + rng.normal(size=(studies, 1, PATIENTS, FEATURES))[:, :, patients] * 0.7
    shape = (studies, 1 if same_features else 2, len(patients), FEATURES)
    own = np.asarray(noise)[None, :, None, None] * rng.normal(size=shape)
    inputs = np.concatenate([shared + own, np.ones((studies, 2, len(patients), 1))], axis=-1)
    signs, aucs = np.where(positive, 1.0, -1.0), np.empty((studies, 2, FOLDS, seeds))
    for fold in range(FOLDS):
        test = folds[patients] == fold
        x, y = inputs[:, :, ~test], signs[~test]
        for run in range(seeds):
            weights = rng.exponential(size=x.shape[:3])[..., None]
            gram = np.swapaxes(x * weights, -1, -2) @ x + RIDGE * np.eye(FEATURES + 1)
            learnt = np.linalg.solve(gram, np.swapaxes(x * weights, -1, -2) @ y[:, None])
            scores = (inputs[:, :, test] @ learnt)[..., 0]
            above = scores[..., positive[test], None] - scores[..., None, ~positive[test]]
            aucs[:, :, fold, run] = ((above > 0) + 0.5 * (above == 0)).mean(axis=(-1, -2))
    return Trainings(aucs)


def check_trainings(studies: int, seed: int) -> Iterator[Share]:
    """Compare two kinds of features over folds and seeds."""
    rng, same, better = np.random.default_rng(seed), (1.0, 1.0), (0.5, 1.5)
    for kind, noise, same_features, what in (
        ("level", same, True, "nothing but seeds differs"),
        ("level", same, False, "kinds are worth the same"),
        ("power", better, False, "one kind is better"),
    ):
        for seeds in (1, 2):
            trainings = train_studies(rng, studies, seeds, noise=noise, same_features=same_features)
            found = [
                paired_trainings(trainings.cells(study), "source", "0", "1", test_share=1 / FOLDS)
                for study in range(studies)
            ]
            over, floor = f"{FOLDS} folds x {seeds} seeds; {what}", found[0].floor
            yield share_of(f"sign-flip, {over}", kind, [one.p_sign_flip < 0.05 for one in found], floor)
            yield share_of(f"corrected t-test, {over}", kind, [one.p_corrected < 0.05 for one in found])


def check_relations(studies: int, seed: int) -> Iterator[Share]:
    """Relate two normal quantities over networks."""
    rng = np.random.default_rng(seed)
    for networks in (6, 16):
        for correlation, kind in ((0.0, "level"), (0.7, "power")):
            x = rng.normal(size=(studies, networks))
            y = correlation * x + math.sqrt(1 - correlation**2) * rng.normal(size=x.shape)
            found = [spearman(a, b) for a, b in zip(x, y, strict=True)]
            truth = 6 / math.pi * math.asin(correlation / 2)
            name = f"Spearman, {networks} networks"
            floor = 2 / math.factorial(networks)
            yield share_of(name, kind, [one.p_value < 0.05 for one in found], floor)
            held = [one.low <= truth <= one.high for one in found]
            yield share_of(f"{name}, correlation {correlation:g}", "coverage", held)


def check_mixed_model(studies: int, seed: int) -> Iterator[Share]:
    """Fit a mixed model to 3 sources, 2 rates and 8 targets, each of which makes all cells easier or harder."""
    rng = np.random.default_rng(seed)
    for effect, by_target, kind, what in (
        (0.0, 0.0, "level", "the source does the same to every target"),
        (0.0, 0.02, "level", "although sources differ from target to target"),
        (0.02, 0.0, "power", "the source does the same to every target"),
    ):
        rejected, held = [], []
        for _ in range(studies):
            targets, uneven = rng.normal(0, 0.1, 8), rng.normal(0, by_target, (3, 8)) if by_target else np.zeros((3, 8))
            noise, steps = rng.normal(0, 0.02, (3, 2, 8)), (0.0, effect, effect)
            cells = [
                TrainedCell(
                    {"source": str(s), "lr": str(r), "target": str(t)},
                    0.0,
                    float(0.7 + steps[s] + targets[t] + uneven[s, t] + noise[s, r, t]),
                )
                for s, r, t in np.ndindex(3, 2, 8)
            ]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of statsmodels, about variances close to their boundary
                effects = mixed_model(cells, "source", reference="0", within="target")
            rejected.append(min(one.p_value for one in effects) < 0.05)
            held.append(effects[0].low <= effect <= effects[0].high)
        yield share_of(f"mixed model, any of two sources; {what}", kind, rejected)
        yield share_of(f"mixed model{', with an effect' if effect else ''}; {what}", "coverage", held)


CHECKS = (check_scores, check_holm, check_trainings, check_relations, check_mixed_model)
SMALLER = {check_mixed_model: 4}  # so many times fewer studies, which take longer


def run_checks(studies: int, seed: int = 0) -> list[Share]:
    """Return what all checks find."""
    return [one for check in CHECKS for one in check(max(1, studies // SMALLER.get(check, 1)), seed)]


def draw_figure(shares: Sequence[Share]) -> Figure:
    """Draw a point and an interval for each share, in a panel for each kind."""
    kinds = {"level": (0.05, "No difference: p below 0.05"), "coverage": (0.95, "95 % intervals that hold the truth")}
    rows = {kind: [one for one in shares if one.kind == kind] for kind in kinds}
    figure = Figure(figsize=(9, 1.6 + 0.26 * sum(map(len, rows.values()))), layout="constrained")
    panels = figure.subplots(len(kinds), 1, height_ratios=[len(rows[kind]) for kind in kinds])
    for panel, (kind, (nominal, title)) in zip(panels, kinds.items(), strict=True):
        names = [one.name for one in rows[kind]]
        values = np.array([[one.share - one.low, one.high - one.share] for one in rows[kind]])
        panel.errorbar([one.share for one in rows[kind]], range(len(names)), xerr=values.T, fmt="o", markersize=4)
        panel.axvline(nominal, color="black", linewidth=0.8)
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.invert_yaxis()
        panel.set_title(title, loc="left", fontsize=10)
        panel.grid(axis="x", alpha=0.3)
    return figure


def table(shares: Sequence[Share]) -> str:
    """Return a Markdown table of the shares."""
    lines = ["| what | kind | share (95 % interval) | studies | smallest p |", "|---|---|---|---|---|"]
    for one in shares:
        floor = "" if one.floor is None else f"{one.floor:.2g}"
        share = f"{one.share:.3f} ({one.low:.3f} to {one.high:.3f})"
        lines.append(f"| {one.name} | {one.kind} | {share} | {one.studies:,} | {floor} |")
    return "\n".join(lines)


def _auc_of_each(scores: NDArray, positive: NDArray) -> Callable[[NDArray], NDArray]:
    return lambda counts: np.stack([auc_of_counts(score, positive, counts) for score in scores], axis=1)


def _holds(interval: tuple[NDArray | float, NDArray | float], truth: float) -> bool:
    return bool(interval[0] <= truth <= interval[1])


def measure() -> None:
    """Simulate, print a table, and write it with its conditions and a figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of statistics_check.json and .png")
    args = parser.parse_args()
    started = time.monotonic()
    environment = environment_record(torch.device("cpu"), num_processes=1, threads=1)
    shares = run_checks(args.studies, args.seed)
    results = {"format": 1, **environment, "seed": args.seed, "seconds": round(time.monotonic() - started)}
    results["shares"] = [asdict(one) for one in shares]
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "statistics_check.json").write_text(json.dumps(results, indent=2) + "\n")
    draw_figure(shares).savefig(args.output / "statistics_check.png", dpi=100)
    print(table(shares))


if __name__ == "__main__":
    measure()
