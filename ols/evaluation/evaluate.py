"""Run a model over a split: every sample exactly once, on any number of processes."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ols.data.loading import EvalLoader, Loader, beside
from ols.evaluation.predictions import Predictions
from ols.models.head import find_head
from ols.tasks.task import Task

Autocast = Callable[[], AbstractContextManager]


@dataclass(frozen=True)
class Evaluation:
    """What the task's metric says of a split.

    Args:
        metrics: Scalars by name.
        tables: What is no scalar, by name, on the CPU: of classes, `reliability` and `confusion`.
    """

    metrics: dict[str, float]
    tables: dict[str, Tensor]


def tagged(evaluations: dict[str, Evaluation]) -> dict[str, float]:
    """Return the metrics of evaluations, keyed by prefix, under tags such as `val/top1`."""
    return {
        f"{prefix}/{name}": value
        for prefix, evaluation in evaluations.items()
        for name, value in evaluation.metrics.items()
    }


def evaluate(
    model: nn.Module,
    loader: EvalLoader,
    task: Task,
    autocast: Autocast = nullcontext,
    *,
    select_by: str | None = None,
    after_batch: Callable[[], None] = lambda: None,
    mark: Callable[[str], None] = lambda section: None,
) -> Evaluation:
    """Measure a model on a split.

    Called on every process; each reads its share, and each returns the results of all.

    Args:
        model: From images to the task's outputs; not wrapped for distributed training.
        loader: The split.
        task: What is predicted, and what is measured of it.
        autocast: Makes the context of a forward pass, such as `accelerator.autocast`.
        select_by: Measure that is wanted in any case, see `Task.build_metric`.
        after_batch: Called after each batch, equally often on every process; it may raise to give up.
        mark: Called with "evaluation" after the forward pass of a batch, with "metrics" after what follows.

    Raises:
        RuntimeError: The metrics did not see every sample exactly once.
    """
    metrics = task.build_metric(select_by=select_by)
    # Apple's GPUs have no float64, which calibration is summed in.
    metrics.to("cpu" if loader.device.type == "mps" else loader.device)
    for batch in _predict_batches(model, loader, autocast):
        mark("evaluation")
        metrics.update(batch["logits"].to(metrics.device), batch["target"].to(metrics.device))
        mark("metrics")
        after_batch()
    for _ in range(loader.batches.most - len(loader.batches)):
        after_batch()
    results = {name: float(value) for name, value in metrics.compute().items()}
    seen = results["count"] + results["nonfinite"]
    if seen != loader.num_samples:
        raise RuntimeError(f"evaluated {seen:.0f} samples of a split of {loader.num_samples}")
    tables = metrics.tables()
    mark("metrics")
    return Evaluation(results, tables)


def predict(
    model: nn.Module, loader: Loader, task: Task, *, features: bool = False, autocast: Autocast = nullcontext
) -> Predictions:
    """Collect a model's outputs on a split, from all processes, on the CPU.

    Args:
        model: A timm model; not wrapped for distributed training.
        loader: The split.
        task: What is predicted.
        features: Whether to keep the penultimate features, the input of the classifier; a model of pixels has none.
        autocast: Makes the context of a forward pass, such as `accelerator.autocast`.

    Raises:
        RuntimeError: A sample is missing or came twice.
    """
    features = features and not task.dense
    batches = [
        {name: value.cpu() for name, value in batch.items()}
        for batch in _predict_batches(model, loader, autocast, features=features)
    ]
    if dist.is_available() and dist.is_initialized():
        shares: list = [None] * dist.get_world_size()
        dist.all_gather_object(shares, batches)
        batches = [batch for share in shares for batch in share]
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    order = whole["index"].argsort()
    indices = whole["index"][order]
    if not torch.equal(indices, torch.as_tensor(loader.batches.pool).sort().values):
        raise RuntimeError(f"predicted {len(indices)} samples, not each of {loader.num_samples} exactly once")
    return Predictions(
        logits=whole["logits"][order],
        targets=whole["target"][order],
        indices=indices,
        sample_ids=[loader.source.sample_id(index) for index in indices.tolist()],
        patients=[loader.source.sample_group(index) for index in indices.tolist()],
        classes=task.classes,
        groups=task.groups,
        task=task.name,
        features=whole["features"][order] if features else None,
    )


def measure(predictions: Predictions, task: Task, *, batch_size: int = 256) -> Evaluation:
    """Measure what a model predicted, as `evaluate` measures the model."""
    metric = task.build_metric()
    batches = zip(predictions.logits.split(batch_size), predictions.targets.split(batch_size), strict=True)
    for logits, targets in batches:
        metric.update(logits, targets)
    return Evaluation({name: float(value) for name, value in metric.compute().items()}, metric.tables())


def _predict_batches(
    model: nn.Module, loader: Loader, autocast: Autocast, *, features: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Yield `logits`, `target`, `index` and perhaps `features` of this process's batches; the mode is restored."""
    was_training = model.training
    model.eval()
    inputs: list[Tensor] = []
    hook = None
    if features:
        head = next(iter(find_head(model).values()))
        hook = head.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        for batch in loader:
            with torch.no_grad(), autocast():
                logits = model(batch["image"], **beside(batch))
            out = {"logits": logits if logits.dtype == torch.float64 else logits.float()}
            if features:
                out["features"] = inputs.pop().flatten(1).float()
            yield out | {"target": batch["target"], "index": batch["index"]}
    finally:
        if hook is not None:
            hook.remove()
        model.train(was_training)
