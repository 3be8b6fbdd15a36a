"""What the map of `ols_map.py` says: OLS minus the best other loss, cell by cell, and how soft labels form.

    python benchmarks/ols_map.py --report <folder>

The best other loss of a cell is the one of the best mean over the seeds that have all losses, chosen on the same
figures, which favours the others. Intervals (95 %) are those of the t distribution for differences paired by seed, and
say nothing with one seed; 60 cells are not corrected for.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import t as student

MEASURES = {  # whether more is better
    "top1_latent": True,
    "posterior_kl": False,
    "posterior_kl_scaled": False,
    "confidence_error": False,
    "ece": False,
    "aurc": False,
}
PLACE = ("noise", "size", "steps")
CURVES = ("hard", "ols", "ols_smoothed", "ols_smoothed_0.8", "ols_prior_10")


class Map:
    """Cells by noise, size, steps, loss and seed.

    Args:
        cells: Lines of the file of results that have a loss.
        ours: Names of losses that are OLS begin so; all others are the others.
    """

    def __init__(self, cells: Sequence[dict], ours: str = "ols"):
        self.found = {(*(cell[name] for name in PLACE), cell["loss"], cell["seed"]): cell for cell in cells}
        self.losses = list(dict.fromkeys(cell["loss"] for cell in cells))
        self.others = [loss for loss in self.losses if not loss.startswith(ours)]
        self.ours = [loss for loss in self.losses if loss.startswith(ours)]
        self.noises, self.sizes, self.lengths = (list(dict.fromkeys(cell[name] for cell in cells)) for name in PLACE)
        self.seeds = sorted({cell["seed"] for cell in cells})

    def values(self, place: tuple, measure: str, losses: Sequence[str]) -> np.ndarray:
        """Return a measure `[L, S]` of losses, over the seeds for which all of the map's losses are there."""
        known = [
            seed
            for seed in self.seeds
            if all(self.found.get((*place, loss, seed), {}).get(measure) is not None for loss in self.losses)
        ]
        rows = [[self.found[*place, loss, seed][measure] for seed in known] for loss in losses]
        return np.array(rows, dtype=float).reshape(len(losses), len(known))

    def difference(self, place: tuple, measure: str, loss: str) -> tuple[str, float, float, int]:
        """Return the best other loss, by how much `loss` is above it, half the interval's width, and the seeds."""
        others = self.values(place, measure, self.others)
        if not others.shape[1]:
            return "", np.nan, np.nan, 0
        means = others.mean(1)
        best = int(means.argmax() if MEASURES[measure] else means.argmin())
        differences = self.values(place, measure, [loss])[0] - others[best]
        seeds = len(differences)
        width = np.nan
        if seeds > 1:
            width = student.ppf(0.975, seeds - 1) * differences.std(ddof=1) / np.sqrt(seeds)
        return self.others[best], float(differences.mean()), float(width), seeds

    def regrets(self, measure: str) -> dict[str, tuple[float, float]]:
        """Return by how much each loss is behind the best of all, of OLS too: mean and largest over the cells."""
        behind = defaultdict(list)
        for place in self.places():
            means = (
                self.values(place, measure, self.losses).mean(1) if self.values(place, measure, ["hard"]).size else None
            )
            if means is None:
                continue
            gaps = means.max() - means if MEASURES[measure] else means - means.min()
            for loss, gap in zip(self.losses, gaps, strict=True):
                behind[loss].append(gap)
        return {loss: (float(np.mean(gaps)), float(np.max(gaps))) for loss, gaps in behind.items()}

    def places(self) -> list[tuple]:
        """Return every noise, size and length."""
        return [(noise, size, steps) for noise in self.noises for size in self.sizes for steps in self.lengths]


