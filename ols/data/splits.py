"""Splits as files: made once, named by every run of a comparison, and checked whenever they are read.

A split file is JSON with a checksum: the name and the group (patient) of every image, and for each fold the positions
of training, validation and test images in these lists. Training images stand in the order in which shares of them grow:
10 % are the first patients of 50 %.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from ols.data.sources.protocol import SPLITS, ImageSource, Split, target_kind
from ols.files import read_record, write_record
from ols.keyed import keyed_uniform

BINS = 10  # of the numbers that regression targets are stratified by, at most
SHARE_ORDER = int.from_bytes(b"shares")  # keys the order in which shares grow


@dataclass(frozen=True)
class Folds:
    """Which images are trained on, validated on and tested on, fold by fold.

    Args:
        ids: Name of each image, `[N]`.
        groups: What each belongs to, such as its patient, `[N]`.
        folds: Positions of the images of each split, int64; `train` in the order in which shares grow.
        made: How they were made: number of folds, share of validation, seed, and the like.

    Raises:
        ValueError: A fold does not have each image exactly once, or a group lies in two of its splits; or there are
            several folds, and an image is not tested in exactly one; or, where all test the same images, another is not
            validated on in exactly one. The message names it.
    """

    ids: list[str]
    groups: list[str]
    folds: list[dict[Split, np.ndarray]]
    made: dict[str, Any]

    def __post_init__(self):
        for number, fold in enumerate(self.folds):
            places = np.concatenate([fold[split] for split in SPLITS])
            if not np.array_equal(np.sort(places), np.arange(len(self.ids))):
                raise ValueError(f"fold {number} does not have each of {len(self.ids):,} images exactly once")
            if empty := [split for split in SPLITS if not len(fold[split])]:
                raise ValueError(f"fold {number} has no image in {empty[0]}")
        groups = np.array(self.groups)
        for number, split_of in enumerate(self.split_of):
            if crossing := _divided(groups, split_of):
                sides = " and ".join(SPLITS[index] for index in sorted(set(split_of[groups == crossing].tolist())))
                raise ValueError(f"patient {crossing} lies in {sides} of fold {number}")
        if len(self.folds) > 1:
            split, done, turn = SPLITS.index("test"), "tested", np.arange(len(self.ids))
            if self.has_fixed_test:
                split, done, turn = SPLITS.index("val"), "validated on", turn[self.split_of[0] != split]
            times = (self.split_of == split).sum(axis=0)
            if (wrong := turn[times[turn] != 1]).size:
                raise ValueError(f"{self.ids[wrong[0]]} is {done} in {times[wrong[0]]} folds instead of one")

    @cached_property
    def split_of(self) -> np.ndarray:
        """Which of `SPLITS` each image is in, of each fold, int64 `[F, N]`."""
        numbers = np.empty((len(self.folds), len(self.ids)), np.int64)
        for row, fold in zip(numbers, self.folds, strict=True):
            for index, split in enumerate(SPLITS):
                row[fold[split]] = index
        return numbers

    @property
    def has_fixed_test(self) -> bool:
        """Whether there are several folds, and all test the same images."""
        is_test = self.split_of == SPLITS.index("test")
        return len(self.folds) > 1 and bool((is_test == is_test[0]).all())

    def pools(self, fold: int, *, share: float = 1.0) -> dict[Split, np.ndarray]:
        """Return the positions of the images of each split of a fold, int64.

        Args:
            fold: Number of the fold, from 0.
            share: Part of the training images, by whole groups: the first ones until there are enough, so that smaller
                shares lie in larger ones. Validation and test stay whole.

        Raises:
            ValueError: There is no such fold, or the share does not lie in (0, 1].
        """
        if not 0 <= fold < len(self.folds):
            raise ValueError(f"fold must lie in [0, {len(self.folds) - 1}], got {fold}")
        if not 0 < share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {share}")
        pools = dict(self.folds[fold])
        train = pools["train"]
        groups = np.array(self.groups)[train]
        ends = np.append(np.flatnonzero(groups[1:] != groups[:-1]) + 1, len(train))  # where a group ends
        pools["train"] = np.sort(train[: ends[np.searchsorted(ends, share * len(train) - 1e-9)]])
        return pools

    def divides(self, first: int, second: int) -> bool:
        """Return whether two images lie in different splits of some fold, given their positions."""
        return bool((self.split_of[:, first] != self.split_of[:, second]).any())

    def aligned_with(self, source: ImageSource) -> "Folds":
        """Return the folds for a data set that has the same images in any order.

        Raises:
            ValueError: It has other images; or a patient of it, as it is known now, lies in two splits of a fold.
        """
        position = {source.sample_id(index): index for index in range(len(source))}
        missing = [name for name in self.ids if name not in position]
        if missing or len(position) != len(self.ids):
            more = f", such as {missing[0]}" if missing else ""
            raise ValueError(
                f"the split is of {len(self.ids):,} images, {len(missing):,} of which the data set lacks{more}; it has "
                f"{len(position):,}: make a split of it"
            )
        place = np.array([position[name] for name in self.ids])
        joined = [""] * len(place)
        for old, new in enumerate(place.tolist()):
            joined[new] = self.groups[old]
        folds = [{split: place[fold[split]] for split in SPLITS} for fold in self.folds]
        aligned = Folds(list(position), joined, folds, self.made)
        groups = np.array([source.sample_group(index) for index in range(len(source))])
        for number, split_of in enumerate(aligned.split_of):  # groups of the file may be larger than patients
            if crossing := _divided(groups, split_of):
                raise ValueError(f"patient {crossing} lies in two splits of fold {number}: make a split of this table")
        return aligned


def make_folds(
    source: ImageSource,
    *,
    folds: int = 5,
    val_share: float = 0.2,
    seed: int = 0,
    groups: list[str] | None = None,
) -> Folds:
    """Divide a data set into folds: every image is tested once, and groups are never divided.

    Stratified by what `strata_of` returns, as far as groups allow (scikit-learn's StratifiedGroupKFold, which is
    greedy: look at `describe_folds`). Validation is drawn from the rest of each fold in the same way.

    Args:
        source: The whole data set.
        folds: Their number, at least 2.
        val_share: Part of the images outside the test fold that validate, in (0, 0.5].
        seed: Of the draws.
        groups: What each image belongs to, `[N]`; by default its patient, see `ImageSource.sample_group`.

    Raises:
        ValueError: There are fewer groups than folds, or an argument lies outside its range.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    if not 0 < val_share <= 0.5:
        raise ValueError(f"val_share must lie in (0, 0.5], got {val_share}")
    groups = groups or [source.sample_group(index) for index in range(len(source))]
    names, strata = np.array(groups), strata_of(source)
    divided: list[dict[Split, np.ndarray]] = []
    for number, test in enumerate(_group_folds(strata, names, folds, seed)):
        rest = np.setdiff1d(np.arange(len(source)), test)
        val = rest[_group_folds(strata[rest], names[rest], round(1 / val_share), seed + 1 + number)[0]]
        train = np.setdiff1d(rest, val)
        divided.append({"train": _in_order_of_shares(train, strata, names, seed, number), "val": val, "test": test})
    ids = [source.sample_id(index) for index in range(len(source))]
    made = {"folds": folds, "val_share": val_share, "seed": seed, "kind": target_kind(source)}
    return Folds(ids, groups, divided, made)


