import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from brainuad.counts import count, count_exactly, count_together, keys_of, pooled, scores_of
from brainuad.detection import (
    areas,
    auroc,
    average_precision,
    best_dice,
    best_mean_dice,
    dice,
    false_positive_rate_at,
    per_region_overlap,
)


def scores_with_ties(generator, count=5000, prevalence=0.05):
    """Scores like those of a masked map: most exactly zero, some equal, higher in lesions."""
    truth = generator.random(count) < prevalence
    scores = np.round(generator.random(count), 2) + 0.3 * truth
    return (scores * (generator.random(count) > 0.6)).astype(np.float32), truth


@pytest.mark.parametrize("seed", range(5))
def test_detection_equals_scikit_learn(seed):
    scores, truth = scores_with_ties(np.random.default_rng(seed))
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def pair_by_pair(scores, truth):
    """Both areas by their definitions, each abnormal pixel held against all others."""
    values = scores.astype(np.float64)
    positives, negatives = values[truth][:, None], values[~truth]
    with np.errstate(invalid="ignore"):  # of 0 / 0, where a class is empty
        won = ((positives > negatives).sum() + (positives == negatives).sum() / 2) / np.float64(
            positives.size * negatives.size
        )
    true, marked = (positives <= positives.T).sum(1), (values >= positives).sum(1)
    return won, (true / marked).mean() if positives.size else np.nan


EXTREME = st.one_of(
    st.floats(width=32, allow_nan=False),  # infinite ones among them, and those below the smallest normal one
    st.sampled_from([0.0, -0.0, np.inf, -np.inf, 3.4028234663852886e38, 1.401298464324817e-45, -1e-45, 1e-38]),
)
WIDTHS = st.sampled_from([np.float32, np.float64])


def labelled(scores, most=60):
    """Pixels, each its score and whether it is abnormal."""
    return st.lists(st.tuples(scores, st.booleans()), min_size=1, max_size=most)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pixels=labelled(EXTREME), width=WIDTHS)
def test_detection_is_that_of_all_pairs_whatever_the_numbers(pixels, width):
    scores, truth = (np.array(part) for part in zip(*pixels, strict=True))
    scores = scores.astype(width)
    found = auroc(scores, truth), average_precision(scores, truth)
    assert found == pytest.approx(pair_by_pair(scores, truth), abs=1e-12, nan_ok=True)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(2, 20_000),
    prevalence=st.sampled_from([1e-3, 0.034, 0.5, 0.99]),
    zeros=st.sampled_from([0.0, 0.6, 1.0]),  # with all of them zero the map is constant
    values=st.sampled_from([2, 100, None]),
    gain=st.floats(-1, 3),
    width=WIDTHS,
)
def test_detection_equals_scikit_learn_for_any_map(seed, size, prevalence, zeros, values, gain, width):
    generator = np.random.default_rng(seed)
    truth = generator.random(size) < prevalence
    truth[0], truth[-1] = True, False
    scores = generator.random(size) + gain * truth
    scores = (np.round(scores * values) / values if values else scores) * (generator.random(size) >= zeros)
    scores = scores.astype(width)
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def test_negative_scores_and_zeros_of_either_sign_are_ranked():
    scores = np.array([-3, -0.0, 0.0, 2, -1, -0.0], dtype=np.float32)
    truth = np.array([False, True, False, True, False, False])
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))


def test_detection_in_closed_form():
    truth = np.arange(100) >= 90
    ramp = np.arange(100, dtype=np.float32)
    assert (auroc(ramp, truth), average_precision(ramp, truth)) == (1, 1)
    assert auroc(-ramp, truth) == 0
    assert average_precision(-ramp, truth) == pytest.approx(np.mean([k / (90 + k) for k in range(1, 11)]))
    constant = np.zeros(100, dtype=np.float32)
    assert auroc(constant, truth) == 0.5
    assert average_precision(constant, truth) == pytest.approx(0.1), "the prevalence"


