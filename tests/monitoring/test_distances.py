import math

import numpy as np
import pytest
from scipy import stats

from ucf50_tfrecord.monitoring import distances


def test_psi_of_a_case_by_hand():
    reference, stream = np.array([9, 29]), np.array([19, 19])
    p, q = np.array([9.5, 29.5]) / 39, np.array([0.5, 0.5])
    expected = (q[0] - p[0]) * math.log(q[0] / p[0]) + (q[1] - p[1]) * math.log(q[1] / p[1])
    assert distances.psi(reference, stream) == pytest.approx(expected)
    assert distances.psi(stream, stream) == 0
    assert np.isfinite(distances.psi(np.array([10, 0]), np.array([0, 10])))
    rows = np.stack([stream, reference])
    np.testing.assert_allclose(distances.psi(reference, rows), [expected, 0])


def test_chi_squared_is_scipys():
    reference, stream = np.array([12, 5, 0, 7]), np.array([3, 9, 0, 4])
    table = np.stack([reference, stream])[:, [0, 1, 3]]
    expected = stats.chi2_contingency(table, correction=False).statistic
    assert distances.chi_squared(reference, stream) == pytest.approx(expected)
    assert distances.chi_squared(reference, np.stack([2 * reference, stream]))[0] == pytest.approx(0)


def test_design_effect_counts_copies_once():
    rng = np.random.default_rng(0)
    single = rng.normal(size=(200, 3))
    copies, recordings = np.repeat(single, 4, axis=0), np.repeat(np.arange(200), 4)
    np.testing.assert_allclose(distances.design_effects(copies, recordings), 4, rtol=0.02)
    alone = distances.design_effects(single, np.arange(200))
    np.testing.assert_allclose(alone, 1, atol=0.02)
    shuffled = distances.design_effects(copies, rng.permutation(recordings))
    assert shuffled.max() < 1.3
    constant = distances.design_effects(np.ones((800, 1)), recordings)
    assert constant.tolist() == [1]


def test_design_effect_is_the_variance_of_a_resampled_distribution_function():
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 6, 60)
    recordings = np.repeat(np.arange(60), sizes)
    values = rng.normal(size=60)[recordings] + 0.7 * rng.normal(size=len(recordings))
    [found] = distances.design_effects(values[:, np.newaxis], recordings)
    cuts = np.quantile(values, np.linspace(0.05, 0.95, 19))
    below = values[:, np.newaxis] <= cuts
    sums = np.stack([below[recordings == r].sum(axis=0) for r in range(60)])
    drawn = rng.integers(0, 60, (4000, 60))
    fractions = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, np.newaxis]
    mean = below.mean(axis=0)
    expected = fractions.var(axis=0).sum() / (mean * (1 - mean) / len(values)).sum()
    assert found == pytest.approx(expected, rel=0.1)


def test_ks_of_independent_videos_is_scipys():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(90, 2)), rng.normal(0.4, 1, size=(70, 2))
    found = distances.ks_distances(one, other)
    expected = [stats.ks_2samp(one[:, k], other[:, k], method="asymp") for k in range(2)]
    np.testing.assert_allclose(found, [result.statistic for result in expected])
    size = distances.effective_size(90, 70, np.ones(2))
    np.testing.assert_allclose(distances.ks_p_values(found, size), [result.pvalue for result in expected])
    halved = distances.ks_p_values(found, distances.effective_size(90, 70, np.full(2, 2.0)))
    assert (halved > distances.ks_p_values(found, size)).all()
    threshold = distances.ks_threshold(0.01, size[0])
    np.testing.assert_allclose(distances.ks_p_values(threshold, size[0]), 0.01, rtol=1e-6)


def test_a_sample_of_the_needed_size_finds_the_distance_in_four_of_five_samples():
    level, distance = 0.05, 0.2
    size = math.ceil(distances.size_needed(level, distance))
    rng = np.random.default_rng(3)
    found = 0
    for _ in range(400):
        # The distribution function at 0.5 is 0.5 + distance, and nowhere farther from that of uniform numbers.
        low = rng.random(size) < 0.5 + distance
        values = rng.random(size) / 2 + np.where(low, 0, 0.5)
        found += stats.ks_1samp(values, stats.uniform.cdf).pvalue <= level
    assert 0.77 <= found / 400 <= 0.95
