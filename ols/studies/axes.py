"""The named axes of a study, and the cells that they make.

An axis is a name and its values. A value is a label and a piece of configuration. A cell takes one value of each axis.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from ols.runs.folder import flatten
from ols.studies.labels import LOSS, MODEL, SEED, is_within

# Axes whose values are the values of one key that is written often.
SHORT_NAMES = {
    LOSS: "loss.name",
    MODEL: "model.name",
    "lr": "optim.peak_lr",
    "fold": "split.fold",
    "share": "split.share",
}
# What a study sets in each run, or never sets, so that neither an axis nor the overrides can.
RESERVED_KEYS = ("run_dir", "dry_run", "config", "cell")
MOST_NAME_BYTES = 120  # of a cell; file systems allow 255, of which names of locks and logs need some
HASH_BYTES = 4


@dataclass(frozen=True)
class Axis:
    """What is varied, and how.

    Args:
        name: Name, such as `loss`.
        values: Configuration by dotted keys, by the label of the value.
    """

    name: str
    values: dict[str, dict[str, Any]]

    @property
    def keys(self) -> list[str]:
        """The dotted keys that its values set."""
        return list(dict.fromkeys(key for value in self.values.values() for key in value))

    @property
    def section_keys(self) -> list[str]:
        """The same, or the section of the configuration that the axis is named for, where they all lie in it."""
        return [self.name] if all(is_within(key, [self.name]) for key in self.keys) else self.keys


@dataclass(frozen=True)
class Cell:
    """One value of each axis.

    Args:
        labels: Label of the value, by the name of the axis, in the order of the axes.
        config: What its values set, by dotted keys.
    """

    labels: dict[str, str]
    config: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its folder: its labels, with the end of the axis's name before those that begin with a digit.

        Where that is longer than file systems like, its end is replaced by a hash of the labels.
        """
        parts = [
            axis.rsplit(".", 1)[-1] + label if label[0].isdigit() else label for axis, label in self.labels.items()
        ]
        name = "-".join(parts)
        if len(name.encode()) <= MOST_NAME_BYTES:
            return name
        known_by = hashlib.blake2b(json.dumps(self.labels).encode(), digest_size=HASH_BYTES).hexdigest()
        kept = name.encode()[: MOST_NAME_BYTES - len(known_by) - 1].decode(errors="ignore")
        return f"{kept}-{known_by}"


def list_cells(axes: Sequence[Axis], where: Sequence[Mapping[str, Any]] = ()) -> list[Cell]:
    """Return the product of the axes, each in its order, the last one varying first.

    Seeds vary last, wherever they stand, so that all other combinations have their first results early.

    Args:
        axes: The axes.
        where: Rules that leave combinations out, see `Study`.
    """
    rules = [(_labels_of(rule["when"]), _labels_of(rule["only"])) for rule in where]
    slowest_first = sorted(axes, key=lambda axis: axis.name != SEED)
    cells = []
    for combination in product(*(axis.values.items() for axis in slowest_first)):
        chosen = {axis.name: value for axis, value in zip(slowest_first, combination, strict=True)}
        labels = {axis.name: chosen[axis.name][0] for axis in axes}
        if any(_agrees(labels, when) and not _agrees(labels, only) for when, only in rules):
            continue
        config = {key: value for axis in axes for key, value in chosen[axis.name][1].items()}
        cells.append(Cell(labels, config))
    return cells