def test_random_scores_reach_the_prevalence():
    generator = np.random.default_rng(1)
    truth = generator.random(200_000) < 0.034
    scores = generator.random(200_000, dtype=np.float32)
    assert auroc(scores, truth) == pytest.approx(0.5, abs=0.01)
    assert average_precision(scores, truth) == pytest.approx(truth.mean(), rel=0.05)


def test_average_precision_is_not_the_trapezoid():
    scores, truth = scores_with_ties(np.random.default_rng(2), count=200)
    precision, recall, _ = precision_recall_curve(truth, scores)
    assert abs(auc(recall, precision) - average_precision(scores, truth)) > 1e-3


def test_scores_keep_their_precision():
    """In half precision these scores are equal, and the ranking is lost."""
    truth = np.array([False, True] * 50)
    scores = np.where(truth, 0.50001, 0.5).astype(np.float32)
    assert auroc(scores, truth) == 1
    assert auroc(scores.astype(np.float16), truth) == 0.5


def test_what_is_undefined_is_nan():
    scores = np.arange(4, dtype=np.float32)
    assert np.isnan(auroc(scores, np.zeros(4, bool)))
    assert np.isnan(auroc(scores, np.ones(4, bool)))
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))
    assert average_precision(scores, np.ones(4, bool)) == 1
    with pytest.raises(ValueError, match="Scores hold NaN"):
        auroc(np.array([0, np.nan, 1]), np.array([True, False, True]))


def counted(scores, truth, owner=None, subjects=1, bins=8192, lesions=None):
    """Counts of the pixels, an image a subject."""
    owner = np.zeros(len(scores), int) if owner is None else owner
    lesions = truth.astype(int) if lesions is None else lesions

    def pixels():
        for subject in range(subjects):
            chosen = owner == subject
            yield subject, scores[chosen], lesions[chosen]

    return count(pixels, subjects, bins)


def drawn(kind, seed, size=60_000, prevalence=0.034):
    """Scores of one kind and their truth."""
    generator = np.random.default_rng(seed)
    truth = generator.random(size) < prevalence
    scores = {
        "exponential": generator.exponential(size=size) * (1 + 2 * truth),
        "normal": generator.normal(size=size) + truth,
        "masked": generator.exponential(size=size) * (1 + truth) * (generator.random(size) > 0.6),
        "few values": np.round(generator.random(size) + 0.3 * truth, 1),
        "wide": np.exp(20 * generator.normal(size=size) + 10 * truth).clip(0, 1e30),
        "separate": generator.random(size) + truth,
        "inverted": generator.random(size) - 0.5 * truth,
    }[kind]
    return scores.astype(np.float32), truth


