"""Online label smoothing over two gloo ranks, started once for all tests, and over a backend that cannot reduce."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ols.losses import OnlineLabelSmoothing


@pytest.fixture(scope="module")
def passed(tmp_path_factory):
    """Return the names of the steps that both ranks went through."""
    script = Path(__file__).with_name("two_ranks_of_online_label_smoothing.py")
    store = tmp_path_factory.mktemp("ranks") / "store"
    # A script and not a function of this module: a spawned child could not import a test module.
    done = subprocess.run([sys.executable, script, store], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_two_ranks_with_uneven_batches_learn_the_soft_labels_of_one(passed):
    assert "two_ranks_learn_the_soft_labels_of_one" in passed


def test_a_rank_that_collected_nothing_learns_from_the_other(passed):
    assert "a_rank_that_collected_nothing_learns_from_the_other" in passed


def test_a_checkpoint_inside_an_epoch_holds_the_sums_of_both_ranks(passed):
    assert "a_checkpoint_inside_an_epoch_holds_the_sums_of_both_ranks" in passed


def test_the_reduction_can_be_replaced(passed):
    assert "the_reduction_can_be_replaced" in passed


def test_two_ranks_with_uneven_shares_remember_for_other_losses_what_one_remembers(passed):
    assert "two_ranks_remember_what_one_remembers" in passed


def test_nccl_with_the_loss_left_on_the_cpu_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    with pytest.raises(ValueError, match=r"the loss must be on the GPU .* got cpu; move it with loss.to\(device\)"):
        OnlineLabelSmoothing(3).end_epoch()
