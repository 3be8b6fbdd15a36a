"""A metric that has other metrics as its parts."""

import copy
from typing import Any

from torchmetrics import Metric

from ols.metrics.wide_state import WideStateMetric


class ComposedMetric(WideStateMetric):
    """A metric with states of its own, and with metrics as attributes that it updates and computes itself.

    torchmetrics resets, caches and merges the states of the metric alone; its parts would keep what they have. Here
    they are reset with it, and `forward` measures its batch with a copy. A part merges processes in its own `compute`.
    """

    def reset(self) -> None:
        """Forget everything, the parts as well."""
        super().reset()
        for part in self.children():
            if isinstance(part, Metric):
                part.reset()

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Add a batch, and return the results of this batch alone, of this process alone."""
        alone = copy.deepcopy(self)
        alone.reset()
        for metric in alone.modules():
            if isinstance(metric, Metric):
                metric.sync_on_compute = False
        alone.update(*args, **kwargs)
        self.update(*args, **kwargs)
        return alone.compute()