def _labels_of(condition: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return labels by the name of their axis; one label alone is a list of one."""
    lists = {name: value if isinstance(value, list) else [value] for name, value in condition.items()}
    return {name: [_label(value) for value in values] for name, values in lists.items()}


def _agrees(labels: Mapping[str, str], condition: Mapping[str, list[str]]) -> bool:
    return all(labels[axis] in allowed for axis, allowed in condition.items())


def _label(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def check_overrides(axes: Sequence[Axis], keys: Iterable[str]) -> None:
    """Make sure that overrides leave alone what a study varies.

    Raises:
        ValueError: They do not; the message names the key and the axis.
    """
    varied = {key: "the study does" for key in RESERVED_KEYS}
    for axis in axes:
        # Another loss would drop the options of the one before, so all of its section goes with its name.
        keys_of_axis = [*axis.keys, "loss"] if "loss.name" in axis.keys else axis.keys
        varied |= {key: f"the axis {axis.name} does" for key in keys_of_axis}
    for key in keys:
        for of_study, who in varied.items():
            if _overlap(key, of_study):
                raise ValueError(f"overrides cannot set {key}: {who}")


def build_axis(name: str, values: Any) -> Axis:
    """Return the axis that a study's file describes, see `ols.studies.grid.Study`.

    Raises:
        ValueError: Something is empty, twice or not a value, or a label cannot name a folder.
    """
    if not isinstance(values, list | Mapping):
        raise ValueError(f"axes.{name} must be a list of values, or a mapping of labels to configuration")
    if not values:
        raise ValueError(f"axes.{name} is empty")
    by_label: dict[str, dict[str, Any]] = {}
    if isinstance(values, Mapping):
        for label, config in values.items():
            if not isinstance(config, Mapping):
                raise ValueError(f"axes.{name}.{label} must be a mapping of configuration, got {config!r}")
            if name == LOSS and "name" not in config:
                raise ValueError(f"axes.loss.{label} has no name")
            by_label[str(label)] = flatten(dict(config), "loss." if name == LOSS else "")
    else:
        for value in values:
            if isinstance(value, list | Mapping):
                raise ValueError(f"axes.{name} is a list, so {value!r} cannot be in it; give it a label in a mapping")
            label = _label(value)
            if label in by_label:
                raise ValueError(f"axes.{name} has a value twice: {values}")
            by_label[label] = {SHORT_NAMES.get(name, name): value}
    for label in by_label:
        if not re.fullmatch(r"\w[\w.-]*", label):
            advice = "" if isinstance(values, Mapping) else "; give the value another one in a mapping"
            raise ValueError(f"axes.{name}: the label {label!r} may only have letters, digits, _, - and .{advice}")
    _check_different(name, by_label)
    return Axis(name, by_label)


def _check_different(name: str, values: dict[str, dict[str, Any]]) -> None:
    seen: dict[str, str] = {}
    for label, config in values.items():
        first = seen.setdefault(json.dumps(config, sort_keys=True, default=str), label)
        if first != label:
            raise ValueError(f"axes.{name} has a value twice: {first} and {label}")


def check_keys(axes: Sequence[Axis]) -> None:
    """Make sure that no key is set twice, or by an axis although the study sets it."""
    setting: dict[str, str] = {}
    for axis in axes:
        for key in axis.keys:
            if is_within(key, RESERVED_KEYS):
                raise ValueError(f"axes.{axis.name} cannot set {key}: the study does")
            for other_key, other in setting.items():
                if _overlap(key, other_key):
                    raise ValueError(f"axes.{other} and axes.{axis.name} both set {key}")
        setting |= dict.fromkeys(axis.keys, axis.name)


def check_rules(axes: Sequence[Axis], rules: Sequence[Mapping[str, Any]]) -> None:
    """Make sure that rules are of `when` and `only`, and name labels that there are."""
    known = {axis.name: axis.values for axis in axes}
    for rule in rules:
        if set(rule) != {"when", "only"}:
            raise ValueError(f"where: a rule has `when` and `only`, got {', '.join(rule) or 'neither'}")
        for condition in rule.values():
            for name, labels in _labels_of(condition).items():
                if name not in known:
                    raise ValueError(f"where: no axis {name!r}; the study has {', '.join(known)}")
                for label in labels:
                    if label not in known[name]:
                        raise ValueError(f"where: {name} has no value {label!r}, only {', '.join(known[name])}")


def _overlap(key: str, other: str) -> bool:
    return is_within(key, [other]) or is_within(other, [key])
