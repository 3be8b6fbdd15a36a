"""What a run reads and can be made: phantoms, and the folds of a table."""

from pathlib import Path

from ols.config import Config, FinetuneConfig
from ols.data.sources.opening import open_table
from ols.data.splits import make_folds, save_folds
from ols.phantoms import write_phantoms
from ols.phantoms.targets import LesionConfig, write_lesion_phantoms
from ols.tasks import find_task


def make_inputs(config: Config, folds: Path | None = None) -> None:
    """Render the phantoms that a run asks for, and divide its table into folds; what is there already is kept.

    By one process, before any reads them.

    Args:
        config: The run. Phantoms have targets where it fine-tunes on a table, and classes otherwise.
        folds: File that receives five folds of the table; None where there is no table, or it has a split of its own.

    Raises:
        ValueError: Where phantoms are to lie there is something else, or the table cannot be divided.
    """
    if config.data.phantoms and isinstance(config, FinetuneConfig):
        write_lesion_phantoms(Path(config.data.root).parent, LesionConfig(seed=config.phantoms.seed))
    elif config.data.phantoms:
        write_phantoms(config.data.root, config.phantoms)
    if folds is not None and not folds.exists():
        table = open_table(config.data, kind=find_task(config.task).kind, in_chans=config.data.in_chans)
        save_folds(folds, make_folds(table))