def make_folds_of_training(source: ImageSource, given: np.ndarray, *, folds: int = 5, seed: int = 0) -> Folds:
    """Divide all but a test set that is given: every fold tests that, and each other image validates once.

    For sets whose test images are fixed by those who published them. Groups are never divided, and the parts are
    stratified as those of `make_folds`.

    Args:
        source: The whole data set.
        given: `train`, `val` or `test` of each image, `[N]`; the first two are one, and divided anew.
        folds: Number of folds, at least 2.
        seed: Of the draws.

    Raises:
        ValueError: A value is none of the three, a patient lies in test and outside, there are no test images, or fewer
            groups beside them than folds.
    """
    if folds < 2:
        raise ValueError(f"folds must be at least 2, got {folds}")
    if unknown := sorted(set(given.tolist()) - set(SPLITS)):
        raise ValueError(f"a given split is one of {', '.join(SPLITS)}, got {unknown[0]!r}")
    groups = [source.sample_group(index) for index in range(len(source))]
    names, strata = np.array(groups), strata_of(source)
    test, rest = np.flatnonzero(given == "test"), np.flatnonzero(given != "test")
    divided: list[dict[Split, np.ndarray]] = []
    for number, part in enumerate(_group_folds(strata[rest], names[rest], folds, seed)):
        train = _in_order_of_shares(np.setdiff1d(rest, rest[part]), strata, names, seed, number)
        divided.append({"train": train, "val": rest[part], "test": test})
    ids = [source.sample_id(index) for index in range(len(source))]
    made = {"folds": folds, "fixed_test": True, "seed": seed, "kind": target_kind(source)}
    return Folds(ids, groups, divided, made)


