import numpy as np
import pytest
import torch
from sklearn.metrics import calinski_harabasz_score, silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from ols.metrics.embeddings import embedding_metrics, tsne_coordinates


def _clusters(samples=120, classes=4, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    centres = 2 * torch.randn(classes, 6, generator=generator)
    return centres[labels] + spread * torch.randn(samples, 6, generator=generator), labels


def test_variance_and_separation_by_pencil():
    """Classes at -1 +- 1 and 4 +- 1: within 1; means 2.5 from the mean of all, squared 6.25."""
    found = embedding_metrics(torch.tensor([[-2.0], [0], [3], [5]]), torch.tensor([5, 5, 9, 9]), neighbours=1)
    assert found["intra_class_variance"] == pytest.approx(1)
    assert found["inter_class_separation"] == pytest.approx(6.25)
    assert found["knn_accuracy"] == 1


def test_embeddings_agree_with_scikit_learn():
    features, labels = _clusters()
    found = embedding_metrics(features, labels, neighbours=1)
    x, y = features.double().numpy(), labels.numpy()
    assert found["silhouette"] == pytest.approx(silhouette_score(x, y))
    assert found["inter_class_separation"] * (120 - 4) / (4 - 1) == pytest.approx(calinski_harabasz_score(x, y))
    left_out = cross_val_predict(KNeighborsClassifier(1), x, y, cv=LeaveOneOut())
    assert 0.5 < found["knn_accuracy"] < 1
    assert found["knn_accuracy"] == pytest.approx((left_out == y).mean())


def test_of_neighbours_equally_frequent_the_nearest_wins():
    """From 0, the neighbours are 1 (class b), 2.1 (a), 3.3 (a), 4.6 (b): two of each, and b is nearer."""
    features = torch.tensor([[0.0], [1], [2.1], [3.3], [4.6], [-100], [-101.5]])
    for label in (0, 1):
        targets = torch.tensor([label, 1, 0, 0, 1, 0, 1])
        x, y = features.numpy(), targets.numpy()
        distances = np.abs(x - x.T) + np.where(np.eye(7), np.inf, 0)
        hits = 0
        for row in range(7):
            votes = y[np.argsort(distances[row], kind="stable")[:4]].tolist()
            hits += max(votes, key=votes.count) == y[row]
        assert embedding_metrics(features, targets, neighbours=4)["knn_accuracy"] == pytest.approx(hits / 7)


def test_a_scaled_feature_space_differs_in_variance_alone():
    features, labels = _clusters()
    found, scaled = embedding_metrics(features, labels), embedding_metrics(10 * features, labels)
    assert scaled.pop("intra_class_variance") == pytest.approx(100 * found.pop("intra_class_variance"))
    assert scaled == pytest.approx(found, rel=1e-5)


def test_copies_of_a_sample_do_not_vote_for_themselves():
    features = torch.zeros(6, 2)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    assert (
        embedding_metrics(features, labels, neighbours=5)["knn_accuracy"] == 0
    )  # two of its class, three of the other
    assert np.isnan(embedding_metrics(features, labels)["inter_class_separation"])


def test_one_class_has_no_figures_and_bad_input_is_named():
    assert all(
        np.isnan(value) for value in embedding_metrics(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64)).values()
    )
    with pytest.raises(ValueError, match="1 of 5 rows are not finite"):
        embedding_metrics(torch.rand(5, 2).index_fill(0, torch.tensor([2]), torch.nan), torch.arange(5))
    with pytest.raises(ValueError, match=r"expected features \[N, D\] and targets \[N\], got \[5\] and \[5\]"):
        embedding_metrics(torch.rand(5), torch.arange(5))
    with pytest.raises(ValueError, match="neighbours must be positive, got 0"):
        embedding_metrics(torch.rand(5, 2), torch.arange(5), neighbours=0)
    with pytest.raises(ValueError, match="t-SNE needs four samples or more, got 3"):
        tsne_coordinates(torch.rand(3, 2))


def test_many_samples_are_drawn_by_the_seed(monkeypatch):
    monkeypatch.setattr("ols.metrics.embeddings.MAX_SAMPLES", 60)
    features, labels = _clusters()
    found = embedding_metrics(features, labels)
    assert embedding_metrics(features, labels) == found
    assert embedding_metrics(features, labels, seed=1)["silhouette"] != found["silhouette"]
    assert embedding_metrics(features, labels, seed=1)["intra_class_variance"] == found["intra_class_variance"]


def test_tsne_keeps_clusters_together_and_repeats():
    features, labels = _clusters(spread=0.1)
    drawn, coordinates = tsne_coordinates(features, max_samples=60)
    assert coordinates.shape == (60, 2)
    assert silhouette_score(coordinates, labels.numpy()[drawn]) > 0.5
    again, repeated = tsne_coordinates(features, max_samples=60)
    assert (again == drawn).all()
    assert (repeated == coordinates).all()
    few, _ = tsne_coordinates(features[:5])
    assert few.tolist() == [0, 1, 2, 3, 4]
