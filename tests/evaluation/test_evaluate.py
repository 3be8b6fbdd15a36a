import pytest
import torch
from conftest import build_loaders_of
from torch import nn

from ols.evaluation.evaluate import evaluate, predict
from ols.models.build import build_model
from ols.tasks import build_task


@pytest.fixture
def loaders(tree):
    tree.write_csvs()
    return build_loaders_of(tree.root, image_size=32, resize_size=34, workers=0, global_batch_size=5)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("test_resnet", 4).train()


@pytest.fixture
def task(loaders):
    return build_task("multiclass", loaders.classes, loaders.groups)


def test_predictions_are_in_the_order_of_the_data_set_and_leave_the_mode_alone(loaders, model, task):
    found = predict(model, loaders.test, task, features=True)
    assert model.training
    assert found.indices.tolist() == list(range(12))
    assert found.targets.tolist() == loaders.test.source.targets.tolist()
    batches = list(loaders.test)
    with torch.no_grad():
        expected = model.eval()(torch.cat([batch["image"] for batch in batches]))
    torch.testing.assert_close(found.logits, expected)


def test_features_are_what_the_classifier_sees(loaders, model, task):
    found = predict(model, loaders.test, task, features=True)
    assert found.features.shape == (12, model.num_features)
    torch.testing.assert_close(model.get_classifier()(found.features), found.logits)
    assert predict(model, loaders.test, task).features is None
    assert not model.get_classifier()._forward_pre_hooks


def test_features_of_a_convolutional_head_are_rows(loaders, task):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Conv2d(1, 4, 1)

        def get_classifier(self):
            return self.head

        def forward(self, images):
            return self.head(images.mean((2, 3), keepdim=True)).flatten(1)

    assert predict(Head(), loaders.test, task, features=True).features.shape == (12, 1)


def test_metrics_and_predictions_tell_the_same_story(loaders, model, task):
    evaluation, predictions = evaluate(model, loaders.test, task), predict(model, loaders.test, task)
    top1 = (predictions.logits.argmax(1) == predictions.targets).double().mean()
    assert evaluation.metrics["top1"] == pytest.approx(float(top1))
    assert evaluation.metrics["count"] == 12
    assert evaluation.tables["reliability"].shape == (15, 3)
    assert evaluation.tables["reliability"][:, 0].sum() == evaluation.tables["confusion"].sum() == 12
    assert predictions.task == "multiclass"


def test_a_sample_that_is_lost_or_repeated_is_noticed(loaders, model, task, monkeypatch):
    share = loaders.test.batches.share
    for wrong in (share[:-1], torch.cat([torch.as_tensor(share), torch.tensor([0])]).numpy()):
        monkeypatch.setattr(loaders.test.batches, "share", wrong)
        with pytest.raises(RuntimeError, match=f"evaluated {len(wrong)} samples of a split of 12"):
            evaluate(model, loaders.test, task)
        with pytest.raises(RuntimeError, match=f"predicted {len(wrong)} samples, not each of 12 exactly once"):
            predict(model, loaders.test, task)
