import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from brainuad.lesions import SIZES, count_lesions, froc, label_lesions, levels, sensitivity_at, size_of


def test_lesions_touch_by_corners():
    mask = np.eye(4, dtype=bool)
    assert label_lesions(mask).max() == 1
    mask[1, 1] = False
    assert label_lesions(mask).max() == 2
    assert label_lesions(np.eye(3, dtype=bool)[None] & np.ones((3, 1, 1), bool)).max() == 1, "in three dimensions too"


@pytest.mark.parametrize(
    ("pixels", "dimensions", "spacing", "size"),
    [
        (19, 2, 2.0, "small"),
        (20, 2, 2.0, "medium"),
        (78, 2, 2.0, "medium"),
        (79, 2, 2.0, "large"),
        (524, 3, 1.0, "medium"),
    ],
)
def test_sizes_are_equivalent_diameters(pixels, dimensions, spacing, size):
    """A disc of 10 mm has 78.5 mm², a ball of 10 mm 523.6 mm³."""
    assert size_of(pixels, dimensions, spacing) == size


def image(scores, lesion, subject=0):
    return subject, np.float32(scores), label_lesions(np.asarray(lesion, bool)), np.ones_like(lesion, bool)


def test_a_tenth_of_the_pixels_finds_a_lesion():
    lesion, scores = np.zeros((30, 30), bool), np.zeros((30, 30))
    lesion[:5, :4] = True  # twenty pixels: two must score above
    scores[0, 0] = 0.9
    thresholds = np.array([0.8, 0.4])
    assert count_lesions(iter([image(scores, lesion)]), 1, thresholds, 1.0).found["all"].tolist() == [[0, 0]]
    scores[0, 1] = 0.5
    assert count_lesions(iter([image(scores, lesion)]), 1, thresholds, 1.0).found["all"].tolist() == [[0, 1]]


def test_what_touches_a_lesion_is_no_false_alarm():
    lesion, scores = np.zeros((20, 20), bool), np.zeros((20, 20))
    lesion[2:5, 2:5] = True
    scores[2:8, 2:5] = 1.0  # reaches out of the lesion
    scores[12:14, 12:14] = 1.0
    scores[17, 17] = 1.0
    counts = count_lesions(iter([image(scores, lesion)]), 1, np.array([0.5]), 1.0)
    assert counts.alarms.tolist() == [[2]]
    assert counts.found["all"].tolist() == [[1]]
    assert counts.lesions["small"].tolist() == [1]


def test_pixels_outside_the_region_do_not_count():
    lesion, scores = np.zeros((20, 20), bool), np.ones((20, 20))
    lesion[2:5, 2:5] = True
    region = np.zeros((20, 20), bool)
    region[:8, :8] = True
    counts = count_lesions(iter([(0, scores, label_lesions(lesion), region)]), 1, np.array([0.5]), 1.0)
    assert counts.alarms.tolist() == [[0]], "all that is marked touches the lesion"


def test_sensitivity_in_closed_form():
    found, alarms = np.array([[1.0, 2.0, 4.0]]), np.array([[0.0, 0.5, 3.0]])
    lesions = np.array([4.0])
    assert sensitivity_at(found, lesions, alarms, 1.0) == pytest.approx([0.5])
    assert sensitivity_at(found, lesions, alarms, 4.0) == pytest.approx([1.0])
    assert sensitivity_at(found, lesions, alarms + 5, 1.0) == pytest.approx([0.0])
    assert froc(found, lesions, alarms) == pytest.approx([np.mean([0.25, 0.5, 0.5, 0.5, 1.0])])
    assert np.isnan(froc(found, np.zeros(1), alarms)).all()


def test_levels_lie_just_below_the_scores_that_find_lesions():
    lesion = np.zeros((30, 30), bool)
    lesion[2:4, 2:7] = lesion[20:22, 20:25] = True  # ten pixels each: one finds it
    scores = np.random.default_rng(0).random((30, 30)) * 0.5
    scores[2, 2], scores[20, 20] = 0.9, 0.7
    thresholds = levels(lambda: iter([image(scores, lesion)]))
    assert thresholds.tolist() == [np.nextafter(np.float32(score), np.float32(0)) for score in (0.9, 0.7)]
    counts = count_lesions(iter([image(scores, lesion)]), 1, thresholds, 1.0)
    assert counts.found["all"].tolist() == [[1, 2]]
    assert counts.alarms.tolist() == [[0, 0]]


@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.92, 0.999])
def test_a_map_that_knows_nothing_finds_next_to_nothing(zeros):
    """Most of a clipped map is one score: what marks that marks everything, in one region and no false alarm."""
    generator, images = np.random.default_rng(0), []
    for subject in range(6):
        lesion = np.zeros((60, 60), bool)
        lesion[20:30, 20:30] = True
        scores = generator.random((60, 60)) * (generator.random((60, 60)) >= zeros)
        images.append(image(scores, lesion, subject))
    thresholds = levels(lambda: iter(images))
    found = count_lesions(iter(images), 6, thresholds, 1.0)
    totals = found.found["all"].sum(axis=0), found.lesions["all"].sum(), found.alarms.sum(axis=0) / 6
    assert froc(*totals) < 0.1
    assert sensitivity_at(*totals, 1.0) < 0.1


