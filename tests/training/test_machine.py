import pytest
from accelerate.state import AcceleratorState

from ols.config import TrainConfig
from ols.training.machine import build_accelerator


@pytest.mark.parametrize(("asked", "precision"), [("bf16", "float32"), ("fp16", "bf16"), ("fp8", "bf16")])
def test_another_precision_of_the_launcher_is_refused(monkeypatch, asked, precision):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    with pytest.raises(ValueError, match=rf"asks for mixed precision {asked}, and train\.precision is {precision}"):
        build_accelerator(TrainConfig(precision=precision, device="cpu"))


@pytest.fixture(autouse=True)
def _nothing_was_accelerated_before():
    """Accelerate keeps the precision of the first accelerator of a process for all that follow."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("asked", ["no", "bf16"])
def test_a_launcher_that_asks_for_the_same_or_for_nothing_is_heard(monkeypatch, asked):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
    assert build_accelerator(TrainConfig(precision="bf16", device="cpu")).mixed_precision == "bf16"
