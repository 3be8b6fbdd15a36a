import numpy as np
import pytest
import torch

from ols.losses import HardLabels, OnlineLabelSmoothing
from ols.losses.ols_fixed_point import ols_fixed_point
from ols.metrics.posterior import posterior_calibration
from ols.phantoms import reader_confusion


def random_confusion(rng, num_classes, least, most, evenness=0.3):
    """Rows with a diagonal between `least` and `most`, and the rest spread over the others."""
    rest = rng.dirichlet(np.full(num_classes - 1, evenness), size=num_classes)
    diagonal = rng.uniform(least, most, num_classes)
    confusion = np.zeros((num_classes, num_classes))
    confusion[~np.eye(num_classes, dtype=bool)] = (rest * (1 - diagonal)[:, None]).ravel()
    return confusion + np.diag(diagonal)


def iterate(confusion, hard_weight, prior, soft_labels, epochs):
    """The epochs of OLS over the whole population, sample by sample kind, with what is predicted in the last."""
    k = len(confusion)
    for _ in range(epochs):
        predicted = np.zeros((k, k))
        for z in range(k):
            for y in range(k):
                predicted[z] += confusion[z, y] * (1 - hard_weight) * soft_labels[y]
                predicted[z, y] += confusion[z, y] * hard_weight
        sums, counts = np.zeros((k, k)), np.zeros(k)
        for z in range(k):
            y = predicted[z].argmax()  # only samples with this label are predicted correctly
            sums[y] += prior[z] * confusion[z, y] * predicted[z]
            counts[y] += prior[z] * confusion[z, y]
        seen = counts > 0
        soft_labels = soft_labels.copy()
        soft_labels[seen] = sums[seen] / counts[seen, None]
    return soft_labels, predicted


def test_two_classes_by_hand():
    """The eigenvalue 0.6 of Q becomes 0.5 * 0.6 / (1 - 0.5 * 0.6) = 3 / 7."""
    fixed_point = ols_fixed_point(torch.tensor([[0.8, 0.2], [0.2, 0.8]]), 0.5)
    assert fixed_point.numpy() == pytest.approx(np.array([[5, 2], [2, 5]]) / 7, abs=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])  # hard, smoothed and uniform initial soft labels
@pytest.mark.parametrize("hard_weight", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_the_population_update_ends_there_whatever_the_class_frequencies(hard_weight, smoothing):
    rng = np.random.default_rng(int(100 * hard_weight))
    for k in (2, 3, 7):
        bound = 1 / (1 + hard_weight)
        confusion = random_confusion(rng, k, bound + 1e-3, bound + 0.02)
        prior = rng.dirichlet(np.full(k, 0.5))
        initial = (1 - smoothing) * np.eye(k) + smoothing / k
        soft_labels, predicted = iterate(confusion, hard_weight, prior, initial, epochs=300)
        expected = ols_fixed_point(torch.from_numpy(confusion), hard_weight).numpy()
        assert soft_labels == pytest.approx(expected, abs=1e-9)
        assert predicted == pytest.approx(expected, abs=1e-9)
        assert (expected.diagonal() < confusion.diagonal()).all() or hard_weight == 1  # under-confident in every class


def test_the_confusion_can_be_read_back():
    confusion = reader_confusion(1.0)
    soft_labels = ols_fixed_point(torch.from_numpy(confusion), 0.3).numpy()
    assert soft_labels @ np.linalg.inv(0.3 * np.eye(165) + 0.7 * soft_labels) == pytest.approx(confusion, abs=1e-12)


def test_the_distance_shrinks_by_one_minus_the_hard_weight_an_epoch():
    confusion = random_confusion(np.random.default_rng(0), 6, 0.75, 0.9)
    prior, expected = np.full(6, 1 / 6), ols_fixed_point(torch.from_numpy(confusion), 0.4).numpy()
    distances = []
    for epochs in range(1, 20):
        soft_labels, _ = iterate(confusion, 0.4, prior, np.full((6, 6), 1 / 6), epochs)
        distances.append(np.abs(soft_labels - expected).sum(1).max())
    assert (np.array(distances[1:]) <= 0.6 * np.array(distances[:-1]) + 1e-12).all()


def test_a_class_that_would_not_be_predicted_is_refused_and_is_lost():
    confusion = np.array([[1.0, 0.0], [0.45, 0.55]])
    with pytest.raises(ValueError, match="confusion row 1: its class would not be predicted"):
        ols_fixed_point(torch.from_numpy(confusion), 0.1)
    _, predicted = iterate(confusion, 0.1, np.array([0.5, 0.5]), np.full((2, 2), 0.5), epochs=200)
    assert predicted.argmax(1).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("confusion", "hard_weight", "message"),
    [
        (torch.eye(3)[:2], 0.5, r"confusion must have shape \[K, K\], got \[2, 3\]"),
        (torch.tensor([[1.0, 0.0], [0.5, 0.6]]), 0.5, "distributions in its rows, got row 1"),
        (torch.tensor([[1.5, -0.5], [0.0, 1.0]]), 0.5, "distributions in its rows, got row 0"),
        (torch.eye(2), 0.0, "hard_weight must lie in"),
    ],
)
def test_bad_arguments_are_refused_by_name(confusion, hard_weight, message):
    with pytest.raises(ValueError, match=message):
        ols_fixed_point(confusion, hard_weight)


