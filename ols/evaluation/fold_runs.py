"""The folds of a fine-tuning together, read from the folder of one of its starts."""

from pathlib import Path

from ols.evaluation.folds import OutOfFold
from ols.evaluation.predictions import load_predictions
from ols.runs.export import load_description
from ols.runs.folder import RunFolder
from ols.tasks import find_task


def holds_folds(folder: Path) -> bool:
    """Return whether a folder holds the folds of a fine-tuning, and is no run and no export itself."""
    own = any((folder / name).is_file() for name in ("config.yaml", "config.json"))
    return not own and any(folder.glob("fold[0-9]*"))


def fold_runs(folder: Path) -> list[RunFolder]:
    """Return the runs in a folder of folds, `fold0` and so on, in their order.

    Raises:
        FileNotFoundError: There is none, or one before the last is missing.
    """
    runs = {int(path.name.removeprefix("fold")): path for path in folder.glob("fold*") if path.name[4:].isdecimal()}
    if sorted(runs) != list(range(len(runs))) or not runs:
        raise FileNotFoundError(f"{folder} has no runs fold0, fold1 and so on; it has {sorted(runs) or 'none'}")
    return [RunFolder(runs[number]) for number in range(len(runs))]


def load_fold_runs(folder: Path, *, form: str = "") -> OutOfFold:
    """Read what the folds of a fine-tuning predicted of their test images.

    Args:
        folder: Of one start, with a run for each fold.
        form: `matched`, `clean` or `inverted`, as `recipes/evaluate.py --confounder_test` has written it; by default
            the test of the run itself.

    Raises:
        FileNotFoundError: A fold is missing, or has no such predictions.
    """
    runs = fold_runs(folder)
    found = [load_predictions(run.evaluation / form / "test.safetensors") for run in runs]
    described = [load_description(run.export)["ols"] for run in runs]
    tasks = [
        find_task(one["task"]).from_outputs(fold.classes, fold.groups, **one["task_state"])
        for one, fold in zip(described, found, strict=True)
    ]
    return OutOfFold(found, tasks)
