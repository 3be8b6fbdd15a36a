import pytest
import torch
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


def test_fp16_is_refused_without_a_gpu():
    with pytest.raises(ValueError, match=r"train\.precision fp16 needs a GPU, got cpu"):
        build_accelerator(TrainConfig(precision="fp16", device="cpu"))


def test_deterministic_algorithms_are_asked_for(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for flag in (True, False):
        build_accelerator(TrainConfig(deterministic=flag, device="cpu"))
        assert torch.are_deterministic_algorithms_enabled() is flag
