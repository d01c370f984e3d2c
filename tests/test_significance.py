import numpy as np
import pandas as pd
import pytest

from brainuad.metrics import COLUMNS
from brainuad.resampling import holm
from brainuad.significance import PAIR_COLUMNS, RANK_COLUMNS, significance

NUMBERS = [("average_precision", "brain", "subjects", "map"), ("ssim", "brain", "images", "reconstruction")]
SETTINGS = {
    "models": {name: {"label": None, "floor": name == "floor"} for name in ("good", "better", "floor")},
    "resamples": 300,
    "simulated": True,
}


@pytest.fixture
def tested(tmp_path):
    """A function that writes the tables of three models of two seeds and tests them."""

    def judged(shift=0.1, subjects=14, undefined=()):
        generator = np.random.default_rng(0)
        names = [f"s{index}" for index in range(subjects)]
        common = generator.normal(0.5, 0.2, subjects)
        paths = {"metrics": [], "replicates": [], "subjects": []}
        for model, gain in (("good", 0.0), ("better", shift), ("floor", -2 * shift)):
            for seed in (1, 2):
                values = common + gain + generator.normal(0, 0.02, subjects)
                values[list(undefined)] = np.nan
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
                    for m, r, p, map_ in NUMBERS
                ]
                table = (
                    pd.DataFrame(rows)
                    .assign(value=np.nanmean(values), subjects=subjects)
                    .reindex(columns=list(COLUMNS))
                )
                stem = tmp_path / f"{model}-{seed}"
                table.to_csv(f"{stem}.tsv", sep="\t", index=False)
                draws = np.nanmean(values) + generator.normal(0, 0.01, (2, 300))
                np.savez(f"{stem}.npz", replicates=draws)
                own = {f"{m}/{r}/{p}": values for m, r, p, _ in NUMBERS}
                pd.DataFrame({"subject": names, **own}).to_csv(f"{stem}.subjects.tsv", sep="\t", index=False)
                for name, end in (("metrics", "tsv"), ("replicates", "npz"), ("subjects", "subjects.tsv")):
                    paths[name].append(f"{stem}.{end}")
        out = tmp_path / "out"
        significance(**paths, pairs=out / "p.tsv", ranks=out / "r.tsv", figure=out / "f.png", settings=SETTINGS)
        assert (out / "f.png").stat().st_size > 5000
        return pd.read_csv(out / "p.tsv", sep="\t"), pd.read_csv(out / "r.tsv", sep="\t")

    return judged


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
    assert (ranks["low"] <= ranks["rank"]).all()
    assert (ranks["rank"] <= ranks["high"]).all()


def test_no_difference_is_not_found(tested):
    pairs, ranks = tested(shift=0.0)
    assert (pairs["p_holm"] > 0.05).all()
    assert ranks["rank"].between(1.2, 2.8).all()


def test_subjects_without_a_value_are_left_out(tested):
    pairs, ranks = tested(undefined=(0, 3))
    assert pairs["n"].eq(12).all()
    assert ranks["n"].eq(12).all()
