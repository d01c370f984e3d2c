import json

import pandas as pd
import pytest

from brainuad.costs import COLUMNS, costs

HEADER = "s\th:m:s\tmax_rss\tcpu_time"


@pytest.fixture
def study(tmp_path):
    """Records of two rules, some of another dataset, of a lost chunk and of an older layout; two trainings."""
    times = {"preprocess/a/0001": 60, "preprocess/a/0002": 180}
    times |= dict.fromkeys(["preprocess/a/0003", "preprocess/a/sub-a001", "preprocess/gone/0001"], 999)
    for name, seconds in {**times, "quality/a": 2}.items():
        path = tmp_path / f"results/benchmarks/{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        memory = "-" if name == "quality/a" else 10 * seconds
        path.write_text(f"{HEADER}\n{seconds}\t0:01:00\t{memory}\t{seconds / 2}\n")
    trainings = []
    for seed, meaning in ((1, "allocated on the GPU by torch"), (2, "resident in the process")):
        path = tmp_path / f"cost{seed}.json"
        path.write_text(
            json.dumps({"wall_seconds": 3600.0 * seed, "peak_memory_mb": 512.0, "peak_memory_meaning": meaning})
        )
        trainings.append(path)
    records = {
        "phantom": "results/benchmarks/phantom/{dataset}/{chunk}.tsv",
        "preprocess": "results/benchmarks/preprocess/{dataset}/{chunk}.tsv",
        "quality": "results/benchmarks/quality/{dataset}.tsv",
        "train": "results/benchmarks/train/{model}/{seed}.tsv",
    }
    known = {"dataset": ["a", "b"], "model": ["vqvae"], "seed": ["1", "2"]}
    return trainings, {"records": records, "known": known, "chunks": {"a": 2}, "study": "A <study>"}


def test_a_row_a_rule_of_the_jobs_of_this_study(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainings, settings = study
    table = costs(trainings, [], tmp_path / "costs.tsv", tmp_path / "costs.html", settings).set_index("rule")
    assert list(table.index) == ["preprocess", "quality", "train"]
    assert table.loc["preprocess"].dropna().to_dict() == {
        "jobs": 2,
        "median_seconds": 120,
        "max_seconds": 180,
        "cpu_hours": 120 / 3600,
        "peak_memory_mb": 1800,
    }
    assert pd.isna(table.loc["quality", "peak_memory_mb"])


def test_a_training_costs_what_it_says_itself(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainings, settings = study
    train = (
        costs(trainings, [], tmp_path / "costs.tsv", tmp_path / "costs.html", settings).set_index("rule").loc["train"]
    )
    assert (train["jobs"], train["max_seconds"], train["gpu_hours"]) == (2, 7200, 1)
    assert pd.isna(train["cpu_hours"])


def test_a_score_says_whether_it_took_a_gpu(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainings, settings = study
    record = tmp_path / "results/benchmarks/score/vqvae/1/a.tsv"
    record.parent.mkdir(parents=True)
    record.write_text(f"{HEADER}\n60\t0:01:00\t100\t55\n")
    settings["records"] |= {"score": "results/benchmarks/score/{model}/{seed}/{dataset}.tsv"}
    scores = [tmp_path / "gpu.json", tmp_path / "cpu.json"]
    for path, gpus in zip(scores, (1, 0), strict=True):
        path.write_text(json.dumps({"wall_seconds": 1800.0, "gpus": gpus, "device": "cuda" if gpus else "cpu"}))
    for given, hours in ((scores, 0.5), (scores[1:], None)):
        row = costs(trainings, given, tmp_path / "costs.tsv", tmp_path / "costs.html", settings).set_index("rule")
        found = row.loc["score", "gpu_hours"]
        assert pd.isna(found) if hours is None else found == hours


def test_the_page_needs_nothing_else_and_shows_what_is_not_known(study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainings, settings = study
    costs(trainings, [], tmp_path / "costs.tsv", tmp_path / "costs.html", settings)
    page = (tmp_path / "costs.html").read_text()
    assert "A &lt;study&gt;" in page
    assert "http" not in page
    assert "<td>\N{EN DASH}</td>" in page
    assert all(title in page for title in COLUMNS.values())
    assert list(pd.read_csv(tmp_path / "costs.tsv", sep="\t")) == list(COLUMNS)