KINDS = ["exponential", "normal", "masked", "few values", "wide", "separate", "inverted"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_areas_of_counts_are_those_of_scikit_learn_to_1e_4(kind, seed):
    scores, truth = drawn(kind, seed)
    counts = counted(scores, truth)
    ranked, precision = areas(counts.positives[0], counts.negatives[0], counts.tied)
    assert ranked == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert precision == pytest.approx(average_precision_score(truth, scores), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_areas_of_all_counted_together_are_those_of_scikit_learn_to_1e_5(kind):
    scores, truth = drawn(kind, 0, 600_000)
    parts = [(0, *part) for part in zip(np.split(scores, 20), np.split(truth.astype(int), 20), strict=True)]
    counts = count_together(lambda: iter(parts))
    ranked, precision = areas(counts.positives[0], counts.negatives[0], counts.tied)
    assert ranked == pytest.approx(roc_auc_score(truth, scores), abs=1e-5)
    assert precision == pytest.approx(average_precision_score(truth, scores), abs=1e-5)
    assert counts.positives.sum() == truth.sum()
    assert counts.negatives.sum() == np.sum(~truth)
    assert (np.diff(counts.lower) < 0).all()


def in_images(scores, lesions, cuts):
    """A pass over images of any number of pixels, none among them, that scores were cut into."""
    places = np.sort([int(cut * len(scores)) for cut in cuts])
    images = list(zip(np.split(scores, places), np.split(lesions, places), strict=True))
    return lambda: ((0, *image) for image in images)


CUTS = st.lists(st.floats(0, 1), max_size=6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    size=st.integers(2_000, 300_000),
    prevalence=st.sampled_from([1e-3, 0.034, 0.5, 0.95]),
    cuts=CUTS,
)
def test_all_counted_together_are_within_1e_5_of_scikit_learn(kind, seed, size, prevalence, cuts):
    scores, truth = drawn(kind, seed, size, prevalence)
    counts = count_together(in_images(scores, truth.astype(int), cuts))
    ranked, precision = areas(counts.positives[0], counts.negatives[0], counts.tied)
    expected = np.nan, np.nan
    if truth.any():
        expected = roc_auc_score(truth, scores), average_precision_score(truth, scores)
    assert (ranked, precision) == pytest.approx(expected, abs=1e-5, nan_ok=True)
    assert (counts.positives.sum(), counts.negatives.sum()) == (truth.sum(), np.sum(~truth))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pixels=labelled(EXTREME), cuts=CUTS)
def test_few_pixels_counted_together_lose_nothing_whatever_the_numbers(pixels, cuts):
    """Each of them is many of its class, and told apart to the single score; numbers below 6e-42 count as zero."""
    scores, truth = (np.array(part) for part in zip(*pixels, strict=True))
    scores = scores.astype(np.float32)
    scores[np.abs(scores) < 6e-42] = 0
    counts = count_together(in_images(scores, truth.astype(int), cuts))
    assert areas(counts.positives[0], counts.negatives[0], counts.tied) == pytest.approx(
        pair_by_pair(scores, truth), abs=1e-12, nan_ok=True
    )


@pytest.mark.parametrize("offset", [0.0, 100.0, -1000.0])
@pytest.mark.parametrize("kind", ["overwritten", "normal"])
def test_keys_of_many_pixels_are_told_apart(kind, offset):
    """An overwritten region has one score, in a key with many others; an offset leaves few keys to all scores."""
    generator = np.random.default_rng(0)
    truth = np.arange(100_000) < 3000
    scores = generator.normal(size=truth.size) + truth
    if kind == "overwritten":
        scores = np.where(truth, np.repeat(generator.random(100), 1000)[: truth.size], generator.random(truth.size))
    scores = (scores + offset).astype(np.float32)
    counts = counted(scores, truth)
    ranked, precision = areas(counts.positives[0], counts.negatives[0], counts.tied)
    assert ranked == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert precision == pytest.approx(average_precision_score(truth, scores), abs=1e-4)
    assert (np.diff(counts.lower) < 0).all()
    weights = np.array([[1]])
    assert next(iter(pooled(counts, weights)))[0].sum() == 3000


@pytest.mark.parametrize("bins", [64, 512])
def test_areas_of_few_bins_are_near(bins):
    scores, truth = drawn("masked", 0)
    counts = counted(scores, truth, bins=bins)
    assert len(counts.tied) <= 3 * bins
    ranked, precision = areas(counts.positives[0], counts.negatives[0], counts.tied)
    assert ranked == pytest.approx(roc_auc_score(truth, scores), abs=2e-3)
    assert precision == pytest.approx(average_precision_score(truth, scores), abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-60000, 60000, width=16), min_size=2, max_size=12),
    seed=st.integers(0, 2**16),
    size=st.integers(10, 3000),
)
def test_tied_scores_are_counted_exactly(values, seed, size):
    """Whatever few values the scores take, ties included, counts are exact where keys keep the values apart."""
    generator = np.random.default_rng(seed)
    scores, truth = generator.choice(np.float32(values), size), generator.random(size) < 0.2
    if truth.all() or not truth.any():
        return
    counts = counted(scores, truth)
    ranked, precision = areas(counts.positives[0], counts.negatives[0], counts.tied)
    assert ranked == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
    assert precision == pytest.approx(average_precision_score(truth, scores), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    levels=st.integers(100, 100_000),
    offset=st.sampled_from([0.0, 1.0, 100.0, -1000.0]),
    kind=st.sampled_from(["exponential", "normal", "separate", "inverted"]),
    seed=st.integers(0, 2**16),
)
def test_areas_of_rounded_scores_are_those_of_scikit_learn_to_1e_4(levels, offset, kind, seed):
    """Thousands of scores that some pixels share each, of which several have one key."""
    scores, truth = drawn(kind, seed)
    scores = (np.round(scores * levels) / levels + offset).astype(np.float32)
    counts = counted(scores, truth)
    ranked, precision = areas(counts.positives[0], counts.negatives[0], counts.tied)
    assert ranked == pytest.approx(roc_auc_score(truth, scores), abs=1e-4)
    assert precision == pytest.approx(average_precision_score(truth, scores), abs=1e-4)