def test_many_lesions_have_two_hundred_levels():
    lesion = np.zeros((70, 70), bool)
    lesion[1::3, 1::3] = True
    scores = np.random.default_rng(0).random((70, 70)) * 0.01
    scores[lesion] += np.linspace(0.1, 0.9, lesion.sum())
    thresholds = levels(lambda: iter([image(scores, lesion)]))
    assert len(thresholds) == 200
    assert (np.diff(thresholds) < 0).all()


@pytest.mark.parametrize("noise", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("change", [lambda m: m, lambda m: 1 + m / 100, lambda m: 1000 + m, np.exp])
def test_a_perfect_map_finds_every_lesion_whatever_its_scale(noise, change):
    generator = np.random.default_rng(0)
    images = []
    for subject in range(4):
        lesion = np.zeros((40, 40), bool)
        lesion[5:15, 20:30] = True
        scores = np.where(lesion, 1.0, noise * (generator.random((40, 40)) < 0.2))
        images.append((subject, change(scores).astype(np.float32), label_lesions(lesion), np.ones((40, 40), bool)))
    found = count_lesions(iter(images), 4, levels(lambda: iter(images)), 1.0)
    totals = found.found["all"].sum(axis=0), found.lesions["all"].sum(), found.alarms.sum(axis=0) / 4
    assert froc(*totals) == 1


def test_every_lesion_has_one_size():
    counts = [size_of(n, 2, 1.0) for n in range(1, 1000)]
    assert set(counts) == set(SIZES)


def one_threshold_at_a_time(images, subjects):
    """All distinct scores as thresholds, falling, each marking what scores it or more: lesions found, and alarms.

    Left out are those that more than a tenth of the normal pixels reach.
    """
    scores = np.unique(np.concatenate([scores[region] for _, scores, _, region in images]))[::-1]
    rows = []
    for threshold in scores:
        found, alarms, marked_normal, normal = 0, 0, 0, 0
        for _, values, numbered, region in images:
            marked = (values >= threshold) & region
            sizes, hits = (np.bincount(numbered[where], minlength=numbered.max() + 1)[1:] for where in (region, marked))
            found += np.sum(10 * hits >= sizes)
            regions, count = label(marked, np.ones((3, 3)))
            alarms += count - np.unique(regions[marked & (numbered > 0)]).size
            marked_normal += np.sum(marked & (numbered == 0))
            normal += np.sum(region & (numbered == 0))
        if marked_normal <= normal / 10:
            rows.append((found, alarms / subjects))
    found, alarms = np.array(rows, float).reshape(-1, 2).T
    return found, alarms


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31),
    subjects=st.integers(1, 3),
    side=st.integers(6, 30),
    share=st.floats(0.05, 0.7),
    values=st.sampled_from([5, 30, None]),
    gain=st.floats(-0.5, 1.5),
)
@example(seed=0, subjects=3, side=30, share=0.7, values=None, gain=0.5)
def test_few_thresholds_read_the_curve_of_all(seed, subjects, side, share, values, gain):
    """Spots that do not touch, so that fewer marks are never more alarms: what all thresholds give, or little less.

    Up to 200 scores that find a lesion more lose nothing. Of more, what lies between two that are kept may be missed.
    """
    generator, images = np.random.default_rng(seed), []
    for subject in range(subjects):
        lesion, scores, spots = (np.zeros((side, side), kind) for kind in (bool, float, bool))
        spots[::2, ::2] = True
        lesion[spots] = generator.random(spots.sum()) < share
        scores[spots] = 1 + generator.random(spots.sum()) + gain * lesion[spots]
        images.append(image(np.ceil(scores * values) / values if values else scores, lesion, subject))
    found, alarms = one_threshold_at_a_time(images, subjects)
    counts = count_lesions(iter(images), subjects, levels(lambda: iter(images)), 1.0)
    total, few = counts.lesions["all"].sum(), (counts.found["all"].sum(0), counts.alarms.sum(0) / subjects)
    deciding = len(np.unique(np.concatenate([scores[numbered > 0] for _, scores, numbered, _ in images])))
    missed = 0
    if deciding <= 200:
        rises = np.diff(found, prepend=0) > 0
        assert [column.tolist() for column in few] == [column[rises].tolist() for column in (found, alarms)]
    else:
        missed = math.ceil((deciding - 1) / 199) / total
    for allowed in (0.25, 0.5, 1, 2, 4):
        best, kept = (sensitivity_at(*parts, allowed) for parts in ((found, total, alarms), (few[0], total, few[1])))
        assert (total == 0 and np.isnan([best, kept]).all()) or kept <= best <= kept + missed + 1e-12
