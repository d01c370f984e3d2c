import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.stats import rankdata

from brainuad.metrics import COLUMNS
from brainuad.resampling import draws, interval
from brainuad.significance import (
    PAIR_COLUMNS,
    RANK_COLUMNS,
    TESTED,
    compared,
    holm,
    mean_ranks,
    sign_flip,
    significance,
)

NUMBERS = [("average_precision", "brain", "subjects", "map"), ("ssim", "brain", "images", "reconstruction")]
SETTINGS = {
    "models": {name: {"label": None, "floor": name == "floor"} for name in ("good", "better", "floor")},
    "resamples": 300,
    "simulated": True,
}


def mean(values):
    """Over those that are known; NaN without any."""
    return np.nanmean(values) if np.isfinite(values).any() else np.nan


@pytest.fixture
def tested(tmp_path):
    """A function that writes the tables of three models of two seeds and tests them."""

    def judged(shift=0.1, subjects=14, undefined=(), broken=None, anomalous=True):
        generator = np.random.default_rng(0)
        names = [f"s{index}" for index in range(subjects)]
        common = generator.normal(0.5, 0.2, subjects)
        paths = {"metrics": [], "subjects": []}
        for model, gain in (("good", 0.0), ("better", shift), ("floor", -2 * shift)):
            for seed in (1, 2):
                values = common + gain + generator.normal(0, 0.02, subjects)
                values[list(undefined)] = np.nan
                values[:] = np.nan if (model, seed) == broken else values
                rows = [
                    {
                        "dataset": "ixi",
                        "model": model,
                        "seed": seed,
                        "metric": m,
                        "region": r,
                        "pooling": p,
                        "map": map_,
                    }
                    for m, r, p, map_ in NUMBERS[0 if anomalous else 1 :]
                ]
                table = pd.DataFrame(rows).assign(
                    value=-gain, subjects=subjects
                )  # as of unequal sessions: not their mean
                table = table.reindex(columns=list(COLUMNS))
                stem = tmp_path / f"{model}-{seed}"
                table.to_csv(f"{stem}.tsv", sep="\t", index=False)
                own = {f"{m}/{r}/{p}": values for m, r, p, _ in NUMBERS}
                pd.DataFrame({"subject": names, "lesion": anomalous, **own}).to_csv(
                    f"{stem}.subjects.tsv", sep="\t", index=False
                )
                for name, end in (("metrics", "tsv"), ("subjects", "subjects.tsv")):
                    paths[name].append(f"{stem}.{end}")
        out = tmp_path / "out"
        significance(**paths, pairs=out / "p.tsv", ranks=out / "r.tsv", figure=out / "f.png", settings=SETTINGS)
        assert (out / "f.png").stat().st_size > 5000
        return pd.read_csv(out / "p.tsv", sep="\t"), pd.read_csv(out / "r.tsv", sep="\t")

    return judged


def test_a_model_of_which_one_seed_is_broken_is_left_out(tested):
    """What the other seed has is not its mean; and nothing else is tested in its place."""
    pairs, ranks = tested(broken=("better", 2))
    assert set(pairs["metric"]) == {"average_precision"}
    assert set(pairs["model_a"]) | set(pairs["model_b"]) == {"good", "floor"}
    assert set(ranks["model"]) == {"good", "floor"}


def test_all_pairs_of_a_dataset_with_lesions_are_tested_on_what_shows_lesions(tested):
    pairs, ranks = tested()
    assert pairs.columns.tolist() == list(PAIR_COLUMNS)
    assert ranks.columns.tolist() == list(RANK_COLUMNS)
    assert set(pairs["metric"]) == {"average_precision"}, "the SSIM of images with lesions is no merit"
    assert pairs[["model_a", "model_b"]].to_numpy().tolist() == [
        ["good", "better"],
        ["good", "floor"],
        ["better", "floor"],
    ]
    assert pairs["n"].eq(14).all()


def test_a_difference_in_every_subject_is_found(tested):
    pairs, ranks = tested()
    assert pairs["difference"].iloc[0] == pytest.approx(-0.1, abs=0.02)
    assert (pairs["p"] <= 2 / 2**13).all(), "no exchange of any subject comes near"
    assert pairs["p_holm"].to_numpy() == pytest.approx(holm(pairs["p"].to_numpy()))
    assert ranks.set_index("model")["rank"].to_dict() == pytest.approx({"good": 2, "better": 1, "floor": 3}, abs=0.2)
    assert ranks[["low", "high"]].isna().all(axis=None), "the same order in every subject has no spread to show"
    assert ranks["reason"].eq("no interval: the same in all draws of the subjects").all()
    ranks = tested(shift=0.01)[1]
    assert (ranks["low"] < ranks["rank"]).all()
    assert (ranks["rank"] < ranks["high"]).all()