def adopt_split(source: ImageSource, given: np.ndarray, *, val_share: float = 0.2, seed: int = 0) -> Folds:
    """Take over a split that a data set comes with, as one fold; validation is drawn from training where it has none.

    Args:
        source: The whole data set.
        given: `train`, `val` or `test` of each image, `[N]`.
        val_share: Part of the training images that validate, where none are given.
        seed: Of the draw.

    Raises:
        ValueError: A value is none of the three, training or test is missing, or a patient lies on both sides.
    """
    if unknown := sorted(set(given.tolist()) - set(SPLITS)):
        raise ValueError(f"a given split is one of {', '.join(SPLITS)}, got {unknown[0]!r}")
    groups = [source.sample_group(index) for index in range(len(source))]
    names, strata = np.array(groups), strata_of(source)
    train, val, test = (np.flatnonzero(given == split) for split in SPLITS)
    if not len(val) and len(train):
        val = train[_group_folds(strata[train], names[train], round(1 / val_share), seed)[0]]
        train = np.setdiff1d(train, val)
    fold: dict[Split, np.ndarray] = {
        "train": _in_order_of_shares(train, strata, names, seed, 0),
        "val": val,
        "test": test,
    }
    ids = [source.sample_id(index) for index in range(len(source))]
    return Folds(ids, groups, [fold], {"given": True, "val_share": val_share, "seed": seed})


