import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from brainuad.resampling import draws, interval, no_interval


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


def test_equal_draws_have_no_interval():
    """At the end of a scale all draws may be equal: an interval of no width would claim to be certain."""
    assert np.isnan(interval(1.0, np.ones(200), 7)).all()
    assert no_interval(np.ones(200), 7) == "no interval: the same in all draws of the subjects"
    assert no_interval(np.r_[np.ones(199), 0.9], 7) == ""


def test_an_interval_of_too_many_undefined_draws_is_none():
    replicates = np.arange(100.0)
    replicates[:11] = np.nan
    assert np.isnan(interval(50.0, replicates, 9)).all()
    replicates[0] = 0.0
    assert interval(50.0, replicates, 9)[1] > 95
    assert np.isnan(interval(0.0, np.full(5, np.nan), 9)).all()
    assert np.isnan(interval(np.nan, np.arange(100.0), 9)).all()
    assert np.isnan(interval(50.0, np.arange(100.0), 1)).all(), "one subject says nothing of others"
    assert no_interval(np.arange(100.0), 1) == "no interval: one subject alone decides it"
    assert "undefined in more than one in ten draws" in no_interval(np.full(5, np.nan), 9)


def test_a_number_lies_in_its_interval_even_beside_all_draws():
    low, high = interval(0.2, np.linspace(0.3, 0.4, 200), 30)
    assert low == 0.2
    assert 0.3 < high < 0.4


@pytest.mark.parametrize(("found", "subjects"), [(0, 7), (1, 12), (3, 40), (20, 40), (40, 40)])
def test_the_interval_of_a_share_is_that_of_wilson(found, subjects):
    """One thing a subject: the draws spread as the binomial distribution does, but for Student's quantile."""
    outcomes = (np.arange(subjects) < found).astype(float)
    replicates = draws("x", subjects, 20_000) @ outcomes / subjects
    ours = interval(found / subjects, replicates, subjects, subjects)
    level = 2 * stats.norm.sf(stats.t.ppf(0.975, subjects - 1))
    number = subjects - 1 if 0 < found < subjects else subjects
    expected = proportion_confint(found / subjects * number, number, level, method="wilson")
    assert ours == pytest.approx(expected, abs=0.01)
    assert no_interval(replicates, subjects, subjects) == ""


def test_things_that_are_found_together_count_once():
    """Five lesions of a subject that are all found or all missed say no more than one; they never count for more."""
    weights, outcomes = draws("x", 30, 20_000), (np.arange(30) < 6).astype(float)
    once = interval(0.2, weights @ outcomes / 30, 30, 30)
    assert interval(0.2, weights @ (5 * outcomes) / 150, 30, 150) == pytest.approx(once)
    alike = np.full(30, 0.2) + 1e-3 * (np.arange(30) % 2)
    low, high = interval(alike.mean(), weights @ alike / 30, 30, 150)
    assert (low, high) == pytest.approx(proportion_confint(30.0, 150, 0.05, method="wilson"), abs=0.01)


def test_a_share_of_one_subject_has_no_interval():
    assert np.isnan(interval(0.5, np.full(100, 0.5), 1, 8)).all()
    assert no_interval(np.full(100, 0.5), 1, 8) == "no interval: one subject alone decides it"
