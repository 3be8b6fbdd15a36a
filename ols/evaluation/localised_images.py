"""How well the maps of a trained model hit each marked image: a table on disk, and means with their intervals."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ols.files import write_file
from ols.metrics.resampling import bootstrap_interval, mean_of_counts, resample

LOCALISED = "localised_images.csv"  # name of the file in what is measured of a run
RESAMPLES = 2000
FEWEST = 5  # patients that an interval is drawn from


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

    def means(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, tuple[float, float, float]]:
        """Return the mean of each measure of the activation map, with its 95 % interval, patients drawn anew.

        Ends are NaN for fewer than five patients, or where all images have the same score.

        Args:
            resamples: Number of draws.
            seed: Of the draws.
        """
        found = {}
        patients = np.array(self.patients)
        for measure, scores in next(iter(self.scores.values())).items():
            known = ~np.isnan(scores)
            values = scores[known]
            found[measure] = (float(values.mean()) if len(values) else np.nan, np.nan, np.nan)
            if len(np.unique(patients[known])) >= FEWEST and np.ptp(values) > 0:
                drawn = resample(
                    mean_of_counts(values), len(values), resamples=resamples, seed=seed, clusters=patients[known]
                )
                low, high = bootstrap_interval(found[measure][0], drawn)
                found[measure] = (found[measure][0], float(low), float(high))
        return found