def strata_of(source: ImageSource) -> np.ndarray:
    """Return what a data set is stratified by, int64 `[N]`.

    Its classes; sets of labels, the rare ones (fewer than 10 images) by their rarest label; numbers in up to 10 bins of
    equal size; of masks, whether there is any foreground.
    """
    kind, targets = target_kind(source), source.targets
    if kind == "class":
        return targets
    if kind == "mask":
        has_foreground = cast("Any", source).has_foreground
        return np.array([int(has_foreground(index)) for index in range(len(source))])
    if kind == "regression":
        ranks = np.argsort(np.argsort(targets, kind="stable"), kind="stable")
        return ranks * min(BINS, max(1, len(targets) // 10)) // len(targets)
    positive = targets == 1
    sets = Counter(map(bytes, positive))
    support = positive.sum(axis=0)
    names = []
    for row in positive:
        found = np.flatnonzero(row)
        is_rare = sets[bytes(row)] < 10 and len(found) > 0
        names.append(f"rarest {found[support[found].argmin()]}" if is_rare else str(found.tolist()))
    return np.unique(names, return_inverse=True)[1]


def save_folds(path: Path, folds: Folds) -> None:
    """Write a split file, complete or absent."""
    record = asdict(folds)
    record["folds"] = [{split: fold[split].tolist() for split in SPLITS} for fold in folds.folds]
    write_record(path, record)


def load_folds(path: Path) -> Folds:
    """Read what `save_folds` wrote.

    Raises:
        DamagedFileError: The file is missing or altered.
        ValueError: It does not hold proper folds, see `Folds`.
    """
    record = read_record(path)
    try:
        folds = [{split: np.array(fold[split], np.int64) for split in SPLITS} for fold in record["folds"]]
        return Folds(record["ids"], record["groups"], folds, record["made"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is no split file: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def describe_folds(folds: Folds, source: ImageSource) -> str:
    """Return a line for each fold: images and groups of its splits, and how the targets of its test images lie."""
    lines, groups = [], np.array(folds.groups)
    for number, fold in enumerate(folds.folds):
        sizes = [f"{split} {len(fold[split]):,} ({len(set(groups[fold[split]])):,} groups)" for split in SPLITS]
        lines.append(f"fold {number}  {'  '.join(sizes)}  {_describe_targets(source, fold)}")
    return "\n".join(lines)


def _describe_targets(source: ImageSource, fold: Mapping[Split, np.ndarray]) -> str:
    kind, targets, test = target_kind(source), source.targets, fold["test"]
    if kind == "mask":
        return ""
    if kind == "regression":
        return f"mean of test {targets[test].mean():.4g}, of all {targets.mean():.4g}"
    if kind == "multilabel":
        here, everywhere = (targets == 1)[test].mean(axis=0), (targets == 1).mean(axis=0)
    else:
        here, everywhere = (np.bincount(t, minlength=len(source.classes)) / len(t) for t in (targets[test], targets))
    worst = int(np.abs(here - everywhere).argmax())
    text = f"{source.classes[worst]} {here[worst]:.1%} of test, {everywhere[worst]:.1%} of all"
    absent = [
        f"{name} in {split}"
        for split in SPLITS
        for name, count in zip(source.classes, _positives(source, fold[split]), strict=True)
        if not count
    ]
    return text + (f"; NO IMAGE of {', '.join(absent)}" if absent else "")


def _positives(source: ImageSource, pool: np.ndarray) -> np.ndarray:
    targets = source.targets[pool]
    return (targets == 1).sum(axis=0) if targets.ndim == 2 else np.bincount(targets, minlength=len(source.classes))


def _divided(groups: np.ndarray, split_of: np.ndarray) -> str | None:
    """Return a group that lies in several splits; None where there is none."""
    pairs = np.unique(np.stack([np.unique(groups, return_inverse=True)[1], split_of]), axis=1)[0]
    twice = pairs[1:][pairs[1:] == pairs[:-1]]
    return str(np.unique(groups)[twice[0]]) if len(twice) else None


def _group_folds(strata: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[np.ndarray]:
    """Return the positions of each fold's images, int64, in ascending order."""
    from sklearn.model_selection import StratifiedGroupKFold

    if (count := len(set(groups.tolist()))) < folds:
        raise ValueError(f"{count} groups cannot be divided into {folds}")
    if np.bincount(strata).max() < folds:
        strata = np.zeros_like(strata)  # nothing to stratify by
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # what is rare, `describe_folds` names
        warnings.filterwarnings("ignore", "The least populated class in y has only", UserWarning)
        return [test for _, test in splitter.split(strata, strata, groups)]


def _in_order_of_shares(train: np.ndarray, strata: np.ndarray, groups: np.ndarray, seed: int, fold: int) -> np.ndarray:
    """Return training images so that the first of them are a stratified share, by whole groups.

    Each group belongs to the rarest stratum that it has. Groups of a stratum are shuffled and spread evenly over
    [0, 1): sorted by these places, every beginning has about as much of each stratum as the whole.
    """
    names, group_of = np.unique(groups[train], return_inverse=True)
    support = np.bincount(strata[train], minlength=strata.max() + 1)
    stratum = np.full(len(names), -1)
    for member, value in zip(group_of.tolist(), strata[train].tolist(), strict=True):
        if stratum[member] < 0 or support[value] < support[stratum[member]]:
            stratum[member] = value
    drawn = keyed_uniform(SHARE_ORDER, seed, fold, np.arange(len(names)))
    place = np.empty(len(names))
    for value in np.unique(stratum):
        members = np.flatnonzero(stratum == value)
        members = members[np.argsort(drawn[members])]
        place[members] = np.arange(len(members)) / len(members)
    order = np.lexsort((drawn, place))
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return train[np.argsort(rank[group_of], kind="stable")]
