import pytest
import torch

from ols.training.safe_step import LARGE, StepGuard


def _tensors() -> list[torch.Tensor]:
    """Return state of several dtypes and shapes, one too large to be joined with others."""
    torch.manual_seed(0)
    return [
        torch.rand(3, 4),
        torch.rand(()),
        torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.rand(LARGE),
        torch.rand(5, dtype=torch.float64),
        torch.tensor(7),
        torch.arange(6).view(2, 3),
    ]


@pytest.mark.parametrize("nonfinite", [False, True])
def test_a_step_is_undone_where_it_is_not_finite_and_kept_where_it_is(nonfinite):
    tensors = _tensors()
    guard = StepGuard(tensors)
    for _ in range(2):  # the second step begins from what the first left
        before = [tensor.clone() for tensor in tensors]
        guard.begin()
        for tensor in tensors:
            tensor.add_(1)
        tensors[0][1] = torch.nan
        after = [tensor.clone() for tensor in tensors]
        guard.settle(torch.tensor(nonfinite))
        for found, expected in zip(tensors, before if nonfinite else after, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
            assert found.stride() == expected.stride()
