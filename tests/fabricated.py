"""Made-up results of a study, small and with labels that try to break the page they are shown on."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.image import imsave

from brainuad.balance import COLUMNS as BALANCE_COLUMNS
from brainuad.groups import GROUP_COLUMNS, REGION_COLUMNS
from brainuad.sample_set import SampleWriter
from brainuad.tables import COLUMNS

SCRIPT, TAG, FORMULA = "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', r"$\frac{a}$ {{ 7 * 7 }} & Co."
MODELS = {
    "vqvae": {"label": SCRIPT, "floor": False},
    "rae": {"label": FORMULA, "floor": False},
    "swin_mae": {"label": None, "floor": False},
    "voxel_z": {"label": "Voxel z-score", "floor": True},
    "voxel_mean": {"label": TAG, "floor": True},
}
HEALTHY, ANOMALOUS = ("oasis", "ixi"), "oasis_synthetic"
SIZE = (24, 28)
SUBJECTS = 6
MINUS = "\N{MINUS SIGN}"


def fabricated(folder: Path) -> tuple[dict, dict]:
    """Write the results and return the arguments ``files`` and ``settings`` of the report."""
    rng = np.random.default_rng(0)
    results = Path(folder) / "results"
    files = {
        "summary": [write(results / "summary.tsv", summary())],
        "strict": [write(results / "strict.csv", cells(rng, gaps=True))],
        "table2": [write(results / "table2.csv", cells(rng, gaps=False))],
        "ranks": [write(results / "ranks.tsv", ranks(rng))],
        "significance": [write(results / "significance.tsv", significance(rng))],
        "paper_difference": [write(results / "paper_difference.tsv", paper_difference(rng))],
        "comparison": [write(results / "comparison.tsv", comparison())],
        "costs": [write(results / "costs.tsv", costs())],
        "manifests": [write(Path(folder) / "oasis.tsv", pd.DataFrame({"subject": ["1"], "t1w": ["1.nii.gz"]}))],
        "descriptions": [description(results / "train/vqvae/1/model.json")],
    }
    pictures = {
        "qualitative": ["qualitative"],
        "learning_curves": ["learning_curves"],
        "responses": [f"response_detection_{ANOMALOUS}", "response_of_all"],
    }
    for name, stems in pictures.items():
        files[name] = [picture(results / f"figures/{stem}.png", rng) for stem in stems]
    files["intake"] = [write(results / "intake.tsv", intake())]
    for name in HEALTHY:
        files.setdefault("quality", []).append(write(results / f"quality/{name}.tsv", quality()))
        files.setdefault("montages", []).append(picture(results / f"quality/{name}.png", rng))
    for dataset in (*HEALTHY, ANOMALOUS):
        files.setdefault("samples", []).append(sample_set(results / "samples" / dataset, rng, dataset == ANOMALOUS))
        for model in MODELS:
            files.setdefault("score", []).append(scores(results / "score" / model / "1" / dataset, rng))
            part = results / "metrics" / model / "1" / dataset
            files.setdefault("subjects", []).append(write(part.with_suffix(".subjects.tsv"), subjects(rng, dataset)))
            files.setdefault("curves", []).append(write(part.with_suffix(".curves.tsv"), curves(dataset)))
    files["groups"] = [groups(results / f"groups/oasis/{model}/1", rng) for model in ("vqvae", "voxel_z")]
    settings = {
        "study": f"A study of 100 % & more {SCRIPT}",
        "simulated": True,
        "datasets": [*HEALTHY, ANOMALOUS],
        "models": MODELS,
        "seeds": [1],
        "configuration": {
            "study": SCRIPT,
            "seed": 3,
            "datasets": {"oasis": {"groups": {"reference": TAG, "false_discoveries": 0.05}}},
            "models": {name: {"epochs": 2} for name in MODELS},
        },
    }
    return files, settings


def write(path: Path, table: pd.DataFrame) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="," if path.suffix == ".csv" else "\t", index=False)
    return path


def picture(path: Path, rng) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    imsave(path, rng.random((60, 400)))
    return path


def description(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"metadata": {"versions": {"torch": "2.10.0", "brainuad": None}}}))
    return path


def interval(value):
    return {"value": value, "low": value - 0.05, "high": value + 0.05}


def cells(rng, gaps):
    """One value a model is missing; the first model is above the floor, the second below, the third not told apart."""
    numbers = [(name, "ssim", "frame", "images") for name in HEALTHY]
    numbers += [(ANOMALOUS, name, "frame", "pixels") for name in ("auroc", "average_precision")]
    rows = []
    for index, (model, entry) in enumerate(MODELS.items()):
        shared = {"model": model, "label": entry["label"] or model, "floor": entry["floor"]}
        for key in numbers:
            value = round(rng.random(), 3)
            row = {**shared, **dict(zip(("dataset", "metric", "region", "pooling"), key, strict=True))}
            missing = (model, key[0]) == ("rae", "ixi")
            rows.append({**row, **(dict.fromkeys(interval(0), np.nan) if missing else interval(value))})
            rows[-1]["reason"] = f"{TAG} is no image" if missing else ""
        if gaps:
            gap = interval((0.1, -0.1, 0.01, 0.0, -0.2)[index])
            rows.append({**rows[-1], **KEYS, "against": "voxel_z", **gap})
    return pd.DataFrame(rows).assign(sd=np.nan).reindex(columns=list(COLUMNS))


def summary():
    keys = {"dataset": ANOMALOUS, "metric": "average_precision", "region": "brain", "pooling": "pixels", "seeds": 1}
    rows = [{**keys, "model": model, **interval(0.3), "prevalence": 0.05, "reason": ""} for model in MODELS]
    rows[1] |= dict.fromkeys(interval(0), np.nan) | {"reason": f"{TAG} is constant"}
    return pd.DataFrame(rows)


KEYS = {"dataset": ANOMALOUS, "metric": "average_precision", "region": "brain", "pooling": "subjects"}


def ranks(rng):
    rows = [{**KEYS, "model": model, **interval(1 + 4 * rng.random()), "n": SUBJECTS} for model in MODELS]
    return pd.DataFrame(rows).rename(columns={"value": "rank"})


def significance(rng):
    rows = []
    for a, b in itertools.combinations(MODELS, 2):
        bounds = {"difference": rng.normal(), "low": -1.0, "high": 1.0}
        rows.append({**KEYS, "model_a": a, "model_b": b, **bounds, "p": rng.random(), "p_holm": 1.0, "n": SUBJECTS})
    return pd.DataFrame(rows)


def paper_difference(rng):
    row = {"model": "vqvae", "dataset": "oasis", "metric": "ssim", "published": 0.9, "ours": 0.8, "difference": -0.1}
    row["reason"] = ""
    return pd.DataFrame([{**row, "low": 0.7, "high": 0.95, "note": TAG}, {**row, "model": "rae", "note": ""}])


def comparison():
    cost = {"cost/wall_seconds": 4000.0, "cost/peak_memory_mb": 900.0, "cost/device": SCRIPT, "cost/epochs": 2}
    return pd.DataFrame(
        [{"model": model, "seed": 1, "floor": entry["floor"], **cost} for model, entry in MODELS.items()]
    )


def costs():
    """Numbers whose order as text is another."""
    row = {"median_seconds": 3.2, "cpu_hours": 0.5, "gpu_hours": None, "peak_memory_mb": 900}
    amounts = {"preprocess": (9, 1234.5), "train": (100, 80.0), "score": (30, 9.5)}
    return pd.DataFrame([{"rule": rule, "jobs": n, **row, "max_seconds": s} for rule, (n, s) in amounts.items()])


def quality():
    rows = [
        {"scan": f"sub-{index}", "status": "included", "code": "", "reason": "", "outlier": ""}
        for index in range(SUBJECTS)
    ]
    rows[1] |= {"status": "excluded", "code": "excluded", "reason": f"By config/exclusions.tsv: {TAG}."}
    rows[2] |= {"outlier": "correlation -6.3"}
    return pd.DataFrame(rows)


def intake():
    row = {"dataset": "oasis", "subjects": SUBJECTS, "meaning": TAG}
    return pd.DataFrame([{**row, "code": code, "scans": n} for code, n in (("found", 6), ("used", 5), ("excluded", 1))])


def sample_set(folder, rng, anomalous):
    writer = SampleWriter(folder, SUBJECTS, SIZE)
    for index in range(SUBJECTS):
        brain, lesion = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
        brain[3:-3, 3:-3] = True
        lesion[6 : 8 + index, 8:14] = anomalous
        row = {"scan": f"sub-{index}", "subject": str(index), "split": "test", "position": 0}
        writer.add(rng.random(SIZE) * brain, brain, lesion, row)
    writer.close()
    return folder / "table.tsv"


def scores(folder, rng):
    folder.mkdir(parents=True)
    for name in ("reconstruction", "map"):
        np.save(folder / f"{name}.npy", rng.random((SUBJECTS, 1, *SIZE), dtype=np.float32))
    rows = [{"sample": i, "scan": f"sub-{i}", "subject": str(i), "split": "test"} for i in range(SUBJECTS)]
    write(folder / "table.tsv", pd.DataFrame(rows))
    return folder / "map.npy"


def subjects(rng, dataset):
    """Subject 4 is always the best and subject 2 the worst; two sites that cut across the datasets."""
    order = np.array([3, 4, 1, 5, 6, 2]) / 10
    return pd.DataFrame(
        {
            "subject": range(SUBJECTS),
            "group": "",
            "age": [23, 39.5, 40, 61, None, 72],
            "sex": ["F", "M"] * 3,
            "site": [SCRIPT, "north"] * 3,
            "lesion": dataset == ANOMALOUS,
            "ssim/brain/images": order,
            "average_precision/brain/subjects": order if dataset == ANOMALOUS else np.nan,
            "false_positive_rate_5/brain/subjects": rng.random(SUBJECTS) / 10,
        }
    )


def curves(dataset):
    columns = ["region", "threshold", "true_positive_rate", "false_positive_rate", "precision"]
    if dataset != ANOMALOUS:
        return pd.DataFrame(columns=columns)
    x = np.linspace(0, 1, 30)
    rows = [("brain", 1 - value, np.sqrt(value), value, 1 - 0.9 * value) for value in x]
    return pd.DataFrame([*rows, *(("frame", *row[1:]) for row in rows)], columns=columns)


def groups(folder, rng):
    """Patients and one more, against controls; an atlas of three regions, one of which no map covers."""
    rows = [{"group": TAG, "reference": True, "subjects": 12}]
    for name, number in ((SCRIPT, 11), ("mild", 1)):
        ranked = {f"{score}_auroc": rng.random() for score in ("mean_z", "share_above_3")}
        rows.append({"group": name, "reference": False, "subjects": number, **ranked, "voxels": 1234})
    rows[1] |= {"mean_z_low": 0.1, "mean_z_high": 0.9, "higher": 40, "lower": 0, "peak": 1.25}
    rows[1] |= {"peak_x": 24.0, "peak_y": -20.0, "peak_z": 8.0}
    rows[2] |= {"voxels": 0, "higher": 0, "lower": 0, "reason": "one subject alone has no spread"}
    regions = [
        {"group": SCRIPT, "region": index, "name": name, "voxels": 50 - 25 * index, "n": 11, "n_reference": 12}
        for index, name in enumerate((TAG, "left", "right"))
    ]
    for row in regions[:2]:
        row |= {"mean": 0.4, "mean_reference": 0.1, "effect": 0.8, "low": 0.2, "high": 1.4, "p": 0.0123, "q": 0.0246}
    regions[2] |= {"reason": "no voxel on the grid of the maps"}
    balance = [
        {"group": SCRIPT, "variable": "site", "known": 23, "of": 23, "in_group": f"{TAG}: 11", "in_reference": "b: 12"},
        {"group": SCRIPT, "variable": "age", "known": 0, "of": 23},
    ]
    balance[0] |= {"difference": 1.0, "p": 0.0001}
    write(folder / "regions.tsv", pd.DataFrame(regions).reindex(columns=list(REGION_COLUMNS)))
    write(folder / "balance.tsv", pd.DataFrame(balance).reindex(columns=list(BALANCE_COLUMNS)))
    write(folder / "notes.tsv", pd.DataFrame({"note": [f"{SCRIPT} and {TAG} share no site."]}))
    picture(folder / "groups.png", rng)
    return write(folder / "groups.tsv", pd.DataFrame(rows).reindex(columns=list(GROUP_COLUMNS)))