def tables(found: Map) -> str:
    """Return Markdown: how far each loss is behind the best over all cells, then each cell of OLS."""
    lines = [f"{len(found.seeds)} seeds: {', '.join(map(str, found.seeds))}", ""]
    for measure in MEASURES:
        lines += [f"## {measure}", "", "| loss | mean gap to the best | largest |", "|---|---|---|"]
        regrets = found.regrets(measure)
        lines += [
            f"| {loss} | {regrets[loss][0]:.4f} | {regrets[loss][1]:.4f} |" for loss in sorted(regrets, key=regrets.get)
        ]  # type: ignore[arg-type]
        lines += ["", "| noise | images a class | steps | OLS minus best other | 95 % | best other | seeds |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for place in found.places():
            best, mean, width, seeds = found.difference(place, measure, "ols")
            interval = "" if np.isnan(width) else f"{mean - width:+.4f} to {mean + width:+.4f}"
            lines.append(f"| {' | '.join(map(str, place))} | {mean:+.4f} | {interval} | {best} | {seeds} |")
        lines.append("")
    return "\n".join(lines)


def heat_maps(found: Map, measure: str) -> Figure:
    """Draw OLS minus the best other loss, length across and size down, a panel a noise; blue is better."""
    figure = Figure(figsize=(3 * len(found.noises), 3), layout="constrained")
    panels = {
        noise: np.array(
            [[found.difference((noise, s, t), measure, "ols") for t in found.lengths] for s in found.sizes],
            dtype=object,
        )
        for noise in found.noises
    }
    means = {noise: panel[..., 1].astype(float) for noise, panel in panels.items()}
    limit = max(float(np.nanmax(np.abs(np.stack(list(means.values()))))), 1e-9)
    for axes, noise in zip(figure.subplots(1, len(found.noises), squeeze=False)[0], found.noises, strict=True):
        colours = "RdBu" if MEASURES[measure] else "RdBu_r"
        image = axes.imshow(means[noise], cmap=colours, vmin=-limit, vmax=limit, origin="lower", aspect="auto")
        for (row, column), mean in np.ndenumerate(means[noise]):
            width = float(panels[noise][row, column, 2])
            shown = "*" if abs(mean) > width else ""
            axes.text(column, row, f"{mean:+.3f}{shown}", ha="center", va="center", fontsize=7)
        axes.set_xticks(range(len(found.lengths)), found.lengths)
        axes.set_yticks(range(len(found.sizes)), found.sizes)
        axes.set(title=noise, xlabel="steps")
    figure.axes[0].set_ylabel("images a class")
    figure.colorbar(image, ax=figure.axes)
    figure.suptitle(f"{measure}: OLS minus the best other (blue is better; * where 95 % leave out 0)", fontsize=9)
    return figure


def diagonal_curves(found: Map, size: int, steps: int, truth: dict[str, float]) -> Figure:
    """Draw the mean diagonal of the soft labels over a training, a panel a noise.

    Args:
        found: The map.
        size: Images a class.
        steps: Optimizer steps.
        truth: Mean diagonal of the matrix that the labels come from, by noise.
    """
    figure = Figure(figsize=(3 * len(found.noises), 3), layout="constrained")
    for axes, noise in zip(
        figure.subplots(1, len(found.noises), squeeze=False, sharey=True)[0], found.noises, strict=True
    ):
        for loss in (name for name in CURVES if name in found.losses):
            cells = [found.found.get((noise, size, steps, loss, seed)) for seed in found.seeds]
            curves = [cell["diagonal_by_epoch"] for cell in cells if cell and cell["diagonal_by_epoch"]]
            if curves:
                mean = np.mean(curves, 0)
                axes.plot(np.arange(1, len(mean) + 1) / len(mean), mean, label=loss, linewidth=1)
        axes.axhline(truth[noise], color="black", linestyle=":", linewidth=1, label="truth")
        axes.set(title=noise, xlabel="share of the training", ylim=(0, 1.02))
    figure.axes[0].set_ylabel("mean diagonal of S")
    figure.axes[-1].legend(fontsize=6)
    figure.suptitle(f"{size} images a class, {steps} steps", fontsize=9)
    return figure


def write_report(cells: Sequence[dict], truth: dict[str, float], folder: Path) -> str:
    """Write the tables and figures into a folder, and return the tables."""
    found = Map(cells)
    folder.mkdir(parents=True, exist_ok=True)
    for measure in ("top1_latent", "posterior_kl", "posterior_kl_scaled", "ece"):
        heat_maps(found, measure).savefig(folder / f"{measure}.png", dpi=100)
    middle = found.sizes[len(found.sizes) // 2]
    diagonal_curves(found, middle, found.lengths[-1], truth).savefig(folder / "soft_labels.png", dpi=100)
    text = tables(found)
    (folder / "report.md").write_text(text)
    return text
