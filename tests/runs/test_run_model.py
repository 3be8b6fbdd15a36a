"""The model of a run before its first step."""

import pytest
import torch

from ols.config import Config, DataConfig, ModelConfig
from ols.models.options import HeadOptions
from ols.runs.run_model import build_run_model
from ols.tasks import build_task


@pytest.mark.parametrize(
    ("head", "truncate_after"),
    [(HeadOptions(), None), (HeadOptions(kind="mlp", width=8), None), (HeadOptions(), "layer2")],
)
def test_a_regression_begins_at_the_mean_of_its_targets(head, truncate_after):
    config = Config(
        task="regression",
        loss={"name": "huber"},
        data=DataConfig(image_size=32, in_chans=1),
        model=ModelConfig("test_resnet", truncate_after=truncate_after),
        head=head,
    )
    task = build_task("regression", ["age"], [""], mean=40.0, std=20.0)
    model, _ = build_run_model(config, task, images=lambda: torch.rand(2, 1, 32, 32))
    assert torch.equal(model.eval()(torch.rand(3, 1, 32, 32)), torch.zeros(3, 1))
