"""The numbers of a report as text."""

from collections.abc import Mapping, Sequence

from ols.metrics.measures import find_measure
from ols.tasks.report.parts import Card, Cell, Row
from ols.tasks.task import Values


def percent(value: float | None) -> str:
    """Return a fraction in percent."""
    return "n/a" if value is None else f"{value:.1%}"


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with a fixed number of digits."""
    return "n/a" if value is None else f"{value:z.{digits}f}"


def measure_text(name: str, value: float | None) -> str:
    """Return a measure's value as a report prints it: a digit more of a percentage than in a table of a run."""
    measure = find_measure(name)
    return percent(value) if measure.percent else measure.text(value) if measure.whole else number(value)


def interval_text(name: str, values: Values) -> str:
    """Return the interval of a measure; nothing where it has none."""
    if f"{name}_low" not in values:
        return ""
    low, high = (measure_text(name, values[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{low} to {high}"


def measure_row(name: str, columns: Sequence[Values]) -> Row:
    """Return a measure's row; a value does not stand without its interval, nor without its null and number of images.

    Args:
        name: Of the measure.
        columns: Values of each column by name, with what belongs to them; `NAME_count` where it is of other things than
            images, such as pixels.
    """
    measure, cells = find_measure(name), []
    for values in columns:
        below = [text] if (text := interval_text(name, values)) else []
        if f"{name}_null" in values:
            of = values.get(f"{name}_count", values["count"])
            below.append(f"null {measure_text(name, values[f'{name}_null'])}, N = {of:,.0f}")
        cells.append(Cell(measure_text(name, values[name]), below=below))
    return Row([Cell(f"{measure.label} {measure.arrow}", note=measure.note), *cells])


def measure_rows(parts: Mapping[str, Sequence[str]], columns: Sequence[Values]) -> dict[str, list[Row]]:
    """Return the rows of measures by the headings of their parts; see `measure_row`."""
    return {part: [measure_row(name, columns) for name in names] for part, names in parts.items()}


def measure_card(name: str, values: Values, *, split: str, images: int) -> Card:
    """Return the card of a measure on a split, with its interval and the number of images."""
    note = ", ".join(part for part in (interval_text(name, values), f"{images:,} images") if part)
    return Card(f"{find_measure(name).label} on {split}", measure_text(name, values[name]), note)


def some_names(names: Sequence[str], *, most: int = 5) -> str:
    """Return names as a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if names[most:] else "")
