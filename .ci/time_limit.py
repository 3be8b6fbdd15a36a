"""A pytest plugin that begins no test after a moment, names those that it left out, and begins with those of SLURM.

    NO_TEST_BEGINS_AFTER=<seconds since 1970> PYTHONPATH=.ci pytest -p time_limit

The environment reaches every process of pytest-xdist, so that all of them stop at the same moment. `-ra` prints the
tests that were left out at the end, one a line.
"""

import os
import time

import pytest

LAST = float(os.environ["NO_TEST_BEGINS_AFTER"])
FIRST = "test_slurm.py"  # for which a SLURM was started


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests first that CI is not to leave out."""
    items.sort(key=lambda item: item.path.name != FIRST)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that would begin too late."""
    if time.time() > LAST:
        pytest.skip(f"out of time, not run: {item.nodeid}")