def test_whatever_many_pixels_share_is_told_apart():
    """A thousand keys of two scores each, of which one is of lesions: mixed, precision would be off by far."""
    keys = np.arange(1000) + keys_of(np.float32([1]))[0]
    scores = np.repeat(scores_of(np.repeat(keys, 2), np.tile([0, 1], 1000)), 50)
    truth = np.tile(np.repeat([True, False], 50), 1000)
    counts = counted(scores, truth)
    ranked, precision = areas(counts.positives[0], counts.negatives[0], counts.tied)
    assert ranked == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert precision == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert counts.tied.all()
    assert np.array_equal(counts.lower, np.unique(scores)[::-1])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_keys_order_scores_and_begin_at_their_score(values):
    scores = np.sort(np.float32(values))
    keys, rest = keys_of(scores)
    assert (np.diff(keys) >= 0).all()
    assert ((rest >= 0) & (rest < 4096)).all()
    assert (scores_of(keys) <= scores).all()
    same = np.diff(keys) == 0
    assert (np.diff(rest.astype(int))[same] >= 0).all()


def test_zeros_of_either_sign_share_a_key():
    assert len(set(keys_of(np.float32([0.0, -0.0]))[0])) == 1


def test_scores_with_nan_are_refused_when_counted():
    with pytest.raises(ValueError, match="Scores hold NaN"):
        counted(np.float32([0, np.nan]), np.array([True, False]))


def test_counts_hold_every_pixel_once_by_subject():
    scores, truth = drawn("normal", 1, 5000)
    owner = np.random.default_rng(0).integers(0, 4, 5000)
    counts = counted(scores, truth, owner, subjects=4)
    assert np.array_equal(counts.positives.sum(axis=1), np.bincount(owner[truth], minlength=4))
    assert np.array_equal(counts.negatives.sum(axis=1), np.bincount(owner[~truth], minlength=4))
    assert (np.diff(counts.lower) < 0).all()


def test_a_resample_of_counts_is_that_of_its_pixels():
    """The bootstrap draws whole subjects: their pixels, as often as the subject is drawn, joined and sorted anew."""
    scores, truth = drawn("masked", 2, 40_000)
    owner = np.random.default_rng(0).integers(0, 5, scores.size)
    counts = counted(scores, truth, owner, subjects=5)
    weights = np.array([[1, 1, 1, 1, 1], [0, 2, 2, 0, 1], [5, 0, 0, 0, 0]])
    found = [
        areas(positives, negatives, counts.tied) for positives, negatives, _, _ in pooled(counts, weights, block=2)
    ]
    found = np.concatenate([np.stack(part, axis=1) for part in found])
    for drawn_, row in zip(weights, found, strict=True):
        places = np.concatenate([np.flatnonzero(owner == subject) for subject in np.repeat(np.arange(5), drawn_)])
        expected = roc_auc_score(truth[places], scores[places]), average_precision_score(truth[places], scores[places])
        assert row == pytest.approx(expected, abs=5e-4)


