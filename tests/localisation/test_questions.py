import numpy as np
import pytest
import torch

from ols.localisation.questions import answered_right, explained_classes


def test_the_class_is_that_of_the_image_the_predicted_or_a_named_one():
    targets = np.array([1, 0])
    assert explained_classes("true", "class", ["healthy", "ill"], targets).tolist() == [1, 0]
    assert explained_classes("predicted", "class", ["healthy", "ill"], targets) is None
    assert explained_classes("healthy", "class", ["healthy", "ill"], targets).tolist() == [0, 0]
    assert explained_classes("edema", "multilabel", ["mass", "edema"], np.zeros((2, 2))).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("explain", "kind", "message"),
    [
        ("il", "class", "no class is named 'il'; there are healthy, ill, true and predicted"),
        ("true", "multilabel", "an image has several labels: name one of healthy, ill"),
        ("true", "regression", "targets of kind 'regression' have no class"),
    ],
)
def test_what_cannot_be_looked_for_is_refused(explain, kind, message):
    with pytest.raises(ValueError, match=message):
        explained_classes(explain, kind, ["healthy", "ill"], np.zeros(2))


def test_an_answer_is_right_by_its_task():
    logits = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [0.5, -0.5]])
    assert answered_right("class", logits, torch.tensor([1, 1, 0]), np.zeros(3, int)).tolist() == [1, 0, 1]
    labels = torch.tensor([[0.0, 1.0], [1.0, 0.0], [torch.nan, 1.0]])
    found = answered_right("multilabel", logits, labels, np.array([0, 1, 0]))
    np.testing.assert_array_equal(found, [0, 1, np.nan])
