"""Similarity by hand on small matrices, by what must not change it, by known values, and against torch."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from ols.representations.similarity import (
    CkaSums,
    Representation,
    canonical_correlations,
    linear_cka,
    mean_cca,
    pwcca,
    svcca,
)

MEASURES = [mean_cca, svcca, pwcca, linear_cka]


def _related(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1)
    return x, x @ rng.normal(size=(d, 5)) + 4 * rng.normal(size=(n, 5))


def test_canonical_correlations_of_one_feature_each_are_pearsons():
    x, y = _related()
    (found,) = canonical_correlations(x[:, :1], y[:, :1])
    assert found == pytest.approx(abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1]), abs=1e-12)


def test_canonical_correlations_by_hand():
    # y is x's first feature, and a feature that is orthogonal to both of x
    x = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]], float)
    y = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]], float)
    np.testing.assert_allclose(canonical_correlations(x, y, rows_per_feature=0), [1, 0], atol=1e-12)
    assert mean_cca(x, y, rows_per_feature=0) == pytest.approx(0.5)
    # both directions of x explain as much of its features
    assert pwcca(x, y, rows_per_feature=0) == pytest.approx(0.5)
    # a first feature three times as large: weights 3 and 1
    assert pwcca(x * [3, 1], y, rows_per_feature=0) == pytest.approx(0.75)


def test_canonical_correlations_are_those_of_scikit_learn():
    x, y = _related()
    scores = CCA(n_components=3, max_iter=10_000, tol=1e-12).fit(x, y).transform(x, y)
    theirs = [abs(np.corrcoef(scores[0][:, i], scores[1][:, i])[0, 1]) for i in range(3)]
    np.testing.assert_allclose(canonical_correlations(x, y)[:3], theirs, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_same_features_are_alike_whatever_their_rotation_scale_and_place(measure):
    x, y = _related()
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert measure(x, x) == pytest.approx(1, abs=1e-9)
    turned = x[:, ::-1] if measure is pwcca else x @ rotation  # which weights by the features as they are
    assert measure(2 * turned, y * 7 + 3) == pytest.approx(measure(x, y), abs=1e-9)
    assert measure(x, 3 * x @ rotation - 2) == pytest.approx(1, abs=1e-9)


def test_mean_cca_is_unchanged_by_every_invertible_map_pwcca_by_one_of_the_second_side_and_cka_by_neither():
    x, y = _related()
    mapped = y @ np.random.default_rng(3).normal(size=(5, 5))
    assert pwcca(x, mapped) == pytest.approx(pwcca(x, y), abs=1e-9)
    skewed = x @ np.random.default_rng(2).normal(size=(6, 6))
    assert mean_cca(skewed, y) == pytest.approx(mean_cca(x, y), abs=1e-9)
    assert abs(linear_cka(skewed, y) - linear_cka(x, y)) > 1e-3


def test_features_that_repeat_others_or_do_not_vary_add_nothing():
    x, y = _related()
    more = np.concatenate([x, x[:, :2] * 2, np.ones((400, 1))], axis=1)
    np.testing.assert_allclose(canonical_correlations(more, y), canonical_correlations(x, y), atol=1e-9)


def test_independent_features_of_few_rows_look_alike_to_cca_and_are_therefore_refused():
    rng = np.random.default_rng(0)
    few, many = rng.normal(size=(2, 640, 64)), rng.normal(size=(2, 10_000, 64))
    assert mean_cca(*few) == pytest.approx(0.27, abs=0.01)
    assert mean_cca(*many) == pytest.approx(0.07, abs=0.01)
    with pytest.raises(ValueError, match="64 features need 640 rows, got 639"):
        mean_cca(*few[:, :639])


def test_svcca_keeps_the_components_that_hold_the_variance():
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(size=(1000, 1)), rng.normal(size=(2, 1000, 1))
    x, y = (np.concatenate([10 * shared, small], axis=1) for small in noise)  # 99.0 % of the variance is shared
    assert svcca(x, y, variance=0.95) == pytest.approx(1, abs=0.01)
    assert svcca(x, y, variance=1.0) == pytest.approx(mean_cca(x, y), abs=1e-9)
    assert mean_cca(x, y) == pytest.approx(0.5, abs=0.05)


def _cka_of_kernels(x, y):
    """Song et al.'s estimator over kernel matrices, in torch."""

    def hsic(k, m):
        n = len(k)
        k, m, ones = k - k.diag().diag(), m - m.diag().diag(), torch.ones(n, dtype=k.dtype)
        first = (k @ m).trace() + ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
        return (first - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))

    k, m = (torch.from_numpy(side) @ torch.from_numpy(side).T for side in (x, y))
    return (hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()).item()