def draws_and_truth(kind, seed, subjects, pixels, prevalence):
    """Areas of draws of a cohort whose subjects differ, from counts and by sorting the joined pixels, (draws, 2)."""
    generator = np.random.default_rng(seed)
    scores, truth = drawn(kind, seed, pixels, prevalence)
    owner = generator.choice(subjects, pixels, p=generator.dirichlet(np.full(subjects, 3.0)))
    truth &= owner != 0  # a draw of healthy subjects alone has no areas
    scores *= np.where(truth, generator.uniform(0.5, 2, subjects).astype(np.float32)[owner], 1)
    counts = counted(scores, truth, owner, subjects)
    weights = generator.multinomial(subjects, np.full(subjects, 1 / subjects), size=4)
    weights[0] = np.arange(subjects) == 0
    parts = (areas(part[0], part[1], counts.tied) for part in pooled(counts, weights, block=3))
    expected = []
    for row in weights:
        places = np.concatenate([np.flatnonzero(owner == subject) for subject in np.repeat(np.arange(subjects), row)])
        expected.append((auroc(scores[places], truth[places]), average_precision(scores[places], truth[places])))
    return np.concatenate([np.stack(part, axis=1) for part in parts]), np.array(expected)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    subjects=st.integers(2, 12),
    pixels=st.integers(50, 20_000),
    prevalence=st.sampled_from([0.005, 0.034, 0.1]),
)
def test_resamples_with_few_abnormal_pixels_are_exact(kind, seed, subjects, pixels, prevalence):
    """With less than a third as many abnormal pixels as bins, each of their scores has a bin of its own."""
    found, expected = draws_and_truth(kind, seed, subjects, pixels, prevalence)
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**31),
    subjects=st.integers(2, 30),
    pixels=st.integers(1_000, 200_000),
    prevalence=st.sampled_from([0.034, 0.2, 0.6]),
)
def test_resamples_of_counts_are_near_those_of_pixels(kind, seed, subjects, pixels, prevalence):
    """A draw mixes a bin less evenly than all subjects do, for which the bins were made."""
    found, expected = draws_and_truth(kind, seed, subjects, pixels, prevalence)
    np.testing.assert_allclose(found, expected, atol=5e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_resamples_of_a_study_are_within_1e_4(kind):
    """A hundred subjects and 20,000 abnormal pixels."""
    found, expected = draws_and_truth(kind, 0, 100, 600_000, 0.034)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_best_dice_is_that_of_all_thresholds():
    scores, truth = drawn("exponential", 3, 4000)
    counts = counted(scores, truth)
    every = [2 * (truth & (scores >= t)).sum() / (truth.sum() + (scores >= t).sum()) for t in np.unique(scores)]
    assert best_dice(counts.positives[0], counts.negatives[0]) == pytest.approx(max(every), abs=1e-6)


SCORES = st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100, width=32))


def by_counts(positives, negatives, coverage, lesions, tied):
    """Both areas, best Dice, rate and overlap from counts of one draw, (bins,) each but the number of lesions."""
    rate = false_positive_rate_at(positives, negatives, tied)
    overlap = per_region_overlap(coverage, np.asarray(lesions), negatives)
    return [float(v) for v in (*areas(positives, negatives, tied), best_dice(positives, negatives), rate, overlap)]


def by_thresholds(scores, lesions):
    """The same from the pixels, of which some are of a lesion and some of none, at all thresholds one by one."""
    truth = lesions > 0
    every = [2 * (truth & (scores >= t)).sum() / (truth.sum() + (scores >= t).sum()) for t in np.unique(scores)]
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    rate, overlap = false[np.argmax(true >= 0.95)], naive_overlap(scores, lesions, 0.3)
    return [roc_auc_score(truth, scores), average_precision_score(truth, scores), max(every), rate, overlap]