def test_on_the_phantoms_it_keeps_every_class_and_is_less_sure_of_each():
    confusion = torch.from_numpy(reader_confusion(1.0))
    difference = ols_fixed_point(confusion).diagonal() - confusion.diagonal()
    assert difference.max() < 0
    assert difference.mean().item() == pytest.approx(-0.13, abs=0.005)  # what the note says


def fit_table(loss, latent, labels, num_classes, steps):
    """Fit a free vector of logits to each latent class, one full batch an epoch."""
    table = torch.zeros(num_classes, num_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.SGD([table], lr=1.0 * num_classes, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(table[latent], labels).backward()
        optimizer.step()
        loss.end_epoch()
    return table.detach()


def test_a_perfect_fit_of_ols_gets_there_and_is_under_confident_where_hard_labels_are_calibrated():
    rng = np.random.default_rng(1)
    k, n = 8, 10_000
    confusion = random_confusion(rng, k, 0.7, 0.85, evenness=3.0)
    latent = rng.choice(k, size=n, p=rng.dirichlet(np.full(k, 20.0)))
    labels = np.array([rng.choice(k, p=confusion[z]) for z in latent])
    drawn = np.zeros((k, k))
    np.add.at(drawn, (latent, labels), 1)
    drawn = torch.from_numpy(drawn / drawn.sum(1, keepdims=True))
    latent, labels = torch.from_numpy(latent), torch.from_numpy(labels)

    ols = OnlineLabelSmoothing(k).double()
    logits = fit_table(ols, latent, labels, k, steps=600)
    expected = ols_fixed_point(drawn)
    assert (ols.soft_labels - expected).abs().max() < 1e-4
    assert (logits.softmax(1) - expected).abs().max() < 1e-4
    assert (ols.soft_labels - ols_fixed_point(torch.from_numpy(confusion))).abs().max() < 0.05  # 10,000 readings
    under = posterior_calibration(logits, drawn)
    assert under["confidence_bias"] == pytest.approx((expected - drawn).diagonal().mean().item(), abs=1e-4)
    assert under["confidence_bias"] < -0.1

    hard = posterior_calibration(fit_table(HardLabels(k), latent, labels, k, steps=600), drawn)
    assert hard["confidence_error"] < 1e-4
    assert hard["posterior_kl"] < 1e-6


@pytest.mark.parametrize("memorised", [False, True])
def test_with_a_prior_it_ends_where_the_note_says(memorised):
    """Ten images of each of three classes, predicted as a perfect fit predicts them; of each label n are right."""
    w, c = 0.5, 10.0
    read = torch.tensor([[8, 2, 0], [0, 9, 1], [1, 0, 9]]) if not memorised else 10 * torch.eye(3, dtype=torch.int64)
    confusion, correct = read.double() / 10, read.diagonal().double()
    latent = torch.arange(3).repeat_interleave(10)
    labels = torch.cat([torch.arange(3).repeat_interleave(row) for row in read])
    loss = OnlineLabelSmoothing(3, hard_weight=w, prior_count=c, smoothing=0.3).double()
    for _ in range(60):
        predicted = w * confusion + (1 - w) * confusion @ loss.soft_labels
        loss(predicted.log()[latent].requires_grad_(), labels)
        loss.end_epoch()
    kept, identity = torch.diag(correct / (correct + c)), torch.eye(3, dtype=torch.float64)
    prior = 0.7 * identity + 0.1
    right = w * kept @ confusion + (identity - kept) @ prior
    expected = torch.linalg.solve(identity - (1 - w) * kept @ confusion, right)
    torch.testing.assert_close(loss.soft_labels, expected, rtol=0, atol=1e-12)
    if memorised:  # two thirds of 0.2
        assert 1 - loss.soft_labels[0, 0].item() == pytest.approx(0.2 * 2 / 3)
