"""How well the maps of a trained model hit each marked image: a table on disk, and means with their intervals."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ols.files import write_file
from ols.metrics.resampling import bootstrap_interval, resample

LOCALISED = "localised_images.csv"  # name of the file in what is measured of a run
RESAMPLES = 2000
FEWEST = 5  # patients that an interval is drawn from


@dataclass(frozen=True)
class Estimate:
    """A mean over images.

    Args:
        mean: NaN without an image.
        low: Lower end of its 95 % interval; NaN for fewer than five patients, or where all images have the same score:
            these give no idea of how far others may be from them.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class LocalisedImages:
    """Scores of marked images.

    Args:
        names: File name of each image `[N]`.
        patients: Patient of each `[N]`.
        scores: By map and measure, float64 `[N]` each, NaN where the lesion was cut off; the activation map is the
            first, the second what it has to beat.
    """

    names: list[str]
    patients: list[str]
    scores: Mapping[str, Mapping[str, NDArray]]

    def write(self, path: Path) -> None:
        """Write a row for each image, with columns `filename`, `patient` and `MAP/MEASURE`; NaN is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns = [(name, measure) for name, of_map in self.scores.items() for measure in of_map]
        writer.writerow(["filename", "patient", *(f"{name}/{measure}" for name, measure in columns)])
        values = [self.scores[name][measure].tolist() for name, measure in columns]
        for image, patient, *row in zip(self.names, self.patients, *values, strict=True):
            writer.writerow([image, patient, *("" if np.isnan(value) else repr(value) for value in row)])
        write_file(path, text.getvalue())

    @classmethod
    def read(cls, path: Path) -> "LocalisedImages":
        """Read what `write` has written."""
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        columns = list(zip(*rows, strict=True)) or [()] * len(header)
        scores: dict[str, dict[str, NDArray]] = {}
        for title, cells in zip(header[2:], columns[2:], strict=True):
            name, measure = title.split("/")
            scores.setdefault(name, {})[measure] = np.array([float(cell or "nan") for cell in cells])
        return cls(list(columns[0]), list(columns[1]), scores)

    def in_order_of_names(self) -> "LocalisedImages":
        """Return the same scores with the images in the order of their names."""
        order = np.argsort(self.names, kind="stable").tolist()
        return LocalisedImages(
            [self.names[place] for place in order],
            [self.patients[place] for place in order],
            {name: {m: values[order] for m, values in of_map.items()} for name, of_map in self.scores.items()},
        )

    def ahead(self) -> "LocalisedImages":
        """Return by how much the activation map is ahead of the second one, as the scores of a single map."""
        (name, own), (_, other) = list(self.scores.items())[:2]
        return LocalisedImages(self.names, self.patients, {name: {m: own[m] - other[m] for m in own if m in other}})

    def less(self, other: "LocalisedImages") -> "LocalisedImages":
        """Return scores less those of the same images by another model.

        Raises:
            ValueError: The images are others, or in another order.
        """
        if self.names != other.names:
            raise ValueError("expected scores of the same images in the same order")
        scores = {
            name: {m: values - other.scores[name][m] for m, values in of_map.items() if m in other.scores[name]}
            for name, of_map in self.scores.items()
        }
        return LocalisedImages(self.names, self.patients, scores)

    def means(self, *, floor: float = 0.0, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
        """Return the mean of each measure of the activation map, with its 95 % interval, patients drawn anew.

        Args:
            floor: Least value that a score may have: 0, or -1 of a difference.
            resamples: Number of draws.
            seed: Of the draws.
        """
        of_map = next(iter(self.scores.values()))
        values = np.stack(list(of_map.values()), axis=1)
        known = ~np.isnan(values).any(axis=1)
        patients = np.array(self.patients)[known]
        floors = np.full(len(of_map), floor)
        count = len(np.unique(patients))
        found = estimate_means(values[known], floors, count, patients, resamples, seed)
        return dict(zip(of_map, found, strict=True))


def estimate_means(
    values: NDArray, floors: NDArray, num_patients: int, clusters: NDArray | None, resamples: int, seed: int
) -> list[Estimate]:
    """Return the mean of each column of values `[N, M]`, which lie between its floor `[M]` and 1.

    Args:
        values: Of images.
        floors: Least value that a column may have.
        num_patients: How many the images are of.
        clusters: Patient of each image `[N]`; None where each is of one of its own.
        resamples: Number of draws.
        seed: Of the draws.
    """
    if not len(values):
        return [Estimate(np.nan, np.nan, np.nan)] * values.shape[1]
    means = values.mean(axis=0)
    if num_patients < FEWEST:
        return [Estimate(float(mean), np.nan, np.nan) for mean in means]
    drawn = resample(
        lambda counts: counts @ values / counts.sum(axis=1, keepdims=True),
        len(values),
        resamples=resamples,
        seed=seed,
        clusters=clusters,
    )
    lows, highs = np.clip(bootstrap_interval(means, drawn), floors, 1.0)
    spread = np.ptp(values, axis=0) > 0
    lows, highs = np.where(spread, lows, np.nan), np.where(spread, highs, np.nan)
    return [Estimate(*map(float, ends)) for ends in zip(means, lows, highs, strict=True)]
