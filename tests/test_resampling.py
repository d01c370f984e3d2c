import numpy as np
import pytest
from scipy import stats
from scipy.stats import permutation_test, rankdata

from brainuad.resampling import draws, holm, interval, mean_ranks, sign_flip


def test_every_draw_has_as_many_subjects():
    weights = draws("ixi", 30, 500)
    assert weights.shape == (500, 30)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.mean() == pytest.approx(1)
    assert (draws("ixi", 30, 500) == weights).all(), "the same for every model"
    assert (draws("oasis3", 30, 500) != weights).any()


@pytest.mark.parametrize("subjects", [12, 400])
def test_the_interval_of_a_mean_is_that_of_student(subjects):
    """Of a mean of nearly normal values theory knows the interval."""
    values = stats.norm.ppf((np.arange(subjects) + 0.5) / subjects)
    replicates = draws("x", subjects, 20_000) @ values / subjects
    low, high = interval(values.mean(), replicates, subjects)
    reach = stats.t.ppf(0.975, subjects - 1) * stats.sem(values)
    assert low == pytest.approx(-reach, rel=0.08)
    assert high == pytest.approx(reach, rel=0.08)


def test_the_interval_of_a_biased_number_is_shifted():
    """Draws that lie above their number by half their spread lie above its truth as well (Efron, 1981)."""
    drawn = np.random.default_rng(0).normal(0.5, 1, 100_000)
    low, high = interval(0.0, drawn, 10_000)
    assert low == pytest.approx(0.5 - 1 - 1.96, abs=0.05)
    assert high == pytest.approx(0.5 - 1 + 1.96, abs=0.05)


def test_equal_draws_have_an_interval_of_no_width():
    assert interval(0.3, np.full(200, 0.3), 7) == (0.3, 0.3)


def test_an_interval_of_too_many_undefined_draws_is_none():
    replicates = np.arange(100.0)
    replicates[:11] = np.nan
    assert np.isnan(interval(50.0, replicates, 9)).all()
    replicates[0] = 0.0
    assert interval(50.0, replicates, 9)[1] > 95
    assert np.isnan(interval(0.0, np.full(5, np.nan), 9)).all()
    assert np.isnan(interval(np.nan, np.arange(100.0), 9)).all()
    assert np.isnan(interval(50.0, np.arange(100.0), 1)).all(), "one subject says nothing of others"


@pytest.mark.parametrize("subjects", [5, 9, 12])
def test_few_subjects_are_permuted_in_every_way_as_by_scipy(subjects):
    differences = np.random.default_rng(subjects).normal(0.4, size=(subjects, 3))
    for column, p in zip(differences.T, sign_flip(differences), strict=True):
        expected = permutation_test(
            (column, np.zeros(subjects)), difference, permutation_type="samples", n_resamples=np.inf
        )
        assert p == pytest.approx(expected.pvalue)


def difference(x, y, axis=0):
    return np.mean(x - y, axis=axis)


def test_many_subjects_are_permuted_at_random():
    differences = np.random.default_rng(1).normal(0.2, size=(60, 2))
    p = sign_flip(differences)
    expected = permutation_test(
        (differences[:, 0], np.zeros(60)), difference, permutation_type="samples", n_resamples=20_000
    )
    assert p[0] == pytest.approx(expected.pvalue, abs=0.01)
    assert p.min() >= 1 / 10_000, "never 0"


def test_p_values_of_no_difference_are_uniform():
    differences = np.random.default_rng(2).normal(size=(20, 2000))
    p = sign_flip(differences, flips=999)
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.015)


def test_no_difference_at_all_is_certain():
    assert sign_flip(np.zeros((8, 1))) == pytest.approx(1)
    assert np.isnan(sign_flip(np.zeros((0, 2)))).all()


def test_holm_in_closed_form():
    """Holm (1979): the smallest p times the number of tests, the next times one less, never falling, at most 1."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    adjusted = holm(np.array([0.02, np.nan, 0.9]))
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.9])
    assert np.isnan(adjusted[1])


def test_holm_is_that_of_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(3).random(25) ** 3
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_ranks_share_ties_and_follow_the_direction():
    values = np.array([[0.9, 0.5, 0.5], [0.2, 0.8, 0.1]])
    weights = np.array([[2, 0], [0, 2]])
    means, drawn = mean_ranks(values, weights, higher_is_better=True)
    assert means == pytest.approx([1.5, 1.75, 2.75])
    assert drawn[0] == pytest.approx([1, 2.5, 2.5])
    lower, _ = mean_ranks(values, weights, higher_is_better=False)
    assert lower == pytest.approx(rankdata(values, axis=1).mean(axis=0))
