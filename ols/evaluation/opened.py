"""A trained model together with its data set, as everything that looks at one begins."""

from dataclasses import dataclass, replace

import numpy as np

from ols.data.loading import EvalLoader, Place
from ols.data.options import SourceOptions, SplitOptions
from ols.data.sampling import EvalBatches
from ols.data.sources.opening import DataSet, open_data
from ols.data.sources.protocol import ImageSource, Split
from ols.data.transforms import EvalTransform
from ols.runs.trained_model import Trained
from ols.tasks import build_task, find_task
from ols.tasks.task import Task


@dataclass(frozen=True)
class Opened:
    """A trained model, before it is loaded, and the data set that it is looked at on.

    Args:
        trained: The model.
        root: Where the data set lies.
        data: The data set.
        task: What is predicted of it.
    """

    trained: Trained
    root: str
    data: DataSet
    task: Task

    def places(self) -> dict[str, str | None]:
        """Return where the data set and its splits lie: the split file of a table, or the folder of split CSVs."""
        config = self.trained.config
        return {"root": self.root, "splits": None if config is None else config.split.file or config.data.splits}

    def loader(
        self,
        split: Split,
        *,
        source: ImageSource | None = None,
        pool: np.ndarray | None = None,
        batch_size: int = 64,
        workers: int = 0,
        place: Place | None = None,
    ) -> EvalLoader:
        """Return the images of a split as the model expects them.

        Args:
            split: Which split.
            source: Read from this view of the data set instead.
            pool: Indices of the images, int64; by default all of the split.
            batch_size: Images per forward pass.
            workers: Processes that read images.
            place: Where batches go; by default float32 on the CPU.
        """
        chosen = np.sort(self.data.pools[split] if pool is None else pool)
        return EvalLoader(
            self.data.sources[split] if source is None else source,
            EvalTransform(self.trained.preprocessing),
            EvalBatches(chosen, batch_size=batch_size),
            workers=workers,
            place=place or Place(),
        )


def open_trained(trained: Trained, *, root: str | None = None, splits: str | None = None) -> Opened:
    """Open the data set of a trained model.

    Args:
        trained: The model.
        root: Another place of the data set; an export alone needs one.
        splits: Another folder with split CSVs.

    Raises:
        FileNotFoundError: There is no such data set.
        ValueError: None is known, or it does not fit the model's task.
    """
    config = trained.config
    options: SourceOptions = SourceOptions(root="") if config is None else config.data
    root, splits = root or options.root, splits or options.splits
    if not root:
        raise ValueError(f"{trained.name} is an export alone: name its data set with --data.root")
    task = find_task(trained.task)
    data = open_data(
        replace(options, root=root, splits=splits),
        SplitOptions() if config is None else config.split,
        kind=task.kind,
        in_chans=trained.preprocessing.in_chans,
    )
    source = data.sources["test"]
    task.check_source(source)
    return Opened(trained, root, data, build_task(trained.task, source.classes, source.groups, **trained.task_state))
