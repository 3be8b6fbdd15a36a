"""Figures, drawn with matplotlib without a screen."""

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor


def reliability_diagram(reliability: Tensor, *, title: str) -> Figure:
    """Draw accuracy against confidence, with the number of samples below.

    Args:
        reliability: Count, mean confidence and accuracy of each bin `[15, 3]`, NaN where a bin is empty.
        title: Title.
    """
    count, confidence, accuracy = reliability.numpy().T
    edges = np.linspace(0, 1, len(count) + 1)
    middle, width = (edges[:-1] + edges[1:]) / 2, edges[1] - edges[0]
    figure = Figure(figsize=(4.5, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="perfect")
    upper.bar(middle, np.nan_to_num(accuracy), width, color="#4c78a8", edgecolor="white", label="accuracy")
    gap = np.nan_to_num(confidence - accuracy)
    upper.bar(middle, gap, width, np.nan_to_num(accuracy), color="#e45756", alpha=0.35, label="gap to confidence")
    upper.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="upper left", framealpha=0.8, edgecolor="none", fontsize="small")
    lower.bar(middle, count, width, color="0.6", edgecolor="white")
    lower.set(xlabel="confidence", ylabel="samples")
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
        ticks, names = range(len(order)), [classes[i] for i in order]
    else:
        ticks = [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)]
        names = [groups[order[start]] for start in starts]
    axes.set_xticks(ticks, names, rotation=90, fontsize=7)
    axes.set_yticks(ticks, names, fontsize=7)
    for start in starts[1:]:
        axes.axhline(start - 0.5, color="white", linewidth=0.4)
        axes.axvline(start - 0.5, color="white", linewidth=0.4)
    axes.set(title=title, xlabel="probability of", ylabel="true class")
    bar = figure.colorbar(image, label="soft label", ticks=range(-6, 1))
    bar.ax.set_yticklabels([f"$10^{{{power}}}$" if power else "1" for power in range(-6, 1)])
    return figure
