"""Figures, drawn with matplotlib without a screen."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

GAP = "#f5c3c4"  # opaque: over the bar of an under-confident bin it has the colour of its legend, too


def _literal(name: str) -> str:
    """Return a name as matplotlib shows it: on one line, without formulas, and in legends where it begins with _."""
    line = " ".join(name.split()).replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line


def reliability_diagram(reliability: Tensor, *, title: str, intervals: Tensor | None = None) -> Figure:
    """Draw accuracy against confidence, with the number of samples below.

    Args:
        reliability: Count, mean confidence and accuracy of each bin `[15, 3]`, NaN where a bin is empty.
        title: Title.
        intervals: Interval of each bin's accuracy `[15, 2]`, NaN where a bin is empty.
    """
    count, confidence, accuracy = reliability.numpy().T
    edges = np.linspace(0, 1, len(count) + 1)
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    figure = Figure(figsize=(4.5, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="perfect")
    upper.bar(middle, np.nan_to_num(accuracy), width, color="#4c78a8", edgecolor="white", label="accuracy")
    gap = np.nan_to_num(confidence - accuracy)
    upper.bar(middle, gap, width, np.nan_to_num(accuracy), color=GAP, label="gap to confidence")
    if intervals is not None:
        filled = count > 0
        upper.vlines(middle[filled], *intervals.numpy()[filled].T, color="0.15", linewidth=1.2, label="95 % interval")
    upper.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")  # where it hides no bar
    lower.bar(middle, count, width, color="0.6", edgecolor="white")
    numbers = [f"{number:.0f}" if number else "" for number in count]
    lower.bar_label(lower.containers[0], numbers, fontsize=5, padding=1)
    lower.margins(y=0.15)
    lower.set(xlabel="confidence", ylabel="samples")
    return figure


def risk_coverage(curves: dict[str, tuple[np.ndarray, np.ndarray]], *, title: str) -> Figure:
    """Draw the fraction of errors among the accepted samples against the fraction that is accepted.

    Args:
        curves: Coverage, ascending, and risk at its points, both `[P]`, by what the legend calls them.
        title: Title.
    """
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for name, (coverage, risk) in curves.items():
        # A threshold accepts what is at its point or fewer: between points nothing is reached.
        axes.step(coverage, risk, where="post", label=name, linewidth=1.5)
    axes.set(title=title, xlabel="coverage", ylabel="errors among accepted", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.grid(color="0.9")
    if curves:
        axes.legend(framealpha=0.8, edgecolor="none", fontsize="small")
    return figure


def roc_curve(points: np.ndarray, *, title: str, band: np.ndarray | None = None) -> Figure:
    """Draw the true against the false positive rate.

    Args:
        points: False and true positive rate, ascending `[P, 2]`; empty where there is no curve.
        title: Title.
        band: False positive rate, lower and upper end of the 95 % band `[G, 3]`.
    """
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="chance")
    _curve(axes, points, band)
    axes.set(title=title, xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid(color="0.9")
    axes.legend(loc="lower right", framealpha=0.8, edgecolor="none", fontsize="small")
    return figure


def precision_recall_curve(
    points: np.ndarray, *, prevalence: float, title: str, band: np.ndarray | None = None
) -> Figure:
    """Draw precision against recall.

    Args:
        points: Recall, ascending, and precision `[P, 2]`; empty where there is no curve.
        prevalence: Share of the positives, the precision of chance.
        title: Title.
        band: Recall, lower and upper end of the 95 % band `[G, 3]`.
    """
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.axhline(prevalence, color="0.6", linewidth=1, linestyle="--", label="chance (prevalence)")
    _curve(axes, points, band)
    axes.set(title=title, xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.grid(color="0.9")
    axes.legend(loc="lower left", framealpha=0.8, edgecolor="none", fontsize="small")
    return figure


def _curve(axes: Axes, points: np.ndarray, band: np.ndarray | None) -> None:
    if band is not None and len(band):
        axes.fill_between(*band.T, color="#4c78a8", alpha=0.2, linewidth=0, label="95 % band")
    axes.plot(*points.reshape(-1, 2).T, color="#4c78a8", linewidth=1.8, label="model")


def precision_recall_of_labels(
    curves: Sequence[np.ndarray], labels: np.ndarray, names: Sequence[str], *, title: str
) -> Figure:
    """Draw precision against recall of each label in a field of its own, with chance as a dashed line.

    Args:
        curves: Recall, ascending, and precision of each label `[P, 2]`; empty where there is no curve.
        labels: Average precision in the fourth column, positives and known images in the last two `[L, 7]`.
        names: Of the labels `[L]`.
        title: Title.
    """
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.4 * rows + 0.3), layout="constrained")
    fields = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, name, points, row in zip(fields, names, curves, labels, strict=False):
        positives, known = row[-2:]
        if len(points) and positives < known:
            axes.axhline(positives / known, color="0.6", linewidth=1, linestyle="--")
            axes.plot(*points.T, color="#4c78a8", linewidth=1.5)
            axes.text(0.97, 0.95, f"AP {row[3]:.3f}", ha="right", va="top", fontsize=7, transform=axes.transAxes)
        else:
            axes.text(0.5, 0.5, "undefined", ha="center", va="center", fontsize=8, transform=axes.transAxes)
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.set_title(f"{_literal(name)}\n{positives:,.0f} of {known:,.0f}", fontsize=7)
        axes.tick_params(labelsize=7)
        axes.grid(color="0.93")
    for axes in fields[len(names) :]:
        axes.set_visible(False)
    figure.suptitle(title, fontsize=9)
    figure.supxlabel("recall", fontsize=8)
    figure.supylabel("precision", fontsize=8)
    return figure


def embedding(coordinates: np.ndarray, labels: np.ndarray, names: list[str], *, title: str) -> Figure:
    """Draw samples as points, coloured by their label, such as a class or a group.

    Args:
        coordinates: `[N, 2]`.
        labels: Index into `names` of each sample `[N]`.
        names: Of the labels; those that occur stand in the legend, up to 40.
        title: Title.
    """
    figure = Figure(figsize=(7, 5.5), layout="constrained")
    axes = figure.subplots()
    present = np.unique(labels)
    colors = colormaps["turbo"](np.linspace(0.05, 0.95, max(len(present), 1)))
    for color, label in zip(colors, present, strict=False):
        x, y = coordinates[labels == label].T
        axes.scatter(x, y, s=8, color=color, linewidths=0, label=_literal(names[label]))
    axes.set(title=title, xticks=[], yticks=[])
    if 0 < len(present) <= 40:
        columns = 1 + (len(present) - 1) // 20
        figure.legend(loc="outside right upper", ncols=columns, frameon=False, fontsize=7, markerscale=2)
    return figure


def soft_label_heatmap(soft_labels: Tensor, classes: list[str], groups: list[str], *, title: str) -> Figure:
    """Draw the soft labels on a logarithmic scale, classes ordered by group.

    Args:
        soft_labels: Rows are true classes `[K, K]`.
        classes: Label of each class.
        groups: Modality and anatomy of each class.
        title: Title.
    """
    order = sorted(range(len(classes)), key=lambda index: (groups[index], classes[index]))
    matrix = soft_labels.detach().float().cpu().numpy()[np.ix_(order, order)]
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    # Zeros (a start from hard labels) are drawn as the floor of the scale.
    image = axes.imshow(np.log10(np.maximum(matrix, 1e-6)), cmap="magma", vmin=-6, vmax=0, interpolation="nearest")
    starts = [i for i in range(len(order)) if i == 0 or groups[order[i]] != groups[order[i - 1]]]
    ends = [*starts[1:], len(order)]
    if len(classes) <= 40:
        ticks, names = [float(i) for i in range(len(order))], [_literal(classes[i]) for i in order]
    else:
        ticks = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
        names = [_literal(groups[order[start]]) for start in starts]
    axes.set_xticks(ticks, names, rotation=90, fontsize=7)
    axes.set_yticks(ticks, names, fontsize=7)
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="white", linewidth=0.4)
        axes.axvline(start - 0.5, color="white", linewidth=0.4)
    axes.set(title=title, xlabel="probability of", ylabel="true class")
    bar = figure.colorbar(image, label="soft label", ticks=range(-6, 1))
    bar.ax.set_yticklabels([f"$10^{{{power}}}$" if power else "1" for power in range(-6, 1)])
    return figure


def confusion_matrix(confusion: np.ndarray, names: Sequence[str], *, title: str) -> Figure:
    """Draw which share of each row's images is predicted as what, with the shares written in where there is room.

    Args:
        confusion: Number of images, row = truth, `[K, K]`.
        names: Of rows and columns `[K]`.
        title: Title.
    """
    totals = confusion.sum(axis=1, keepdims=True)
    shares = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    side = 2.5 + 0.32 * len(names)
    figure = Figure(figsize=(side, side * 0.92), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_xticks(range(len(names)), [_literal(name) for name in names], rotation=90, fontsize=7)
    axes.set_yticks(
        range(len(names)),
        [f"{_literal(name)} ({total:,.0f})" for name, total in zip(names, totals[:, 0], strict=True)],
        fontsize=7,
    )
    for row, column in zip(*np.nonzero(confusion), strict=True):
        share = shares[row, column]
        axes.text(
            column,
            row,
            f"{100 * share:.0f}",
            ha="center",
            va="center",
            fontsize=6,
            color="white" if share > 0.6 else "black",
        )
    axes.set(title=title, xlabel="predicted", ylabel="truth (images)")
    figure.colorbar(image, label="share of the row", shrink=0.8)
    return figure


def calibration_by_group(groups: Sequence[Any]) -> Figure:
    """Draw accuracy with its interval, and mean confidence before and after scaling, a line for each group.

    Args:
        groups: Records with `name`, `images`, `accuracy`, `accuracy_low`, `accuracy_high`, and `raw` and `scaled`, both
            with `mean_confidence`; drawn in order of accuracy.
    """
    ordered = sorted(groups, key=lambda record: record.accuracy)
    places = np.arange(len(ordered))
    figure = Figure(figsize=(8, 0.9 + 0.28 * len(ordered)), layout="constrained")
    axes = figure.subplots()
    accuracy, low, high = (
        np.array([getattr(record, key) for record in ordered]) for key in ("accuracy", "accuracy_low", "accuracy_high")
    )
    axes.hlines(places, low, high, color="#1c2430")
    axes.plot(accuracy, places, "o", color="#1c2430", markersize=5, label="accuracy")
    for name, color, marker in (("raw", "#3b6ea5", "s"), ("scaled", "#c9691b", "D")):
        confidence = [getattr(record, name).mean_confidence or np.nan for record in ordered]
        axes.plot(
            confidence, places, marker, color=color, markersize=5, markerfacecolor="none", label=f"confidence, {name}"
        )
    axes.set_yticks(places, [f"{_literal(record.name)}  ({record.images:,})" for record in ordered], fontsize=9)
    axes.set_ylim(-0.6, len(ordered) - 0.4)
    axes.grid(axis="y", color="0.93")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    return figure


def label_areas(labels: np.ndarray, names: Sequence[str], *, title: str) -> Figure:
    """Draw the AUC of each label with its interval, in order of the AUC; those without one stand below.

    Args:
        labels: AUC, lower and upper end in the first three columns, positives and known images in the last two
            `[L, 7]`; NaN where undefined.
        names: Of the labels `[L]`.
        title: Title.
    """
    order = np.argsort(np.nan_to_num(labels[:, 0], nan=-1.0), kind="stable")
    places = np.arange(len(order))
    value, low, high = labels[order, :3].T
    figure = Figure(figsize=(6, 1.2 + 0.28 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.axvline(0.5, color="0.6", linewidth=1, linestyle="--", label="chance")
    axes.hlines(places, low, high, color="#4c78a8", label="95 % interval")
    axes.plot(value, places, "o", color="#4c78a8", markersize=5, label="AUC")
    texts = [f"{_literal(names[i])}  ({labels[i, -2]:,.0f} of {labels[i, -1]:,.0f})" for i in order]
    axes.set_yticks(places, texts, fontsize=8)
    axes.set(title=title, xlim=(0, 1), ylim=(-0.6, len(order) - 0.4))
    axes.grid(axis="x", color="0.93")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize="small")
    return figure


def agreement_of_numbers(counts: np.ndarray, *, low: float, high: float, name: str, title: str) -> Figure:
    """Draw predictions against targets as a histogram, and below how far they are apart by target.

    Args:
        counts: Images by target and by prediction `[P, P]`, in bins of equal width.
        low: Lower end of the bins.
        high: Upper end.
        name: Of the number.
        title: Title.
    """
    edges = np.linspace(low, high, len(counts) + 1)
    middle = (edges[:-1] + edges[1:]) / 2
    figure = Figure(figsize=(4.8, 6), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    upper.pcolormesh(edges, edges, np.ma.masked_equal(counts.T, 0), cmap="Blues", vmin=0)
    upper.plot([low, high], [low, high], color="0.6", linewidth=1, linestyle="--", label="perfect")
    upper.set(title=title, ylabel=f"predicted {_literal(name)}", ylim=(low, high))
    upper.legend(loc="upper left", frameon=False, fontsize="small")
    filled = counts.sum(axis=1) > 0
    residuals = (counts[filled] * (middle - middle[filled, None])).sum(axis=1) / counts[filled].sum(axis=1)
    lower.axhline(0, color="0.6", linewidth=1, linestyle="--")
    lower.plot(middle[filled], residuals, "o", color="#4c78a8", markersize=3)
    lower.set(xlabel=_literal(name), ylabel="mean residual", xlim=(low, high))
    return figure


def predicted_against_true(true: np.ndarray, predicted: np.ndarray, *, mean: float, name: str) -> Figure:
    """Draw a point an image: what is predicted against what is true.

    Args:
        true: `[N]`.
        predicted: `[N]`.
        mean: Of the training targets, which a model that knows nothing would predict.
        name: Of the number.
    """
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    both = np.concatenate([true, predicted, [mean]])
    ends = [both.min(), both.max()]
    axes.plot(ends, ends, color="0.6", linewidth=1, linestyle="--", label="perfect")
    axes.axhline(mean, color="#c9691b", linewidth=1, linestyle=":", label="training mean")
    _points(axes, true, predicted)
    axes.set(xlabel=_literal(name), ylabel=f"predicted {_literal(name)}", aspect="equal")
    axes.legend(loc="upper left", framealpha=0.8, edgecolor="none", fontsize="small")
    return figure


def residuals_against_predicted(true: np.ndarray, predicted: np.ndarray, *, name: str) -> Figure:
    """Draw a point an image: prediction less target against the prediction.

    Args:
        true: `[N]`.
        predicted: `[N]`.
        name: Of the number.
    """
    figure = Figure(figsize=(4.5, 4.5), layout="constrained")
    axes = figure.subplots()
    residual = predicted - true
    axes.axhline(0, color="0.6", linewidth=1, linestyle="--", label="perfect")
    if len(residual):
        axes.axhline(residual.mean(), color="#c9691b", linewidth=1, linestyle=":", label="bias")
    _points(axes, predicted, residual)
    axes.set(xlabel=f"predicted {_literal(name)}", ylabel="predicted less true")
    axes.legend(loc="upper left", framealpha=0.8, edgecolor="none", fontsize="small")
    return figure


def _points(axes: Axes, across: np.ndarray, up: np.ndarray) -> None:
    """Draw points; as pixels where they are so many that a page would be heavy with them."""
    shade = 0.5 if len(across) < 2000 else 0.1
    axes.scatter(across, up, s=9, color="#4c78a8", alpha=shade, linewidths=0, rasterized=len(across) > 2000)
    axes.grid(color="0.93")
    axes.set_axisbelow(True)


def outlined(image: np.ndarray, true: np.ndarray, found: np.ndarray, *, side: int) -> Image.Image:
    """Draw the outlines of a mask, and of what is predicted, on an image.

    Args:
        image: uint8 `[C, H, W]`, C of 1 or 3.
        true: Pixels of the mask, bool `[H, W]`; outlined in green.
        found: Pixels that are predicted, bool `[H, W]`; outlined in orange, over the green.
        side: Least height and width of the picture, to which a smaller image is enlarged a whole number of times.
    """
    times = max(1, -(-side // min(true.shape)))
    pixels = np.broadcast_to(image, (3, *image.shape[1:])).transpose(1, 2, 0)
    picture = np.ascontiguousarray(pixels.repeat(times, axis=0).repeat(times, axis=1))
    for mask, colour in ((true, (60, 220, 90)), (found, (255, 140, 40))):
        large = np.pad(mask.repeat(times, axis=0).repeat(times, axis=1), 2)
        inner = large.copy()
        for step in (1, 2):
            for axis in (0, 1):
                inner &= np.roll(large, step, axis) & np.roll(large, -step, axis)
        picture[(large & ~inner)[2:-2, 2:-2]] = colour
    return Image.fromarray(picture)


def overlap_histogram(overlaps: np.ndarray, *, title: str) -> Figure:
    """Draw how many images have which Dice.

    Args:
        overlaps: Dice in the first column `[N, 2]`, NaN for images without a mask.
        title: Title.
    """
    dice = overlaps[~np.isnan(overlaps[:, 0]), 0]
    figure = Figure(figsize=(4.5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.hist(dice, bins=20, range=(0, 1), color="#4c78a8", edgecolor="white")
    if len(dice):
        axes.axvline(np.median(dice), color="#1c2430", linewidth=1.2, label=f"median {np.median(dice):.3f}")
        axes.legend(frameon=False, fontsize="small")
    axes.set(title=title, xlabel="Dice", ylabel="images", xlim=(0, 1))
    return figure
