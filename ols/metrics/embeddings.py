"""How compact and how far apart the classes lie in feature space; Euclidean, on the features as they are."""

import numpy as np
import torch
from torch import Tensor

from ols.metrics.arguments import class_indices, real_number, whole_number

MAX_SAMPLES = 5000


def embedding_metrics(features: Tensor, targets: Tensor, *, neighbours: int = 10, seed: int = 0) -> dict[str, float]:
    """Return figures of features; NaN where fewer than two classes occur.

    - `intra_class_variance`: mean squared distance of a sample to the mean of its class; in squared feature units.
    - `inter_class_separation`: mean over samples of the squared distance of their class's mean to the mean of all,
      over `intra_class_variance`: without unit, so that losses whose features differ in scale can be compared.
    - `silhouette` (Rousseeuw 1987), in [-1, 1], of at most 5,000 samples drawn by the seed.
    - `knn_accuracy`: leave-one-out: the fraction of at most 5,000 drawn samples whose class is the most frequent among
      their nearest neighbours in the whole set; of classes equally frequent, that of the nearest of their samples.

    Args:
        features: Penultimate features `[N, D]`.
        targets: Class indices `[N]`, of any integer type.
        neighbours: Number of neighbours that vote; all others where there are fewer.
        seed: Of the draw.

    Raises:
        ValueError: Shapes do not fit, `neighbours` is not positive, or a feature is not finite.
    """
    from sklearn.metrics import silhouette_score

    neighbours, seed = whole_number("neighbours", neighbours), whole_number("seed", seed)
    if neighbours < 1:
        raise ValueError(f"neighbours must be positive, got {neighbours}")
    x, y = _checked(features, targets)
    classes, y = np.unique(y, return_inverse=True)
    names = ("intra_class_variance", "inter_class_separation", "silhouette", "knn_accuracy")
    if len(classes) < 2:
        return dict.fromkeys(names, float("nan"))
    counts = np.bincount(y)
    means = np.stack([x[y == label].mean(axis=0) for label in range(len(classes))])
    intra = float(np.square(x - means[y]).sum(axis=1).mean())
    inter = float(counts @ np.square(means - x.mean(axis=0)).sum(axis=1) / len(x))
    drawn = _drawn(len(x), MAX_SAMPLES, seed)
    present = len(np.unique(y[drawn]))
    silhouette = float(silhouette_score(x[drawn], y[drawn])) if 1 < present < len(drawn) else float("nan")
    separation = inter / intra if intra > 0 else float("inf") if inter > 0 else float("nan")
    values = (intra, separation, silhouette, _knn_accuracy(x, y, drawn, neighbours))
    return dict(zip(names, values, strict=True))


def tsne_coordinates(
    features: Tensor, *, max_samples: int = 2000, perplexity: float = 30.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples were drawn `[M]`, ascending, and their t-SNE coordinates `[M, 2]` (scikit-learn).

    Args:
        features: `[N, D]`.
        max_samples: At most so many are drawn.
        perplexity: Effective number of neighbours; lowered to a third of the samples.
        seed: Of the draw and of t-SNE.

    Raises:
        ValueError: Shapes do not fit, a feature is not finite, or there are fewer than four samples.
    """
    from sklearn.manifold import TSNE

    x, _ = _checked(features, torch.zeros(len(features), dtype=torch.int64))
    max_samples, seed = whole_number("max_samples", max_samples), whole_number("seed", seed)
    drawn = _drawn(len(x), max_samples, seed)
    if len(drawn) < 4:
        raise ValueError(f"t-SNE needs four samples or more, got {len(drawn)}")
    perplexity = min(real_number("perplexity", perplexity), (len(drawn) - 1) / 3)
    start = "pca" if x.shape[1] > 1 else "random"
    tsne = TSNE(perplexity=perplexity, init=start, random_state=seed)
    return drawn, tsne.fit_transform(x[drawn].astype(np.float32))


def _checked(features: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    if features.ndim != 2 or targets.shape != features.shape[:1]:
        raise ValueError(
            f"expected features [N, D] and targets [N], got {list(features.shape)} and {list(targets.shape)}"
        )
    if not features.isfinite().all():
        raise ValueError(f"{int((~features.isfinite().all(dim=1)).sum())} of {len(features)} rows are not finite")
    return features.detach().cpu().double().numpy(), class_indices(targets, "targets").cpu().numpy()


def _drawn(count: int, at_most: int, seed: int) -> np.ndarray:
    if count <= at_most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, at_most, replace=False))


def _knn_accuracy(x: np.ndarray, y: np.ndarray, queries: np.ndarray, neighbours: int) -> float:
    from sklearn.neighbors import NearestNeighbors

    neighbours = min(neighbours, len(x) - 1)
    # One more, of which the sample itself is dropped; another at distance 0 may come before it.
    found = NearestNeighbors(n_neighbors=neighbours + 1).fit(x).kneighbors(x[queries], return_distance=False)
    itself = found == queries[:, None]
    itself[~itself.any(axis=1), -1] = True
    votes = y[found[~itself].reshape(len(queries), neighbours)]  # [M, neighbours], nearest first
    frequency = (votes[:, :, None] == votes[:, None, :]).sum(axis=2)
    winner = votes[np.arange(len(votes)), frequency.argmax(axis=1)]
    return float((winner == y[queries]).mean())
