import pytest
import torch

from ols.data.transforms import Preprocessing
from ols.models.build import build_model
from ols.models.decoder import UNet, trunk
from ols.runs.export import export_model, start_from_export


@pytest.mark.parametrize("name", ["resnet10t", "test_convnext", "test_efficientnet", "test_vit"])
@pytest.mark.parametrize("size", [32, 50])
def test_a_decoder_answers_for_each_pixel_and_learns_through_every_parameter(name, size):
    if name == "test_vit" and size == 50:
        size = 48  # patches of 16
    model = build_model(name, 3, 1, image_size=size, dense=True)
    images = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (2, 3, size, size)
    logits.square().mean().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_a_model_with_a_decoder_starts_from_the_export_of_a_classifier(tmp_path):
    classifier, model = build_model("test_convnext", 2), build_model("test_convnext", 2, dense=True)
    export_model(
        tmp_path / "export",
        classifier,
        architecture="test_convnext",
        classes=["a", "b"],
        groups=["CT", "CT"],
        preprocessing=Preprocessing(),
        metrics={},
        task="multiclass",
        task_state={},
    )
    assert trunk(classifier) is classifier
    start_from_export(trunk(model), tmp_path / "export")
    ours, theirs = trunk(model).state_dict(), classifier.state_dict()
    assert len(ours) > 20
    assert all(value.equal(theirs[name]) for name, value in ours.items())


def test_a_model_without_features_of_its_own_is_refused(monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda name, **arguments: torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="plain gives no features of several resolutions"):
        UNet("plain", 2)
