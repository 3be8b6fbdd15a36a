import pytest
import torch

from ols.training.safe_step import LARGE, SafeStep, StepGuard


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


def _step(model, optimizer, **options) -> SafeStep:
    guarded = [buffer for _, buffer in model.named_buffers()]
    return SafeStep(model, optimizer, guarded=guarded, any_process=lambda flag: flag, **options)


def _small_model() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))


def _backward(model, safe_step, factor: float = 1.0) -> torch.Tensor:
    safe_step.begin()
    safe_step.add(torch.arange(6))
    loss = factor * model(torch.arange(30.0).view(6, 5)).square().sum()
    loss.backward()
    return loss.detach()


def test_clipping_is_that_of_torch():
    found, expected = _small_model(), _small_model()
    safe_step = _step(found, torch.optim.SGD(found.parameters(), 0.1), clip_grad_norm=0.5)
    safe_step.take(1, _backward(found, safe_step))
    reference = torch.optim.SGD(expected.parameters(), 0.1)
    expected(torch.arange(30.0).view(6, 5)).square().sum().backward()
    assert torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5) > 0.5
    reference.step()
    for ours, theirs in zip(found.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("where", ["loss", "gradient", "another process"])
def test_a_step_that_is_not_finite_changes_nothing_and_is_reported_with_its_samples(where):
    model = _small_model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    safe_step = _step(model, optimizer)
    safe_step.take(1, _backward(model, safe_step))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = _backward(model, safe_step)
    if where == "loss":
        loss = loss * torch.nan
    elif where == "gradient":
        next(model.parameters()).grad[0, 0] = torch.inf
    else:
        safe_step.any_process = lambda flag: ~flag
    safe_step.take(2, loss)
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])} == set()
    (first, was_taken), (second, was_taken_too) = safe_step.read()
    assert (first.number, was_taken, second.number, was_taken_too) == (1, True, 2, False)
    assert torch.cat(second.indices).tolist() == [0, 1, 2, 3, 4, 5]
    assert safe_step.read() == []
