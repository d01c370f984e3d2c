import numpy as np
import pytest
from scipy import stats

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