def test_the_difference_is_of_what_is_tested():
    """Value, interval and p are of one mean over the subjects; its draws are those of the table of numbers."""
    generator = np.random.default_rng(3)
    values = pd.DataFrame({name: generator.normal(size=12) for name in ("a", "b", "c")})
    values.loc[2, "c"] = np.nan
    key = ("ixi", "ssim", "brain", "images")
    rows = {(row["model_a"], row["model_b"]): row for row in compared(key, values, 400)}
    weights = draws("ixi", 12, 400)
    for first, second in (("a", "b"), ("a", "c")):
        known = values[first].notna() & values[second].notna()
        each, row = (values[first] - values[second])[known].to_numpy(), rows[first, second]
        assert (row["n"], row["difference"]) == (known.sum(), pytest.approx(each.mean()))
        drawn = weights[:, known] @ each / weights[:, known].sum(axis=1)
        assert (row["low"], row["high"]) == pytest.approx(interval(each.mean(), drawn, known.sum()))
        assert row["p"] == sign_flip(each)
    nothing = compared(key, values.assign(b=np.nan), 50)[0]
    assert np.isnan([nothing[name] for name in ("difference", "low", "high", "p")]).all()
    assert nothing["reason"] == "no subject has a value of both"
    assert all(row["reason"] == "" for row in rows.values())


def test_a_subject_of_many_sessions_counts_once(tested, tmp_path):
    """The mean over images, which the tables of numbers hold, is not what the subjects are tested by."""
    pairs, _ = tested(anomalous=False)
    own = [
        pd.read_csv(tmp_path / f"{model}-{seed}.subjects.tsv", sep="\t")["ssim/brain/images"]
        for model in ("good", "better")
        for seed in (1, 2)
    ]
    expected = np.mean(own[:2], axis=0) - np.mean(own[2:], axis=0)
    assert pairs["metric"].eq("ssim").all()
    assert pairs["difference"].iloc[0] == pytest.approx(expected.mean())
    assert pairs["low"].iloc[0] < expected.mean() < pairs["high"].iloc[0]


def test_only_what_subjects_have_is_tested(tested, capsys):
    """FROC is of all lesions together: that no seed has one by subject says nothing of a seed."""
    assert {number for numbers in TESTED.values() for number in numbers} == {
        ("ssim", "brain", "images"),
        ("average_precision", "brain", "subjects"),
        ("dice_5", "brain", "subjects"),
    }
    tested()
    assert "froc" not in capsys.readouterr().out


def test_no_difference_is_not_found(tested):
    pairs, ranks = tested(shift=0.0)
    assert (pairs["p_holm"] > 0.05).all()
    assert ranks["rank"].between(1.2, 2.8).all()


def test_subjects_without_a_value_are_left_out(tested):
    pairs, ranks = tested(undefined=(0, 3))
    assert pairs["n"].eq(12).all()
    assert ranks["n"].eq(12).all()


def by_every_exchange(differences):
    """The share of all exchanges whose mean is no nearer to zero, one by one."""
    signs = itertools.product((-1, 1), repeat=len(differences))
    means = np.array([np.mean(np.multiply(differences, sign)) for sign in signs])
    return np.mean(np.abs(means) >= abs(np.mean(differences)) - 1e-12)


@pytest.mark.parametrize("subjects", [1, 5, 9])
def test_few_subjects_are_permuted_in_every_way(subjects):
    differences = np.random.default_rng(subjects).normal(0.4, size=subjects)
    assert sign_flip(differences) == pytest.approx(by_every_exchange(differences))


def test_many_subjects_are_permuted_at_random():
    differences = np.random.default_rng(1).normal(0.2, size=60)
    p = sign_flip(differences)
    assert p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02), "values are normal"
    assert p == sign_flip(differences), "seeded"
    assert sign_flip(differences + 5) >= 1 / 10_000, "never 0"


def test_p_values_of_no_difference_are_uniform():
    differences = np.random.default_rng(2).normal(size=(20, 400))
    p = np.array([sign_flip(column, flips=499) for column in differences.T])
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.03)


def test_no_difference_at_all_is_certain():
    assert sign_flip(np.zeros(8)) == pytest.approx(1)
    assert np.isnan(sign_flip(np.zeros(0)))


def test_holm_in_closed_form():
    """Holm (1979): the smallest p times the number of tests, the next times one less, never falling, at most 1."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.5])) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    adjusted = holm(np.array([0.02, np.nan, 0.9]))
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.9])
    assert np.isnan(adjusted[1])


def test_ranks_share_ties_and_follow_the_direction():
    values = np.array([[0.9, 0.5, 0.5], [0.2, 0.8, 0.1]])
    weights = np.array([[2, 0], [0, 2]])
    means, drawn = mean_ranks(values, weights, higher_is_better=True)
    assert means == pytest.approx([1.5, 1.75, 2.75])
    assert drawn[0] == pytest.approx([1, 2.5, 2.5])
    lower, _ = mean_ranks(values, weights, higher_is_better=False)
    assert lower == pytest.approx(rankdata(values, axis=1).mean(axis=0))
