"""A comparison of two networks as others read it: JSON and CSV for programs, a page in words, and two pictures."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ols.evaluation.agreement import Agreement
from ols.files import write_file
from ols.representations.pairs import LayerPair
from ols.representations.similarity import MEASURES, ROWS_PER_FEATURE

FORMAT = 1
LABELS = {"mean_cca": "mean CCA", "svcca": "SVCCA", "pwcca": "PWCCA", "cka": "CKA"}
WRITTEN_UP_TO = 8  # layers of a heat map that has its numbers written in


@dataclass(frozen=True)
class Network:
    """A network that was compared.

    Args:
        name: What it is called.
        architecture: timm's name of it.
        weights: Checksum of the file with its weights, or where they come from.
        preprocessing: What was done to its images.
    """

    name: str
    architecture: str
    weights: str
    preprocessing: dict[str, Any]


@dataclass(frozen=True)
class SimilarityReport:
    """Everything that is known of a comparison.

    Args:
        first: One network.
        second: The other.
        ceiling: A third that the first may be as alike as anything can be, where there is one.
        pairs: What `compare_layers` returns.
        images: Images that were looked at.
        points: Points in each; 1 where maps were averaged.
        averaged: Whether they were.
        draws: Permutations of the images that chance is of.
        agreements: Of the first network's predictions and those of the others, by `second` and `ceiling`.
        remarks: Sentences that a reader needs, such as why there are no agreements.
        conditions: Data, seed, device, versions, date, commit.
    """

    first: Network
    second: Network
    ceiling: Network | None
    pairs: list[LayerPair]
    images: int
    points: int
    averaged: bool
    draws: int
    agreements: dict[str, Agreement]
    remarks: list[str]
    conditions: dict[str, Any]

    @property
    def same_layers(self) -> list[LayerPair]:
        """The pairs of layers of one name, in their order."""
        return [pair for pair in self.pairs if pair.first == pair.second]


def write_similarity(folder: Path, report: SimilarityReport) -> None:
    """Write `similarity.json`, `similarity.csv`, `similarity.md`, `all_layers.png`, and `layer_by_layer.png`.

    The last one only where the networks have layers of the same names.
    """
    write_file(folder / "similarity.json", json.dumps(_finite({"format": FORMAT, **asdict(report)}), indent=2))
    file = StringIO()
    rows = _rows(report.pairs)
    writer = csv.DictWriter(file, ["format", *rows[0]])
    writer.writeheader()
    writer.writerows({"format": FORMAT, **row} for row in rows)
    write_file(folder / "similarity.csv", file.getvalue())
    pictures = {"all_layers": draw_all_layers(report.pairs)}
    if report.same_layers:
        pictures["layer_by_layer"] = draw_layer_by_layer(report.same_layers)
    for name, figure in pictures.items():
        picture = BytesIO()
        figure.savefig(picture, format="png", dpi=150)
        write_file(folder / f"{name}.png", picture.getvalue())
    write_file(folder / "similarity.md", markdown(report))


def markdown(report: SimilarityReport) -> str:
    """Return the page: what was compared, layers of one name in a table, what cannot be said, and the conditions."""
    first, second, ceiling = report.first, report.second, report.ceiling
    where = "the mean over all positions" if report.averaged else f"{report.points} points"
    rows = report.pairs[0].rows
    parts = [
        f"# How alike are {first.name} and {second.name}?",
        f"{report.images:,} images, in each {where} of every layer: {rows:,} rows. Chance: images are permuted and "
        f"points of images are not, mean of {report.draws} draws. "
        + (
            f"Ceiling: {first.name} and {ceiling.name}."
            if ceiling
            else "No ceiling: a run that differs from the first by its seed alone would give one, as --ceiling."
        ),
    ]
    if report.same_layers:
        columns = list(MEASURES)
        table = [["layer", "dimensions", *map(LABELS.__getitem__, columns)]]
        for pair in report.same_layers:
            cells = [_cell(pair, name) for name in columns]
            table.append([f"`{pair.first}`", " and ".join(map(str, pair.directions)), *cells])
        legend = "A cell: similarity (chance" + (", ceiling)." if ceiling else ").")
        parts += ["## Layer by layer", _table(table), legend, "![Similarity of layers of one name](layer_by_layer.png)"]
    else:
        parts.append("The networks have no layers of the same name: there is no comparison layer by layer.")
    parts += ["## All against all", "![Similarity of each layer with each](all_layers.png)"]
    parts.append(
        "PWCCA weights by the first network's features, and is not symmetric. All numbers are in `similarity.csv` and "
        "`similarity.json`."
    )
    if silent := _too_few(report.pairs):
        parts += ["## What cannot be said", silent]
    parts += ["## Do they err on the same images?", *_agreement_words(report)]
    parts += ["## Conditions", _conditions(report)]
    return "\n\n".join(parts) + "\n"


def draw_layer_by_layer(pairs: Sequence[LayerPair]) -> Figure:
    """Draw a panel for each measure: similarity of layers of one name from the stem on, chance and ceiling.

    Args:
        pairs: Of layers of one name, in their order.
    """
    names = [pair.first for pair in pairs]
    figure = Figure(figsize=(max(7.0, 3.0 + 0.7 * len(pairs)), 6), layout="constrained")
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    places = np.arange(len(pairs))
    for axes, measure in zip(grid.flat, MEASURES, strict=True):
        value, null, low, high = np.array([pair.similarities[measure] for pair in pairs]).T
        axes.fill_between(places, low, high, color="0.8", linewidth=0)
        axes.plot(places, null, "--", color="0.45", linewidth=1.2, marker="_", label="chance, and its draws")
        if pairs[0].ceiling:
            ceiling = [pair.ceiling[measure] for pair in pairs]
            axes.plot(
                places, ceiling, "^:", color="#54a24b", linewidth=1.4, markersize=5, label="ceiling, another seed"
            )
        axes.plot(places, value, "o-", color="#4c78a8", linewidth=1.8, markersize=5, label="the two networks")
        for place in places[np.isnan(value)]:
            axes.text(place, 0.5, "too few\nrows", ha="center", va="center", fontsize=7, color="0.45")
        axes.set_title(LABELS[measure], fontsize=10)
        axes.set_xticks(places, names, rotation=45, ha="right", fontsize=8, parse_math=False)
        axes.set(ylim=(min(-0.03, float(np.nanmin([0, *low]))), 1.03), xlim=(-0.4, len(pairs) - 0.6))
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
    handles, texts = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_all_layers(pairs: Sequence[LayerPair]) -> Figure:
    """Draw each layer of the first network (rows) with each of the second: a column of heat maps for each measure.

    The rows of heat maps, all on one scale: similarity, chance, and the ceiling where there is one.

    Args:
        pairs: What `compare_layers` returns.
    """
    rows, columns = (list(dict.fromkeys(getattr(pair, side) for pair in pairs)) for side in ("first", "second"))
    shown: dict[str, Callable[[LayerPair, str], float]] = {
        "similarity": lambda pair, measure: pair.similarities[measure].value,
        "chance": lambda pair, measure: pair.similarities[measure].null,
    }
    if pairs[0].ceiling:
        shown["ceiling"] = lambda pair, measure: pair.ceiling[measure]
    size = [1.6 + 0.24 * max(len(names), 4) for names in (columns, rows)]
    figure = Figure(figsize=(4 * size[0] + 1, len(shown) * size[1] + 0.8), layout="constrained")
    grid = figure.subplots(len(shown), len(MEASURES), sharex=True, sharey=True, squeeze=False)
    for line, (name, take) in zip(grid, shown.items(), strict=True):
        for axes, measure in zip(line, MEASURES, strict=True):
            values = np.array([take(pair, measure) for pair in pairs]).reshape(len(rows), len(columns))
            axes.set_facecolor("0.85")  # too few rows
            image = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", vmin=0, vmax=1, aspect="auto")
            if max(values.shape) <= WRITTEN_UP_TO:
                for (row, column), value in np.ndenumerate(values):
                    text = "few\nrows" if math.isnan(value) else f"{value:.2f}".removeprefix("0").replace("-0", "-")
                    color = "0.4" if math.isnan(value) else "black" if value > 0.6 else "white"
                    axes.text(column, row, text, ha="center", va="center", fontsize=6, color=color)
            axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7, parse_math=False)
            axes.set_yticks(range(len(rows)), rows, fontsize=7, parse_math=False)
            axes.set_title(f"{LABELS[measure]}, {name}", fontsize=9)
        line[0].set_ylabel("first network", fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("second network; ceiling: third" if pairs[0].ceiling else "second network", fontsize=9)
    figure.colorbar(image, ax=grid, shrink=0.6, label="similarity; gray: too few rows")
    return figure


def _rows(pairs: Sequence[LayerPair]) -> list[dict[str, Any]]:
    return [
        {
            "first": pair.first,
            "second": pair.second,
            "measure": measure,
            "rows": pair.rows,
            "first_dimensions": _compared(pair, measure)[0],
            "second_dimensions": _compared(pair, measure)[1],
            **{name: _blank(number) for name, number in found._asdict().items()},
            "ceiling": _blank(pair.ceiling.get(measure, math.nan)),
        }
        for pair in pairs
        for measure, found in pair.similarities.items()
    ]


def _blank(number: float) -> float | str:
    return "" if math.isnan(number) else number


def _compared(pair: LayerPair, measure: str) -> tuple[int, int]:
    return pair.components if measure == "svcca" else pair.directions


def _cell(pair: LayerPair, measure: str) -> str:
    found = pair.similarities[measure]
    if math.isnan(found.value):
        return "too few rows"
    beside = [found.null] + ([pair.ceiling[measure]] if pair.ceiling else [])
    return f"{found.value:.3f} ({', '.join('n/a' if math.isnan(number) else f'{number:.3f}' for number in beside)})"


def _too_few(pairs: Sequence[LayerPair]) -> str:
    lines = []
    for measure in MEASURES:
        silent = [pair for pair in pairs if math.isnan(pair.similarities[measure].value)]
        if silent:
            most = max(max(_compared(pair, measure)) for pair in silent)
            lines.append(
                f"- {LABELS[measure]}: {len(silent)} of {len(pairs)} pairs of layers have fewer than "
                f"{ROWS_PER_FEATURE} rows for each of up to {most:,} dimensions; "
                f"{ROWS_PER_FEATURE * most:,} rows would do."
            )
    if not lines:
        return ""
    return "\n".join(
        [*lines, "", "With fewer rows, independent features correlate by chance. CKA needs no such number."]
    )


def _agreement_words(report: SimilarityReport) -> list[str]:
    others = {"second": report.second, "ceiling": report.ceiling}
    words = []
    for role, found in report.agreements.items():
        other = others[role]
        assert other is not None
        kappa = "undefined: both are always right, or always wrong"
        if not math.isnan(found.kappa):
            kappa = f"{found.kappa:.3f} (95 % interval {found.low:.3f} to {found.high:.3f})"
        unit = "patients" if found.patients < found.images else "images"
        words.append(
            f"{report.first.name} and {other.name} are both right or both wrong on {100 * found.observed:.1f} % of "
            f"{found.images:,} images ({100 * found.observed_low:.1f} to {100 * found.observed_high:.1f} %); "
            f"independent errors at their accuracies would give {100 * found.chance:.1f} %. Kappa {kappa}. "
            f"The intervals draw {found.patients:,} {unit} anew."
        )
    return words + report.remarks


def _conditions(report: SimilarityReport) -> str:
    lines = []
    for role, network in (("first", report.first), ("second", report.second), ("ceiling", report.ceiling)):
        if network is not None:
            lines.append(f"- {role}: {network.name}, {network.architecture}, weights {network.weights}")
    lines += [f"- {name}: {value}" for name, value in report.conditions.items() if not isinstance(value, (dict, list))]
    return "\n".join(lines)


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def _finite(record: Any) -> Any:
    """Return a record for JSON, which has no NaN: null stands for what is undefined."""
    if isinstance(record, dict):
        return {name: _finite(value) for name, value in record.items()}
    if isinstance(record, tuple) and hasattr(record, "_asdict"):
        return _finite(record._asdict())
    if isinstance(record, list | tuple):
        return [_finite(value) for value in record]
    return None if isinstance(record, float) and math.isnan(record) else record
