"""Metrics as attributes of a module that becomes another type."""

import pytest
import torch
from metrics.cases import drawn_case

from ols.metrics.binary import BinaryMetrics
from ols.metrics.calibration import CalibrationHistogram
from ols.metrics.classification import ClassificationMetrics

METRICS = {
    "histogram": lambda: CalibrationHistogram(2, classwise=True),
    "classification": lambda: ClassificationMetrics(2, classwise=True),
    "binary": lambda: BinaryMetrics(classwise=True),
}
MOVES = {
    "half": lambda module: module.half(),
    "bfloat16": lambda module: module.bfloat16(),
    "float": lambda module: module.float(),
    "double": lambda module: module.double(),
    "to bfloat16": lambda module: module.to(torch.bfloat16),
    "to float16": lambda module: module.to(torch.float16),
    "to float32 on the CPU": lambda module: module.to("cpu", torch.float32),
    "type": lambda module: module.type(torch.float16),
    "to the type of another": lambda module: module.to(torch.zeros(1, dtype=torch.bfloat16)),
    "set_dtype": lambda module: [part.set_dtype(torch.float16) for part in (module.metric, *module.metric.children())],
}


class Module(torch.nn.Module):
    def __init__(self, metric):
        super().__init__()
        self.head = torch.nn.Linear(4, 2)
        self.metric = metric


def _state_types(metric):
    types = {}
    for part in metric.modules():
        for name in part._defaults:
            state = getattr(part, name)
            for tensor in state if isinstance(state, list) else [state, part._defaults[name]]:
                types.setdefault(name, set()).add(tensor.dtype)
    return types


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("name", METRICS)
def test_a_module_that_changes_its_type_changes_no_metric_inside(name, move):
    """Before the first batch, between batches, after results, and after a reset; more rows than bfloat16 can count."""
    logits, labels = drawn_case(1500, classes=2, temperature=1.5)
    expected, found = METRICS[name](), Module(METRICS[name]())
    types = None
    for _ in range(2):
        MOVES[move](found)
        for part in (slice(0, 700), slice(700, 1500)):
            for metric in (expected, found.metric):
                metric.update(logits[part].bfloat16(), labels[part])
            MOVES[move](found)
        types = types or _state_types(expected)
        assert _state_types(found.metric) == types
        torch.testing.assert_close(found.metric.compute(), expected.compute(), rtol=0, atol=0)
        MOVES[move](found)
        torch.testing.assert_close(found.metric.compute(), expected.compute(), rtol=0, atol=0)
        expected.reset()
        found.metric.reset()
    assert set.union(*types.values()) <= {torch.float64, torch.int64}
    if move not in ("set_dtype", "float", "double", "to float32 on the CPU"):
        assert found.head.weight.dtype in (torch.float16, torch.bfloat16)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_that_was_reset_in_inference_mode_goes_on_outside(name):
    logits, labels = drawn_case(200, classes=2)
    expected, found = METRICS[name](), METRICS[name]()
    expected.update(logits, labels)
    with torch.inference_mode():
        found.update(logits, labels)
        found.reset()
        found.update(logits[:100] * 1, labels[:100] * 1)
    found.update(logits[100:], labels[100:])
    torch.testing.assert_close(found.compute(), expected.compute())
