"""What runs differ in, and what each of them is called for it.

Runs say in their configurations what they are, so that those can be compared that no study has started. An axis is a
section of the configuration, such as `loss` or `model`, or a key, such as `optim.peak_lr`, or several of these.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from ols.runs.folder import is_free

FOLD, SEED, SHARE = "fold", "seed", "share"
CONFOUNDER_SHARE = "data.confounder_share"
# In every comparison, by name at least.
LOSS, MODEL = "loss", "model"


def axis_labels(configs: Sequence[dict[str, Any]], sections: Sequence[str]) -> list[str]:
    """Return what each run is called on an axis: the name in its first section, and what tells it from its namesakes.

    Such as `ols hard_weight=0.3` on the axis `loss`, `0.1` on the axis `optim.peak_lr`, or
    `ols optim.peak_lr=0.1` on the axis that both make together.

    Args:
        configs: Configurations by dotted keys.
        sections: Sections and keys that make the axis.
    """
    first = sections[0]
    named = first if first in configs[0] else f"{first}.name"  # the only value of a key is its name
    by_name: dict[str, list[dict[str, Any]]] = {}
    for config in configs:
        by_name.setdefault(str(config.get(named, "")), []).append(config)
    labels = []
    for config in configs:
        name = str(config.get(named, ""))
        like = by_name[name]
        keys = [key for key in sorted(set().union(*like)) if is_within(key, sections) and not is_free(key)]
        telling = [key for key in keys if len({repr(other.get(key)) for other in like}) > 1]
        words = [f"{key.removeprefix(f'{first}.')}={config.get(key)}" for key in telling]
        labels.append(" ".join([name, *words] if name else words))
    return labels


def check_comparable(run_dirs: Sequence[Path], configs: Sequence[dict[str, Any]], *, allowed: Collection[str]) -> None:
    """Make sure that runs differ in the seed and in what is allowed alone.

    Args:
        run_dirs: Folders of the runs, to name them.
        configs: Their configurations by dotted keys.
        allowed: Sections and keys that may differ.

    Raises:
        ValueError: They differ otherwise; the message has the keys, and each value with a run that has it.
    """
    lines = []
    for key in sorted(set().union(*configs)):
        if is_free(key) or is_within(key, [SEED, *allowed]):
            continue
        examples: dict[str, Path] = {}
        for run_dir, config in zip(run_dirs, configs, strict=True):
            examples.setdefault(repr(config.get(key)), run_dir)
        if len(examples) > 1:
            values = ", ".join(f"{value} ({run_dir.name})" for value, run_dir in examples.items())
            lines.append(f"  {key}: {values}")
    if lines:
        raise ValueError(
            f"these runs differ in more than {', '.join(allowed)} and seed:\n" + "\n".join(lines) + "\n"
            "Leave out those that do not belong, or name the key: 'along' compares along it as well, "
            "'within' compares within each of its values."
        )


def say(axis: str, label: str) -> str:
    """Return what a sentence calls a value: a loss and a model by their names, any other with the name of its axis."""
    return label if axis in (LOSS, MODEL) else f"{axis} {label}"


def is_within(key: str, sections: Collection[str]) -> bool:
    """Return whether a dotted key is one of these, or lies in one of these sections."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)
