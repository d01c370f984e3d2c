"""Effect sizes, tests, false discoveries and ranks of two groups, against closed forms, SciPy and statsmodels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.meta_analysis import effectsize_smd
from statsmodels.stats.multitest import fdrcorrection

from brainuad.effects import Moments, adjusted, correction, effect_interval, hedges, ranking, welch
from brainuad.resampling import draws


@pytest.fixture
def pair(rng):
    """Values of patients and controls at 200 places, far from 0; some are not known."""
    patients, controls = 50 + rng.normal(0.5, 1.5, (11, 200)), 50 + rng.normal(0, 1, (17, 200))
    patients[rng.random(patients.shape) < 0.1] = np.nan
    return patients, controls


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 30), st.integers(1, 20)),
    offset=st.sampled_from([0.0, 50.0, -1e5]),
    levels=st.sampled_from([1, 3, None]),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_moments_are_those_of_the_known_values(shape, offset, levels, share, seed):
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 1.5, shape) if levels is None else generator.integers(levels, size=shape).astype(float)
    values = np.where(generator.random(shape) < share, offset + values, np.nan)
    moments = Moments.of(values)
    for place, column in enumerate(values.T):
        known = column[np.isfinite(column)]
        assert moments.number[place] == len(known)
        assert moments.mean[place] == pytest.approx(known.mean() if len(known) else 0, rel=1e-9, abs=1e-12)
        expected = known.var(ddof=1) if len(known) > 1 else np.nan
        assert moments.variance[place] == pytest.approx(expected, rel=1e-6, abs=1e-12, nan_ok=True)


def test_the_correction_is_exact():
    """Of small degrees of freedom the gamma functions of Hedges (1981) are known: Γ(1/2) = √π."""
    expected = [1 / np.sqrt(np.pi), np.sqrt(np.pi / 6), np.sqrt(2 / np.pi)]
    np.testing.assert_allclose(correction(np.array([2, 3, 4])), expected)
    assert correction(np.array(500)) == pytest.approx(1 - 3 / (4 * 500 - 1), abs=1e-6)
    assert np.isnan(correction(np.array([1]))[0])


def test_the_effect_is_the_standardised_difference(pair):
    patients, controls = pair
    effect = hedges(*map(Moments.of, pair))
    first = [values[np.isfinite(values[:, 0]), 0] for values in pair]
    sizes, variances = [len(values) for values in first], [values.var(ddof=1) for values in first]
    pooled = sum((n - 1) * v for n, v in zip(sizes, variances, strict=True)) / (sum(sizes) - 2)
    by_hand = (first[0].mean() - first[1].mean()) / np.sqrt(pooled) * correction(np.array(sum(sizes) - 2))
    assert effect[0] == pytest.approx(by_hand)
    numbers = [np.isfinite(values).sum(axis=0) for values in pair]
    theirs = effectsize_smd(
        np.nanmean(patients, 0), np.nanstd(patients, 0, ddof=1), numbers[0],
        controls.mean(0), controls.std(0, ddof=1), numbers[1],
    )[0]  # fmt: skip
    np.testing.assert_allclose(effect, theirs, rtol=2e-3)  # statsmodels approximates the correction


def test_the_effect_has_no_bias_in_few_subjects(rng):
    values = rng.normal(0, 1, (8, 40_000))
    values[:4] += 0.8
    effect = hedges(Moments.of(values[:4]), Moments.of(values[4:]))
    assert effect.mean() == pytest.approx(0.8, abs=4 * effect.std() / 200)
    assert effect.mean() / correction(np.array(6)) > 0.85, "without the correction it is too large"


def test_the_test_is_welchs(pair):
    found, expected = welch(*map(Moments.of, pair)), stats.ttest_ind(*pair, equal_var=False, nan_policy="omit")
    np.testing.assert_allclose(found.t, expected.statistic)
    np.testing.assert_allclose(found.freedom, expected.df)
    np.testing.assert_allclose(found.p, expected.pvalue, rtol=1e-9)


def test_nothing_is_said_of_places_without_spread_or_subjects():
    group = np.array([[1.0, 2.0, np.nan, 1.1], [1.0, np.nan, np.nan, 1.1]])
    reference = np.array([[1.0, 2.0, 3.0, 1.1], [1.0, 2.5, 4.0, 1.1], [1.0, 2.1, 3.5, 1.1]])
    pair = Moments.of(group), Moments.of(reference)
    assert np.isnan(hedges(*pair)).all()
    assert np.isnan(welch(*pair).p).all()
    bounds = effect_interval(group, reference, (draws("a", 2, 100), draws("b", 3, 100)), hedges(*pair))
    assert np.isnan(bounds).all()


def test_false_discoveries_are_those_of_statsmodels(rng):
    p = rng.random((10, 30)) ** 2
    np.testing.assert_allclose(adjusted(p).ravel(), fdrcorrection(p.ravel(), 0.05)[1])
    holes = np.where(rng.random(p.shape) < 0.3, np.nan, p)
    np.testing.assert_allclose(adjusted(holes)[~np.isnan(holes)], fdrcorrection(holes[~np.isnan(holes)])[1])
    assert np.isnan(adjusted(holes)[np.isnan(holes)]).all()
    assert np.isnan(adjusted(np.full(3, np.nan))).all()


def test_drawn_moments_are_those_of_repeated_subjects(pair):
    """The interval is of effects of cohorts in which subjects come as often as they are drawn."""
    drawn = draws("a", 11, 40), draws("b", 17, 40)
    effect = hedges(*map(Moments.of, pair))
    again = [
        hedges(*(Moments.of(np.repeat(values, weights, axis=0)) for values, weights in zip(pair, both, strict=True)))
        for both in zip(*drawn, strict=True)
    ]
    low, high = effect_interval(*pair, drawn, effect).T
    assert (low < effect).all()
    assert (effect < high).all()
    assert (low >= np.nanmin(again, axis=0) - 1e-9).all()
    assert (high <= np.nanmax(again, axis=0) + 1e-9).all()


def test_intervals_cover_the_true_effect(rng):
    """Of 300 places 95 in 100 intervals hold the truth; as few as 88 are let pass with 15 subjects a group."""
    values = rng.normal(0, 1, (30, 300))
    values[:15] += 0.7
    bounds = effect_interval(
        values[:15], values[15:], (draws("a", 15, 500), draws("b", 15, 500)),
        hedges(Moments.of(values[:15]), Moments.of(values[15:])),
    )  # fmt: skip
    covered = ((bounds[:, 0] <= 0.7) & (bounds[:, 1] >= 0.7)).mean()
    assert 0.88 <= covered <= 0.995


def test_ranks_are_those_of_scikit_learn(rng):
    group, reference = np.round(rng.normal(1, 1, 14), 1), np.round(rng.normal(0, 1, 20), 1)  # with ties
    found = ranking(group, reference, (draws("a", 14, 500), draws("b", 20, 500)))
    truth = np.repeat([1, 0], [14, 20])
    assert found.auroc == pytest.approx(roc_auc_score(truth, np.concatenate([group, reference])))
    assert found.low < found.auroc < found.high
    replicate = draws("a", 14, 1), draws("b", 20, 1)
    repeated = [np.repeat(values, weights[0]) for values, weights in zip((group, reference), replicate, strict=True)]
    assert 0 <= roc_auc_score(truth, np.concatenate(repeated)) <= 1
    unknown = ranking(np.array([np.nan]), reference, (draws("a", 1, 100), draws("b", 20, 100)))
    assert np.isnan(unknown).all()
    alone = ranking(np.array([9.0]), reference, (draws("a", 1, 100), draws("b", 20, 100)))
    assert alone.auroc == 1
    assert np.isnan(alone.low), "one subject alone has no interval"
