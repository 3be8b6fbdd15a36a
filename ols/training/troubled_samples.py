"""Files that name the samples that made trouble: those that cannot be read, and those of steps that were not finite."""

from collections.abc import Sequence
from typing import NoReturn

from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from ols.data.loading import Loader, TrainLoader
from ols.files import DamagedFileError, read_record, write_record
from ols.runs.folder import RunFolder


def list_unreadable(folder: RunFolder, loader: TrainLoader, accelerator: Accelerator) -> None:
    """Write down which training images could not be read, where the loader skips them; every process calls it."""
    skipped = gather_object(sorted(loader.skipped))
    if not (accelerator.is_main_process and skipped):
        return
    file = folder.unreadable_samples
    try:
        known = read_record(file)["sample_ids"]
    except DamagedFileError:  # or none yet; every epoch meets all that it skips
        known = []
    names = sorted({*known, *map(loader.source.sample_id, skipped)})
    write_record(file, {"sample_ids": names})
    if len(names) > len(known):
        tqdm.write(f"{len(names)} training images could not be read and are skipped: {file}")


def give_up(
    folder: RunFolder, loader: Loader, accelerator: Accelerator, *, place: str, indices: Sequence[int], in_a_row: int
) -> NoReturn:
    """End a run whose steps are not finite any more, and write down the samples of the last; every process calls it.

    Args:
        folder: The run's folder.
        loader: Of the training split.
        accelerator: Says which process this is.
        place: Which step of which epoch was the last.
        indices: Its samples of this process.
        in_a_row: How many such steps came one after the other.

    Raises:
        RuntimeError: Always; the message names a file with the samples of the step.
    """
    gathered = gather_object(list(indices))
    if accelerator.is_main_process:
        names = [loader.source.sample_id(index) for index in gathered]
        write_record(folder.nonfinite_samples, {"place": place, "sample_ids": names})
    accelerator.wait_for_everyone()
    raise RuntimeError(
        f"the training loss or its gradient was not finite in {in_a_row} steps in a row, at last at {place}, whose "
        f"samples are named in {folder.nonfinite_samples}; lower optim.peak_lr or set train.clip_grad_norm; "
        f"the last checkpoint is in {folder.checkpoints}"
    )
