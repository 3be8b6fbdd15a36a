"""Fixtures of what trains."""

from collections.abc import Callable, Iterator

import pytest
from conftest import accelerate_begins_anew, forget_accelerate
from training import small_trainer

from ols.training.trainer import Trainer


@pytest.fixture
def build_trainer(tmp_path) -> Iterator[Callable[..., Trainer]]:
    """Build a small trainer of a run by name, see `small_trainer.build_trainer`; those built before have ended."""

    def build(name: str = "run", **options) -> Trainer:
        forget_accelerate()
        return small_trainer.build_trainer(tmp_path / name, **options)

    with accelerate_begins_anew():
        yield build
