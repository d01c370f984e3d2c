import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainuad.sample_set import SampleWriter
from brainuad.thresholds import RATES, read_thresholds, thresholds, thresholds_at


def threshold_at(values, rate):
    """The threshold of one array, read as two images."""
    halves = np.array_split(np.asarray(values, np.float32), 2)
    known, number, reason = thresholds_at(lambda: iter(halves), [rate])
    assert (number, reason) == (len(values), "")
    return known[0]


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=300),
    rate=st.sampled_from([0.01, 0.05, 0.1, 1 / 3, 0.5]),
)
def test_the_threshold_is_the_quantile_of_all_scores(values, rate):
    """One by one: the smallest score that no more than the rate of them lie above."""
    scores = np.float32(values)
    expected = next(x for x in np.unique(scores) if (scores > x).sum() <= rate * scores.size + 1e-9)
    assert threshold_at(values, rate) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_give_no_threshold_and_a_reason(bad):
    known, number, reason = thresholds_at(lambda: iter([np.float32([0, bad, 1])]), RATES)
    assert np.isnan(known).all()
    assert (number, reason) == (3, "the map of a validation subject holds NaN or infinity: score the model again")


@pytest.mark.parametrize("count", [1, 7, 100, 1003])
@pytest.mark.parametrize("rate", RATES)
def test_no_more_than_the_rate_lies_above(count, rate):
    values = np.random.default_rng(count).random(count).astype(np.float32)
    threshold = threshold_at(values, rate)
    assert (values > threshold).mean() <= rate
    lower = values[values < threshold]
    assert lower.size == 0 or (values > lower.max()).mean() > rate, "the smallest such score"


def test_ties_never_exceed_the_rate():
    values = np.repeat([0.0, 0.5, 1.0], [50, 44, 6])
    assert threshold_at(values, 0.05) == 1
    assert threshold_at(values, 0.06) == 0.5
    assert threshold_at(np.zeros(9), 0.05) == 0


@pytest.fixture
def study(tmp_path):
    """A function that writes one scored sample set and reads the thresholds made of it."""

    def written(splits, ill=(), groups=None, scale=None, references=None):
        generator, maps = np.random.default_rng(0), []
        writer = SampleWriter(tmp_path / "samples", len(splits), (8, 9))
        for index, split in enumerate(splits):
            brain, lesion = generator.random((8, 9)) < 0.6, np.zeros((8, 9), bool)
            lesion[0, 0] = index in ill
            row = {"scan": f"sub-{index}", "subject": str(index // 2), "split": split}
            writer.add(generator.random((8, 9)), brain, lesion, {**row, "group": groups[index] if groups else ""})
            maps.append(generator.random((1, 8, 9), dtype=np.float32) * (scale[index] if scale else 1))
        writer.close()
        scored = [index for index, split in enumerate(splits) if split != "train"]
        (tmp_path / "score").mkdir()
        np.save(tmp_path / "score/map.npy", np.stack(maps)[scored])
        table = pd.DataFrame({"sample": scored, "split": [splits[index] for index in scored]})
        table.to_csv(tmp_path / "score/table.tsv", sep="\t", index=False)
        thresholds([tmp_path / "score"], [tmp_path / "samples"], tmp_path / "out/thresholds.tsv", references)
        brains = np.load(tmp_path / "samples/brain.npy")
        return tmp_path / "out/thresholds.tsv", np.stack(maps), brains

    return written


def expected(maps, brain, rows):
    """The thresholds of the pixels of those rows."""
    values = {"frame": [maps[row].ravel() for row in rows], "brain": [maps[row][brain[row]] for row in rows]}
    return {
        (region, rate): (pytest.approx(threshold_at(np.concatenate(parts), rate)), "")
        for region, parts in values.items()
        for rate in RATES
    }


def test_only_validation_subjects_count_and_none_with_a_lesion(study):
    """Images 4 and 5 are of one subject, whose lesion shows in the first of them."""
    path, maps, brain = study(["train", "train", "validation", "validation", "validation", "validation", "test"], [4])
    assert read_thresholds(path) == expected(maps, brain, [2, 3])


def test_patients_and_those_of_no_group_are_not_healthy(study):
    """Patients without a mask score ten times as high; the subject of images 4 and 5 is one in the second of them."""
    groups = ["control", "control", "patient", "patient", "control", "patient", "", ""]
    scale = [10 if group == "patient" else 1 for group in groups]
    path, maps, brain = study(["validation"] * 8, groups=groups, scale=scale, references=["control"])
    assert read_thresholds(path) == expected(maps, brain, [0, 1])
    assert set(pd.read_csv(path, sep="\t")["n"]) == {2 * 72, brain[:2].sum()}


def test_without_a_reference_all_groups_are_healthy(study):
    path, maps, brain = study(["validation"] * 4, groups=["a", "a", "b", "b"], references=[None])
    assert read_thresholds(path) == expected(maps, brain, range(4))


def test_without_validation_subjects_there_is_a_reason(study):
    path, _, _ = study(["train", "test"])
    assert pd.read_csv(path, sep="\t")["reason"].str.contains("no healthy validation subject").all()
    assert all(
        np.isnan(value) and missing.startswith("no threshold: no healthy")
        for value, missing in read_thresholds(path).values()
    )
