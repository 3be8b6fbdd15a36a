import numpy as np
import pytest
from scipy import stats

from ols.metrics.resampling import (
    bootstrap_interval,
    bootstrap_p,
    corrected_t_test,
    enough_resamples,
    holm,
    paired_bootstrap,
    resample,
    sign_flip_floor,
    sign_flip_test,
)


def test_every_resample_draws_as_many_samples_as_there_are():
    counts = resample(lambda counts: counts, 50, resamples=300, seed=0)
    assert counts.shape == (300, 50)
    assert (counts.sum(axis=1) == 50).all()
    # a sample is left out of a resample with probability (1 - 1 / N)^N
    assert (counts == 0).mean() == pytest.approx(0.98**50, abs=0.01)


def test_resamples_come_in_blocks_and_depend_on_the_seed_alone():
    def draw(seed):
        return resample(lambda counts: counts[:, 0], 2_000_000, resamples=5, seed=seed)  # two to a block

    assert len(draw(0)) == 5
    np.testing.assert_array_equal(draw(0), draw(0))
    assert (draw(0) != draw(1)).any()


def test_the_paired_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(0)
    first = rng.gamma(2, size=400)
    second = first + rng.normal(0.1, 0.5, 400)
    ours = paired_bootstrap(first, second, resamples=20_000)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        n_resamples=20_000,
        method="basic",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours.difference == pytest.approx((first - second).mean())
    assert ours.low == pytest.approx(theirs.low, abs=2e-3)
    assert ours.high == pytest.approx(theirs.high, abs=2e-3)
    assert ours.p_value == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=2e-3)


def test_pairing_takes_out_what_both_share():
    rng = np.random.default_rng(0)
    shared, noise = rng.normal(0, 10, 500), rng.normal(0.2, 0.1, 500)
    found = paired_bootstrap(shared + noise, shared)
    assert found.low > 0.18
    assert found.high < 0.22


def test_the_interval_covers_the_truth_and_the_test_rejects_a_true_null_as_often_as_they_say():
    rng = np.random.default_rng(0)
    trials = 600
    found = [
        paired_bootstrap(rng.exponential(size=150), rng.exponential(size=150), resamples=400, seed=i)
        for i in range(trials)
    ]
    covered = sum(f.low <= 0 <= f.high for f in found)
    rejected = sum(f.p_value < 0.05 for f in found)
    # 99.9 % of binomial draws at 0.95 and at 0.05
    low, high = stats.binom.interval(0.999, trials, 0.95)
    assert low <= covered <= high
    assert trials - high <= rejected <= trials - low


def test_an_interval_without_zero_has_a_small_p_and_the_other_way_round():
    rng = np.random.default_rng(0)
    for seed in range(50):
        found = paired_bootstrap(rng.normal(0.15, 1, 150), np.zeros(150), resamples=2000, seed=seed)
        if abs(found.p_value - 0.05) > 0.005:
            assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)


def test_the_interval_of_an_inflated_statistic_moves_back():
    # An estimate of 1 that resampling inflates to 1.3 was inflated by as much itself: the truth is near 0.7.
    low, high = bootstrap_interval(1.0, np.linspace(1.2, 1.4, 1001))
    assert (low + high) / 2 == pytest.approx(0.7)
    assert bootstrap_p(1.0, np.linspace(1.2, 1.4, 1001)) == pytest.approx(2 / 1002)


@pytest.mark.parametrize("pairs", [2, 5, 6, 9, 12])
def test_sign_flips_agree_with_scipy(pairs):
    rng = np.random.default_rng(pairs)
    for _ in range(5):
        differences = rng.normal(0.5, 1, pairs)
        theirs = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
        )
        assert sign_flip_test(differences) == pytest.approx(theirs.pvalue, abs=1e-12)


def test_tied_differences_count_as_being_as_far():
    # sums of +-0.1, +-0.1, +-0.1, +-0.3: |0.6| twice, |0.4| six times, |0.2| six times, |0| twice, of 16
    assert sign_flip_test([0.1, 0.1, -0.1, 0.3]) == pytest.approx(8 / 16)
    assert sign_flip_test([0.0, 0.0, 0.0]) == 1


def test_random_sign_flips_beyond_twelve_pairs_come_near_the_exact_p():
    differences = np.random.default_rng(3).normal(0.4, 1, 14)
    theirs = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    assert sign_flip_test(differences) == pytest.approx(theirs.pvalue, abs=0.005)
    assert sign_flip_test(np.ones(40)) == pytest.approx(1 / 100_001)