SUBJECT = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=20)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(subjects=st.lists(st.tuples(SUBJECT, st.integers(0, 3)), min_size=1, max_size=5), block=st.integers(1, 3))
def test_draws_of_few_pixels_are_every_threshold(subjects, block):
    """Counts of each subject, joined as often as it is drawn; the abnormal pixels of a subject are one lesion."""
    images, drawn_ = [], np.array([often for _, often in subjects])
    for pixels, _ in subjects:
        scores = np.float32([score for score, _ in pixels])
        scores[np.abs(scores) < 6e-42] = 0  # as counts take them
        images.append((scores, np.array([int(abnormal) for _, abnormal in pixels])))
    counts = count(lambda: ((number, *parts) for number, parts in enumerate(images)), len(images))
    joined, lesions, number = [], [], 0
    for subject in np.repeat(np.arange(len(images)), drawn_):
        number += images[subject][1].max()
        joined.append(images[subject][0])
        lesions.append(number * images[subject][1])
    joined, lesions = (np.concatenate(parts) if parts else np.zeros(0) for parts in (joined, lesions))
    if not lesions.any() or lesions.all():
        return
    weights = np.stack([np.ones_like(drawn_), drawn_, drawn_ + 1])
    found = [[part[row] for part in parts] for parts in pooled(counts, weights, block) for row in range(len(parts[0]))]
    assert by_counts(*found[1], counts.tied) == pytest.approx(by_thresholds(joined, lesions), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(pixels=st.lists(st.tuples(SCORES, st.integers(0, 3)), min_size=3, max_size=60))
def test_exact_counts_are_every_threshold(pixels):
    """Areas, best Dice, rate and overlap of counts by abnormal score, against all thresholds one by one."""
    scores, lesions = np.float32([score for score, _ in pixels]), np.array([lesion for _, lesion in pixels])
    lesions = np.unique(lesions, return_inverse=True)[1] if (lesions == 0).any() else lesions  # numbered without gaps
    truth = lesions > 0
    if truth.all() or not truth.any():
        return
    counts = count_exactly(lambda: iter([(0, scores, lesions)]))
    parts = counts.positives[0], counts.negatives[0], counts.coverage[0], counts.lesions[0]
    assert by_counts(*parts, counts.tied) == pytest.approx(by_thresholds(scores, lesions), abs=1e-12)
    assert (np.diff(counts.lower) <= 0).all(), "a gap between neighbouring numbers begins where it ends"


def test_exact_counts_join_images():
    """Lesions of two images are two, though both are numbered from 1."""
    scores, lesions = np.float32([0.9, 0.1, 0.4, 0.2]), np.array([1, 0, 2, 2])
    one = count_exactly(lambda: iter([(0, scores, lesions)]))
    two = count_exactly(lambda: iter([(0, scores, lesions), (1, scores, lesions)]))
    assert (one.lesions, two.lesions) == (2, 4)
    assert np.array_equal(two.positives, 2 * one.positives)
    assert two.coverage.sum() == pytest.approx(4)


@pytest.mark.parametrize("broken", [0, 1])
def test_exact_counts_refuse_nan(broken):
    scores = np.float32([0.5, 0.6, 0.7])
    scores[broken] = np.nan
    with pytest.raises(ValueError, match="Scores hold NaN"):
        count_exactly(lambda: iter([(0, scores, np.array([0, 1, 0]))]))


@settings(max_examples=100, deadline=None)
@given(
    subjects=st.lists(st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=20), min_size=1, max_size=4),
)
def test_best_mean_dice_is_that_of_all_thresholds(subjects):
    parts = [(np.float32([s for s, _ in pixels]), np.array([t for _, t in pixels])) for pixels in subjects]
    best, each = best_mean_dice(parts)
    if not any(truth.any() for _, truth in parts):
        assert np.isnan([best, *each]).all()
        return
    means = [
        np.mean([2 * (t & (s >= x)).sum() / (t.sum() + (s >= x).sum()) for s, t in parts if t.any()])
        for x in np.unique(np.concatenate([s for s, _ in parts]))
    ]
    assert best == pytest.approx(max(means), abs=1e-12)
    assert np.nanmean(each) == pytest.approx(best)
    assert [np.isnan(value) for value in each] == [not truth.any() for _, truth in parts]


