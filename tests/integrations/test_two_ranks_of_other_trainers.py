"""Two gloo ranks under a plain loop, Lightning and transformers, started once for all tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """Return the finished process; it printed the trainers under which both ranks learnt what one process learns."""
    script = Path(__file__).with_name("two_ranks_of_other_trainers.py")
    command = [sys.executable, script, tmp_path_factory.mktemp("ranks")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parents[2])}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


TRAINERS = [
    "plain_loop",
    "lightning_trainer",
    "lightning_trainer_and_a_loss_outside_the_module",
    "transformers_trainer",
]


@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_ranks_learn_the_soft_labels_of_a_hand_written_loop_under(trainer, launched):
    assert launched.returncode == 0, launched.stdout + launched.stderr
    assert trainer in launched.stdout.split()
