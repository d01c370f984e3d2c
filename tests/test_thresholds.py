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
    assert (number, reason) == (3, "the map holds NaN or infinity: score the model again")


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

    def written(splits):
        generator, maps = np.random.default_rng(0), []
        writer = SampleWriter(tmp_path / "samples", len(splits), (8, 9))
        for index, split in enumerate(splits):
            brain, lesion = generator.random((8, 9)) < 0.6, np.zeros((8, 9), bool)
            lesion[0, 0] = brain[0, 0] = True
            writer.add(generator.random((8, 9)), brain, lesion, {"scan": f"sub-{index}", "split": split})
            maps.append(generator.random((1, 8, 9), dtype=np.float32))
            maps[-1][0, 0, 0] = 9.0
        writer.close()
        scored = [index for index, split in enumerate(splits) if split != "train"]
        (tmp_path / "score").mkdir()
        np.save(tmp_path / "score/map.npy", np.stack(maps)[scored])
        table = pd.DataFrame({"sample": scored, "split": [splits[index] for index in scored]})
        table.to_csv(tmp_path / "score/table.tsv", sep="\t", index=False)
        thresholds([tmp_path / "score"], [tmp_path / "samples"], tmp_path / "out/thresholds.tsv")
        brains = np.load(tmp_path / "samples/brain.npy")
        return tmp_path / "out/thresholds.tsv", np.stack(maps), brains

    return written


def test_only_healthy_pixels_of_validation_subjects_count(study):
    path, maps, brain = study(["train", "validation", "test", "validation"])
    known = read_thresholds(path)
    pixels = [maps[row][brain[row]] for row in (1, 3)]
    values = np.concatenate([array[array < 9] for array in pixels])
    assert known["brain", 0.05] == pytest.approx(threshold_at(values, 0.05))
    assert known["frame", 0.05] < 9, "lesions are no healthy pixels"
    assert set(known) == {(region, rate) for region in ("frame", "brain") for rate in RATES}


def test_without_validation_subjects_there_is_a_reason(study):
    path, _, _ = study(["train", "test"])
    assert pd.read_csv(path, sep="\t")["reason"].str.contains("no validation subject").all()
    assert all(np.isnan(value) for value in read_thresholds(path).values())