def test_dice_in_closed_form():
    assert dice(np.float64(3), np.float64(1), np.float64(4)) == 0.75
    assert dice(np.float64(0), np.float64(5), np.float64(4)) == 0
    assert np.isnan(dice(np.float64(0), np.float64(5), np.float64(0)))


@pytest.mark.parametrize("kind", ["normal", "exponential", "few values"])
def test_false_positives_at_95_true_ones_are_those_of_the_roc_curve(kind):
    scores, truth = drawn(kind, 4)
    counts = counted(scores, truth)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    expected = false[np.argmax(true >= 0.95)]
    found = false_positive_rate_at(counts.positives[0], counts.negatives[0], counts.tied)
    assert found == pytest.approx(expected, abs=1e-3 if kind != "few values" else 1e-9)


def area_up_to(limit, rate, overlap):
    """Area under a curve of points with rising rates, up to a limit, divided by it; a curve may rise upright."""
    last = np.flatnonzero(rate <= limit)[-1]
    x, y = rate[: last + 1], overlap[: last + 1]
    if x[-1] < limit:
        share = (limit - x[-1]) / (rate[last + 1] - x[-1])
        x, y = np.append(x, limit), np.append(y, y[-1] + share * (overlap[last + 1] - y[-1]))
    return np.trapezoid(y, x) / limit


def naive_overlap(scores, lesions, limit):
    """AUPRO, threshold by threshold."""
    points = [(0.0, 0.0)]
    for threshold in np.unique(scores)[::-1]:
        marked = scores >= threshold
        shares = [marked[lesions == number].mean() for number in range(1, lesions.max() + 1)]
        points.append((marked[lesions == 0].mean(), np.mean(shares)))
    return area_up_to(limit, *np.array(points).T)


@pytest.mark.parametrize("seed", range(3))
def test_per_region_overlap_weighs_every_lesion_alike(seed):
    generator = np.random.default_rng(seed)
    lesions = np.zeros(3000, int)
    lesions[100:400], lesions[1000:1010] = 1, 2
    scores = (generator.random(3000) + 0.5 * (lesions == 1) + 0.2 * (lesions == 2)).astype(np.float32)
    counts = counted(scores, lesions > 0, lesions=lesions)
    found = per_region_overlap(counts.coverage, counts.lesions, counts.negatives)
    assert found[0] == pytest.approx(naive_overlap(scores, lesions, 0.3), abs=5e-4)


def test_per_region_overlap_in_closed_form():
    lesions = np.r_[np.zeros(1000, int), np.ones(50, int), np.full(5, 2)]
    perfect = counted(np.float32(lesions > 0), lesions > 0, lesions=lesions)
    assert per_region_overlap(perfect.coverage, perfect.lesions, perfect.negatives) == pytest.approx([1])
    constant = counted(np.zeros(1055, np.float32), lesions > 0, lesions=lesions)
    assert per_region_overlap(constant.coverage, constant.lesions, constant.negatives) == pytest.approx([0.15])


def test_counts_take_no_memory_for_pixels():
    """A hundred images of a million pixels would be 400 MB of scores; what is kept does not depend on their number."""
    import tracemalloc

    generator = np.random.default_rng(0)
    scores = generator.random(100_000, dtype=np.float32)
    lesion = (generator.random(100_000) < 0.03).astype(int)

    def pixels(repeats):
        return lambda: ((0, scores, lesion) for _ in range(repeats))

    peaks = []
    for repeats in (1, 40):
        tracemalloc.start()
        count(pixels(repeats), 1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
