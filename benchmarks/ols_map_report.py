"""What the map of `ols_map.py` says: losses less OLS by length and noise, OLS less the best other loss cell by cell.

    python benchmarks/ols_map.py --report <folder>

Only seeds that have every loss of a cell count. Intervals (95 %) are those of the t distribution for differences paired
by seed, say nothing with one seed, and are not corrected for their number. The best other loss of a cell is the one of
the best mean, chosen on the same figures, which favours the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t as student

MEASURES = {  # whether more is better
    "top1_latent": True,
    "posterior_kl": False,
    "posterior_kl_scaled": False,
    "confidence_error": False,
    "ece": False,
    "aurc": False,
}
LEARNED = ("soft_labels_rank_correlation_within", "soft_labels_off_diagonal")
PLACE = ("noise", "size", "steps")
REFERENCE = "ols"
CURVES = ("hard", "ols", "ols_smoothed", "ols_smoothed_0.8", "ols_prior_10")


@dataclass(frozen=True)
class Place:
    """A noise, a number of images a class and one of steps.

    Args:
        noise: Name of the label noise.
        size: Training images of a class.
        steps: Optimizer steps.
        epochs: How often an image is seen.
        off_diagonal: Mean mass off the diagonal of the matrix that the labels come from.
    """

    noise: str
    size: int
    steps: int
    epochs: float
    off_diagonal: float


class Map:
    """Cells by place, loss and seed.

    Args:
        cells: Lines of the file of results that have a loss.
        places: Where they were trained.
    """

    def __init__(self, cells: Sequence[dict], places: Sequence[Place]):
        self.found = {(*(cell[name] for name in PLACE), cell["loss"], cell["seed"]): cell for cell in cells}
        self.losses = list(dict.fromkeys(cell["loss"] for cell in cells))
        self.others = [loss for loss in self.losses if not loss.startswith(REFERENCE)]
        self.seeds = sorted({cell["seed"] for cell in cells})
        self.places = [place for place in places if self.seeds_of(place)]
        self.noises, self.sizes, self.lengths = (
            list(dict.fromkeys(getattr(place, name) for place in self.places)) for name in PLACE
        )

    def seeds_of(self, place: Place) -> list[int]:
        """Return the seeds for which all losses are there."""
        return [seed for seed in self.seeds if all(self.cell(place, loss, seed) for loss in self.losses)]

    def cell(self, place: Place, loss: str, seed: int) -> dict | None:
        """Return a line of results; None where it is missing."""
        return self.found.get((place.noise, place.size, place.steps, loss, seed))

    def values(self, place: Place, measure: str, loss: str, seeds: Sequence[int]) -> NDArray:
        """Return a measure of a loss by seed `[S]`; NaN where it is undefined."""
        cells = [self.cell(place, loss, seed) for seed in seeds]
        return np.array([np.nan if cell is None or cell[measure] is None else cell[measure] for cell in cells])

    def mean(self, places: Sequence[Place], measure: str, loss: str) -> NDArray:
        """Return the mean over places by seed `[S]`, over the seeds that have all of them."""
        seeds = [seed for seed in self.seeds if all(seed in self.seeds_of(place) for place in places)]
        return np.mean([self.values(place, measure, loss, seeds) for place in places], axis=0)

    def best_other(self, place: Place, measure: str) -> tuple[str, float, float]:
        """Return the best other loss of a place, by how much OLS is above it, and half the width of the interval."""
        seeds = self.seeds_of(place)
        means = [self.values(place, measure, loss, seeds).mean() for loss in self.others]
        best = self.others[int(np.argmax(means) if MEASURES[measure] else np.argmin(means))]
        ours, theirs = (self.values(place, measure, loss, seeds) for loss in (REFERENCE, best))
        return best, *mean_and_half(ours - theirs)


def mean_and_half(differences: NDArray) -> tuple[float, float]:
    """Return the mean of differences by seed `[S]`, and half the width of its interval, NaN with one seed."""
    seeds = len(differences)
    half = student.ppf(0.975, seeds - 1) * differences.std(ddof=1) / np.sqrt(seeds) if seeds > 1 else np.nan
    return float(differences.mean()), float(half)


def groups(found: Map) -> dict[str, list[Place]]:
    """Return places by what is read off together: all, by epochs, by noise."""
    asked: dict[str, Callable[[Place], bool]] = {
        "all": lambda place: True,
        "1 to 3 epochs": lambda place: place.epochs < 5,
        "10 to 13": lambda place: 5 < place.epochs < 20,
        "31 to 39": lambda place: 20 < place.epochs < 50,
        "100 and more": lambda place: place.epochs > 50,
    }
    asked |= {noise: lambda place, noise=noise: place.noise == noise for noise in found.noises}  # type: ignore[misc]
    chosen = {name: [place for place in found.places if wanted(place)] for name, wanted in asked.items()}
    return {name: places for name, places in chosen.items() if places}


def tables(found: Map) -> str:
    """Return Markdown: each measure of OLS, and of other losses less OLS, what is learned, then OLS cell by cell."""
    named = groups(found)
    head = [f"| loss | {' | '.join(named)} |", "|---|" + "--:|" * len(named)]
    lines = [f"{len(found.seeds)} seeds: {', '.join(map(str, found.seeds))}", ""]
    for measure in MEASURES:
        ours = {name: found.mean(places, measure, REFERENCE) for name, places in named.items()}
        lines += [f"## {measure}: OLS, and others less OLS", "", *head]
        lines.append(f"| {REFERENCE} | {' | '.join(f'{one.mean():.4f}' for one in ours.values())} |")
        for loss in (loss for loss in found.losses if loss != REFERENCE):
            less = [mean_and_half(found.mean(named[name], measure, loss) - ours[name]) for name in named]
            lines.append(f"| {loss} | {' | '.join(f'{mean:+.4f} ± {half:.4f}' for mean, half in less)} |")
        lines.append("")
    lines += ["## What the soft labels of the last epoch hold", ""]
    lines += [
        "| loss, or beside which OLS collects | noise | rank correlation within a group | off the diagonal | truth |",
        "|---|---|--:|--:|--:|",
    ]
    for loss, noise in product([loss for loss in CURVES if loss in found.losses], found.noises):
        numbers = []
        for name in LEARNED:
            values = np.concatenate([found.values(place, name, loss, found.seeds) for place in named[noise]])
            defined = values[~np.isnan(values)]  # no rank where all other classes of a group are as likely
            numbers.append(f"{defined.mean():.3f}" if len(defined) else "")
        lines.append(f"| {loss} | {noise} | {' | '.join(numbers)} | {named[noise][0].off_diagonal:.3f} |")
    lines += ["", "## OLS less the best other, cell by cell", ""]
    for measure in MEASURES:
        lines += [f"| noise | images a class | steps | {measure} | 95 % | best other |", "|---|--:|--:|--:|---|---|"]
        for place in found.places:
            best, mean, half = found.best_other(place, measure)
            cells = (place.noise, place.size, place.steps, f"{mean:+.4f}")
            lines.append(f"| {' | '.join(map(str, cells))} | {mean - half:+.4f} to {mean + half:+.4f} | {best} |")
        lines.append("")
    return "\n".join(lines)


def heat_maps(found: Map) -> Figure:
    """Draw OLS less the best other loss, a row a measure, a panel a noise; length across and size down."""
    figure = Figure(figsize=(2.7 * len(found.noises) + 1, 2.2 * len(MEASURES)), layout="constrained")
    panels = figure.subplots(len(MEASURES), len(found.noises), squeeze=False, sharex=True, sharey=True)
    for measure, row in zip(MEASURES, panels, strict=True):
        differences = {place: found.best_other(place, measure)[1:] for place in found.places}
        limit = max(abs(mean) for mean, _ in differences.values())
        for axes, noise in zip(row, found.noises, strict=True):
            shown = np.full((len(found.sizes), len(found.lengths)), np.nan)
            for place in (place for place in found.places if place.noise == noise):
                at = found.sizes.index(place.size), found.lengths.index(place.steps)
                shown[at], half = differences[place]
                text = f"{shown[at]:+.3f}{'*' if abs(shown[at]) > half else ''}"
                colour = "white" if abs(shown[at]) > 0.7 * limit else "black"
                axes.text(at[1], at[0], text, ha="center", va="center", fontsize=7, color=colour)
            colours = "RdBu" if MEASURES[measure] else "RdBu_r"
            image = axes.imshow(shown, cmap=colours, vmin=-limit, vmax=limit, origin="lower", aspect="auto")
        row[0].set_ylabel(f"{measure}\nimages a class", fontsize=8)
        figure.colorbar(image, ax=row)
    for axes, noise in zip(panels[0], found.noises, strict=True):
        axes.set_title(noise)
        axes.set_yticks(range(len(found.sizes)), found.sizes)
    for axes in panels[-1]:
        axes.set_xticks(range(len(found.lengths)), found.lengths)
        axes.set_xlabel("steps")
    figure.suptitle("OLS less the best other loss (blue is better; * where 95 % over seeds leave out 0)", fontsize=10)
    return figure


def diagonal_curves(found: Map, size: int, steps: int) -> Figure:
    """Draw the mean diagonal of the soft labels over a training, a panel a noise.

    Args:
        found: The map.
        size: Images a class.
        steps: Optimizer steps.
    """
    places = [place for place in found.places if (place.size, place.steps) == (size, steps)]
    figure = Figure(figsize=(3 * len(places), 3), layout="constrained")
    for axes, place in zip(figure.subplots(1, len(places), squeeze=False, sharey=True)[0], places, strict=True):
        for loss in (name for name in CURVES if name in found.losses):
            cells = [found.cell(place, loss, seed) for seed in found.seeds_of(place)]
            curves = [cell["diagonal_by_epoch"] for cell in cells if cell and cell["diagonal_by_epoch"]]
            if curves:
                mean = np.mean(curves, 0)
                axes.plot(np.arange(1, len(mean) + 1) / len(mean), mean, label=loss, linewidth=1)
        axes.axhline(1 - place.off_diagonal, color="black", linestyle=":", linewidth=1, label="truth")
        axes.set(title=place.noise, xlabel="share of the training", ylim=(0, 1.02))
    figure.axes[0].set_ylabel("mean diagonal of S")
    figure.axes[-1].legend(fontsize=6)
    figure.suptitle(f"{size} images a class, {steps} steps", fontsize=9)
    return figure


def write_report(cells: Sequence[dict], places: Sequence[Place], folder: Path) -> str:
    """Write `report.md`, `differences.png` and `soft_labels.png` into a folder, and return the tables."""
    found = Map(cells, places)
    folder.mkdir(parents=True, exist_ok=True)
    heat_maps(found).savefig(folder / "differences.png", dpi=100)
    middle = found.sizes[len(found.sizes) // 2]
    diagonal_curves(found, middle, found.lengths[-1]).savefig(folder / "soft_labels.png", dpi=100)
    text = tables(found)
    (folder / "report.md").write_text(text)
    return text