def test_the_floor_is_what_differences_of_one_sign_give():
    assert sign_flip_test([1, 2, 3, 4, 5]) == sign_flip_floor(5) == 0.0625
    assert sign_flip_test([-1, -2, -3, -4, -5, -6]) == sign_flip_floor(6) == 0.03125


def test_sign_flips_of_a_true_null_reject_no_more_often_than_they_say():
    rng = np.random.default_rng(0)
    p = np.array([sign_flip_test(rng.standard_t(3, 8)) for _ in range(1000)])
    for level in (2 / 256, 0.05, 0.2):
        assert (p <= level).sum() <= stats.binom.ppf(0.999, 1000, level)
    assert (p <= 0.2).mean() > 0.15


def test_holm_by_hand():
    # sorted 0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 x 1 is raised to the 0.06 before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_does_not_count_what_was_not_tested():
    adjusted = holm([0.01, np.nan, 0.04])
    assert adjusted[0] == pytest.approx(0.02)
    assert np.isnan(adjusted[1])
    assert adjusted[2] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resample(np.sum, 0, resamples=5, seed=0), "got 0 and 5"),
        (lambda: bootstrap_interval(0.0, [1.0], level=1.0), r"level must lie in \(0, 1\), got 1.0"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "of the same samples"),
        (lambda: sign_flip_test([]), "at least one pair"),
        (lambda: sign_flip_test([1.0, np.nan]), "finite differences"),
    ],
)
def test_what_cannot_be_tested_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_images_of_a_patient_are_drawn_together():
    patients = np.array(["b", "a", "b", "c", "a", "b"])
    counts = resample(lambda counts: counts, 6, resamples=500, seed=0, clusters=patients)
    for patient in "abc":
        of_patient = counts[:, patients == patient]
        assert (of_patient == of_patient[:, :1]).all()
    assert (counts[:, [1, 0, 3]].sum(axis=1) == 3).all()  # one image of each: as many patients as there are


def test_clusters_of_one_sample_each_are_the_plain_bootstrap():
    def draw(clusters):
        return resample(lambda counts: counts, 9, resamples=40, seed=3, clusters=clusters)

    np.testing.assert_array_equal(draw(np.arange(9)), draw(None))


def test_the_error_of_a_mean_over_patients_with_many_images_is_that_between_patients():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(60), 10)
    values = rng.normal(size=60)[patients]
    means = resample(lambda counts: counts @ values / counts.sum(1), 600, resamples=4000, seed=0, clusters=patients)
    assert means.std() == pytest.approx(values[::10].std() / 60**0.5, rel=0.05)


def test_a_cluster_for_each_sample_is_asked_for():
    with pytest.raises(ValueError, match="a cluster of each of 6 samples"):
        resample(lambda counts: counts, 6, resamples=2, seed=0, clusters=[1, 2])


def test_the_corrected_t_test_by_hand():
    # mean 2, variance 1, n 3, test/train 1/4: t = 2 / sqrt(1/3 + 1/4), 2 degrees of freedom
    t = 2 / (7 / 12) ** 0.5
    assert corrected_t_test([1, 2, 3], test_share=0.2) == pytest.approx(1 - t / (2 + t * t) ** 0.5, abs=1e-12)
    assert corrected_t_test([1, 2, 3], test_share=0.2) > stats.ttest_1samp([1, 2, 3], 0).pvalue


def test_the_corrected_t_test_at_its_ends():
    assert corrected_t_test([0, 0], test_share=0.2) == 1
    assert np.isnan(corrected_t_test([0.3 - 0.2, 0.4 - 0.3], test_share=0.2))  # the same but for rounding
    assert np.isnan(corrected_t_test([1], test_share=0.2))
    with pytest.raises(ValueError, match=r"test_share must lie in \(0, 1\)"):
        corrected_t_test([1, 2], test_share=1)


def test_enough_resamples_leave_a_p_below_5_percent_however_many_comparisons_there_are():
    for comparisons in (1, 45, 400):
        draws = np.ones(enough_resamples(comparisons))  # none deviates by the difference: p is at its floor
        found = float(bootstrap_p(1.0, draws))
        assert holm([found, *[1.0] * (comparisons - 1)])[0] < 0.05
    assert enough_resamples(1) == 2000