def test_cka_is_that_of_the_kernel_matrices():
    x, y = _related(n=60)
    assert linear_cka(x, y) == pytest.approx(_cka_of_kernels(x, y), abs=1e-10)


def test_cka_of_independent_features_is_about_zero_where_the_biased_one_is_large():
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(200, 2, 32, 200))
    found = [linear_cka(x, y) for x, y in pairs]
    assert abs(np.mean(found)) < 3 * np.std(found) / 200**0.5 < 0.02
    biased = [_biased_cka(x - x.mean(0), y - y.mean(0)) for x, y in pairs]
    assert np.mean(biased) > 0.5


def _biased_cka(x, y):
    norms = [np.linalg.norm(a.T @ b) for a, b in ((x, y), (x, x), (y, y))]
    return norms[0] ** 2 / (norms[1] * norms[2])


def test_cka_over_batches_estimates_that_of_all_rows():
    x, y = _related(n=6000)
    sums = CkaSums()
    for start in range(0, 6000, 20):
        sums.update(x[start : start + 20], y[start : start + 20])
    assert sums.compute() == pytest.approx(linear_cka(x, y), abs=0.01)
    with pytest.raises(ValueError, match="at least 4 rows"):
        sums.update(x[:3], y[:3])


def test_all_measures_of_decomposed_features_are_those_of_the_features():
    x, y = _related()
    for first, second in ((x, y), (y, x)):
        found = Representation(first).likeness(Representation(second))
        assert found == pytest.approx(
            {measure.__name__.removeprefix("linear_"): measure(first, second) for measure in MEASURES}
        )
    order = np.random.default_rng(4).permutation(400)
    permuted = Representation(x).likeness(Representation(y), order)
    assert permuted == pytest.approx(Representation(x).likeness(Representation(y[order])))
    assert permuted["cka"] == pytest.approx(_cka_of_kernels(x, y[order]), abs=1e-10)


def test_chance_is_what_rows_that_do_not_belong_together_give():
    x, y = _related()
    rng = np.random.default_rng(0)
    orders = [rng.permutation(400) for _ in range(20)]
    related = Representation(x).against_chance(Representation(y), orders)
    unrelated = Representation(x).against_chance(Representation(rng.normal(size=(400, 5))), orders)
    assert len(related) == 4
    for name, found in related.items():
        assert found.null_low < found.null < found.null_high < found.value
        assert unrelated[name].null_low - 0.05 < unrelated[name].value < unrelated[name].null_high + 0.05
    # the mean cosine between a direction of 6 and of 5 among 399 is of this size
    assert related["mean_cca"].null == pytest.approx(0.08, abs=0.03)
    with pytest.raises(ValueError, match="at least one permutation"):
        Representation(x).against_chance(Representation(y), [])


def test_a_measure_that_has_too_few_rows_is_left_out_and_the_others_are_not():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(100, 3))
    x, y = (np.concatenate([shared, 1e-3 * rng.normal(size=(100, 20))], axis=1) for _ in range(2))
    found = Representation(x).likeness(Representation(y))
    assert np.isnan([found["mean_cca"], found["pwcca"]]).all()
    assert found["svcca"] == pytest.approx(1, abs=1e-3)
    assert found["cka"] == pytest.approx(1, abs=1e-3)


def test_what_single_precision_rounds_is_no_direction():
    rng = np.random.default_rng(0)
    low = rng.normal(size=(500, 4)).astype(np.float32) + 3
    wide = low @ rng.normal(size=(4, 16)).astype(np.float32)
    assert np.linalg.matrix_rank(wide.astype(np.float64) - wide.mean(0)) == 16
    assert Representation(wide).rank == 4
    assert Representation(wide).likeness(Representation(low))["mean_cca"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((20, 2)), "features must vary"),
        (np.full((20, 2), np.nan), "features must be finite"),
        (np.zeros((19, 2)), "of the same rows"),
    ],
)
def test_features_that_cannot_be_compared_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        linear_cka(x, np.random.default_rng(0).normal(size=(20, 2)))
