import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from brainuad.comparison import comparison
from brainuad.metrics import COLUMNS
from brainuad.resampling import interval
from brainuad.tables import COLUMNS as CELLS

MODELS = {
    "vqvae": {"label": "VQ-VAE", "floor": False},
    "rae": {"label": None, "floor": False},
    "voxel_mean": {"label": "Voxel mean", "floor": True},
}
DASH = "\N{EN DASH}"
SETTINGS = {
    "study": "A study of 100% & more",
    "simulated": True,
    "datasets": ["oasis", "hcp_synthetic", "ixi"],
    "models": MODELS,
    "floor": None,
}
SUBJECTS = 12
MINUS = "\N{MINUS SIGN}"


def rows_of(model, seed, ssim, auroc=None, precision=None):
    """Long-format rows of one model and seed: two healthy datasets and one with anomalies."""
    rows = []
    for dataset, shift in (("oasis", 0.0), ("ixi", 0.01), ("hcp_synthetic", 0.02)):
        for region, factor in (("frame", 1.0), ("brain", 0.5)):
            keys = {"model": model, "seed": seed, "dataset": dataset, "region": region, "map": "reconstruction"}
            rows.append({**keys, "metric": "ssim", "pooling": "images", "value": (ssim + shift) * factor, "n": 12})
            if dataset == "hcp_synthetic" and auroc is not None:
                keys["prevalence"] = 0.034 / factor
                for pooling, share in (("pixels", 1.0), ("subjects", 0.9)):
                    for map_, loss in (("map", 0), ("residual", 0.1)):
                        keys = {**keys, "map": map_, "pooling": pooling, "n": 9999 if pooling == "pixels" else 12}
                        rows.append({**keys, "metric": "auroc", "value": (auroc * factor - loss) * share})
                        rows.append(
                            {**keys, "metric": "average_precision", "value": (precision * factor - loss) * share}
                        )
    keys = {"model": model, "seed": seed, "dataset": "hcp_synthetic", "region": "frame", "pooling": "pixels"}
    rows.append({**keys, "metric": "lesion_outside_brain", "value": 0.1})
    return pd.DataFrame(rows).assign(subjects=SUBJECTS).reindex(columns=list(COLUMNS))


def draws_of(table, spread=0.01):
    """Draws about each value, nearly the same ones for every model."""
    noise, own = (np.random.default_rng(seed).normal(size=200) for seed in (0, len(table["model"][0])))
    return table["value"].to_numpy()[:, None] + spread * noise + 0.0001 * own


@pytest.fixture
def compare(tmp_path):
    """A function that writes metrics and costs and reads what comparison makes of them."""

    def compared(tables, settings=SETTINGS, costs=(("vqvae", 1), ("vqvae", 2), ("voxel_mean", 1))):
        metric_files, draw_files, cost_files = [], [], []
        for index, table in enumerate(tables):
            metric_files.append(tmp_path / f"{index}.tsv")
            draw_files.append(tmp_path / f"{index}.npz")
            table.to_csv(metric_files[-1], sep="\t", index=False)
            np.savez(draw_files[-1], replicates=draws_of(table))
        for model, seed in costs:
            cost_files.append(tmp_path / "train" / model / str(seed) / "cost.json")
            cost_files[-1].parent.mkdir(parents=True, exist_ok=True)
            cost_files[-1].write_text(json.dumps({"wall_seconds": 60.5, "device": "V100", "parameters": 7}))
        out = tmp_path / "out"
        tables = [[out / f"{name}.{end}" for end in ("md", "tex", "csv")] for name in ("table2", "strict")]
        pages = [out / "table2.html", out / "strict.html"]
        views = [out / f"{name}.tsv" for name in ("wide", "long", "summary")]
        comparison(metric_files, draw_files, cost_files, *views, *tables, pages, settings)
        return SimpleNamespace(
            wide=pd.read_csv(out / "wide.tsv", sep="\t"),
            long=pd.read_csv(out / "long.tsv", sep="\t"),
            summary=pd.read_csv(out / "summary.tsv", sep="\t"),
            markdown=tables[0][0].read_text(),
            latex=tables[0][1].read_text(),
            csv=pd.read_csv(tables[0][2]),
            html=pages[0].read_text(),
            strict=tables[1][0].read_text(),
        )

    return compared


TABLES = [
    rows_of("vqvae", 1, 0.9, 0.8, 0.3),
    rows_of("vqvae", 2, 0.92, 0.9, 0.5),
    rows_of("rae", 1, 0.5, 0.95, 0.7),
    rows_of("voxel_mean", 1, 0.4, 0.97, 0.72),
]


def cells(markdown):
    """The rows of a Markdown table by the first cell."""
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith("|")]
    return {line[0].strip(): [cell.strip() for cell in line[1:]] for line in lines}


def test_wide_table_has_a_row_per_model_and_seed(compare):
    wide = compare(TABLES).wide
    assert wide[["model", "seed"]].to_numpy().tolist() == [
        ["vqvae", 1],
        ["vqvae", 2],
        ["rae", 1],
        ["voxel_mean", 1],
    ]
    assert wide["floor"].tolist() == [False, False, False, True]
    first = wide.iloc[0]
    assert first["oasis/ssim/frame/images"] == 0.9
    assert first["ixi/ssim/brain/images"] == pytest.approx(0.455)
    assert first["hcp_synthetic/auroc/frame/pixels"] == 0.8, "of the model's map, not of the residual"
    assert first["hcp_synthetic/average_precision/brain/pixels"] == 0.15
    assert first["hcp_synthetic/prevalence/frame/pixels"] == 0.034
    assert first["hcp_synthetic/lesion_outside_brain/frame/pixels"] == 0.1
    assert first["hcp_synthetic/ssim/frame/images"] == pytest.approx(0.92), "kept here, though it is no healthy SSIM"


def test_costs_stand_beside_the_results(compare):
    wide = compare(TABLES).wide
    assert wide.columns[-3:].tolist() == ["cost/wall_seconds", "cost/device", "cost/parameters"]
    assert wide["cost/wall_seconds"].tolist()[:2] == [60.5, 60.5]
    assert np.isnan(wide["cost/parameters"][2]), "no cost is known of rae"
    assert "cost/device" not in compare(TABLES, costs=()).wide


def test_protocols_show_their_own_columns(compare):
    result = compare(TABLES)
    healthy = ["oasis SSIM (frame, images) ↑", "ixi SSIM (frame, images) ↑"]
    pooled = [f"hcp_synthetic {name} (frame, pixels) ↑" for name in ("AUROC", "AUPRC", "Best Dice")]
    gap = f"hcp_synthetic AUPRC (frame, pixels) {MINUS} Voxel mean"
    assert cells(result.markdown)["Model"] == [*healthy, *pooled, gap]
    strict = cells(result.strict)["Model"]
    assert strict[:2] == ["oasis SSIM (brain, images) ↑", "oasis False positives at 5 % (brain, subjects) ↓"]
    found = [f"hcp_synthetic {name} (brain, subjects) ↑" for name in ("AUPRC", "Dice at 5 % FPR")]
    gap = f"hcp_synthetic AUPRC (brain, subjects) {MINUS} Voxel mean"
    assert strict[-4:] == [*found, "hcp_synthetic FROC (brain, lesions) ↑", gap]
    assert cells(result.strict)["rae"][0].startswith("0.250"), "in the brain"
    assert cells(result.strict)["rae"][4].startswith("**0.315**"), "in the brain, subject by subject"


def test_few_false_positives_are_no_merit(compare):
    """They are never bold: a map that is the same everywhere has none."""
    keys = {"dataset": "oasis", "metric": "false_positive_rate_5", "region": "brain", "pooling": "subjects", "seed": 1}
    keys |= {"map": "map", "n": 12, "subjects": SUBJECTS}
    more = [
        pd.DataFrame([{**keys, "model": model, "value": value}]) for model, value in (("vqvae", 0.01), ("rae", 0.2))
    ]
    strict = compare([*TABLES, *more]).strict
    assert [cells(strict)[name][1].split(" ")[0] for name in ("VQ-VAE", "rae")] == ["0.010", "0.200"]
    assert "Bold: best trained model of a column; false positives are no merit." in strict


def test_empty_cells_say_why(compare):
    undefined = rows_of("rae", 1, 0.5, np.nan, np.nan)
    undefined["reason"] = np.where(undefined["value"].isna(), "the map is constant", "")
    result = compare([*TABLES[:2], undefined, TABLES[3]])
    sentence = "Empty, since the map is constant: rae in hcp_synthetic AUROC, rae in hcp_synthetic AUPRC."
    assert sentence in result.markdown
    assert sentence.replace("_", r"\_") in result.latex
    assert "Empty" not in compare(TABLES).markdown
    csv = result.csv
    assert set(csv.loc[csv["reason"].notna(), "metric"]) == {"auroc", "average_precision"}


def test_intervals_of_few_subjects_are_said_to_be_narrow(compare):
    assert "Of few subjects, here 12 at the least" in compare(TABLES).markdown
    assert "few subjects" not in compare([table.assign(subjects=30) for table in TABLES]).markdown


def test_what_is_undefined_of_one_model_falsifies_no_caption(compare):
    """Its rows have no subjects, no images and no prevalence; those of the others have."""
    nothing = {"value": np.nan, "subjects": 0, "n": 0, "prevalence": np.nan, "reason": "the map is constant"}
    caption = compare([*TABLES[:-1], TABLES[-1].assign(**nothing)]).markdown.splitlines()[0]
    assert "Of few subjects, here 12 at the least" in caption
    assert "Test images: oasis 12, ixi 12." in caption
    assert "has the prevalence as its AUPRC: hcp_synthetic 0.034." in caption
    everything = compare([table.assign(**nothing) for table in TABLES]).markdown.splitlines()[0]
    assert "few subjects" not in everything
    assert "nan" not in everything


def test_the_caption_says_which_intervals_are_of_the_bootstrap(compare):
    result = compare(TABLES)
    assert "over the test subjects (bootstrap). Of few subjects, here 12 at the least, intervals" in result.markdown
    assert "(bootstrap; of FROC Wilson's, from the same draws)." in result.strict
    assert "12 at the least, those of the bootstrap hold less often than they claim." in result.strict


def test_the_summary_has_each_number_once_with_its_mean_over_the_seeds(compare):
    summary = compare(TABLES).summary
    keys = ["model", "dataset", "metric", "region", "pooling"]
    assert not summary.duplicated(keys).any()
    row = summary.set_index(keys).loc[("vqvae", "hcp_synthetic", "auroc", "frame", "pixels")]
    assert (row["value"], row["seeds"], row["subjects"]) == (pytest.approx(0.85), 2, SUBJECTS)
    assert row["low"] < row["value"] < row["high"]


def test_seeds_are_mean_and_sd_and_subjects_an_interval(compare):
    table = cells(compare(TABLES).markdown)
    sd = np.std([0.9, 0.92], ddof=1)
    low, high = interval(0.0, 0.01 * np.random.default_rng(0).normal(size=200), SUBJECTS)
    assert table["VQ-VAE"][0] == f"**0.910** ± {sd:.3f} [{0.91 + low:.3f}, {0.91 + high:.3f}]"
    assert table["VQ-VAE"][2].startswith(f"0.850 ± {np.std([0.8, 0.9], ddof=1):.3f} [")
    assert [cell.split(" ")[0] for cell in table["rae"][:4]] == ["0.500", "0.510", "**0.950**", "**0.700**"]
    assert "±" not in "".join(table["rae"]), "one seed has no spread"
    assert "Mean ± standard deviation of up to 2 seeds" in compare(TABLES).markdown
    assert "standard deviation" not in compare([rows_of("vqvae", 1, 0.9)]).markdown


def test_the_last_column_says_who_is_above_the_floor(compare):
    result = compare(TABLES)
    table = cells(result.markdown)
    assert table["VQ-VAE"][-1].startswith(f"{MINUS}0.320 [{MINUS}0.32"), "draws in common cancel"
    assert table["VQ-VAE"][-1].endswith("] below")
    assert table["rae"][-1].endswith("below")
    assert table["Voxel mean †"][-1] == DASH
    assert "Above the floor Voxel mean in AUPRC of hcp_synthetic: no learned model." in result.markdown
    better = compare([*TABLES[:2], rows_of("rae", 1, 0.5, 0.95, 0.8), TABLES[3]])
    assert re.fullmatch(r"\+0\.080 \[\+0\.0\d\d, \+0\.08\d\] above", cells(better.markdown)["rae"][-1])
    assert "AUPRC of hcp_synthetic: rae." in better.markdown
    gaps = better.csv[better.csv["against"] == "voxel_mean"].set_index(["model", "metric"])["value"]
    assert gaps["rae", "average_precision"] == pytest.approx(0.08)


def test_the_floor_is_the_strongest_or_the_one_that_is_named(compare):
    models = {**MODELS, "intensity": {"label": "Intensity", "floor": True}}
    tables = [*TABLES, rows_of("intensity", 1, 0.1, 0.6, 0.05)]
    settings = {**SETTINGS, "models": models}
    assert f"AUPRC (frame, pixels) {MINUS} Voxel mean" in compare(tables, settings).markdown
    named = compare(tables, {**settings, "floor": "intensity"})
    assert f"AUPRC (frame, pixels) {MINUS} Intensity" in named.markdown
    assert cells(named.markdown)["rae"][-1].endswith("above")


def test_a_model_with_a_number_for_fewer_subjects_is_held_against_no_floor(compare):
    fewer = rows_of("rae", 1, 0.5, 0.95, 0.8)
    fewer.loc[fewer["pooling"] == "subjects", "n"] = 5
    result = compare([*TABLES[:2], fewer, TABLES[3]])
    assert cells(result.strict)["rae"][-1] == DASH
    where = f"rae in hcp_synthetic AUPRC {MINUS} Voxel mean"
    assert f"Empty, since Voxel mean has no value, or one of other subjects: {where}." in result.strict
    assert cells(result.markdown)["rae"][-1].endswith("above"), "pooled pixels are of all"


def test_a_value_without_interval_says_why(compare):
    one = [table.assign(subjects=1) for table in TABLES]
    result = compare(one)
    assert cells(result.markdown)["rae"][2] == "**0.950**"
    said = "No interval, since one subject alone decides it: VQ-VAE in oasis SSIM, rae in oasis SSIM"
    assert said in result.markdown
    gaps = result.csv[result.csv["against"].notna()].set_index("model")["reason"]
    assert gaps["rae"].startswith("no interval: ")
    assert pd.isna(gaps["voxel_mean"]), "a floor is held against none"
    assert "No interval" not in compare(TABLES).markdown


def test_the_long_table_holds_every_row(compare):
    assert len(compare(TABLES).long) == sum(map(len, TABLES))


def test_floors_are_marked_in_a_block_of_their_own(compare):
    result = compare(TABLES)
    names = list(cells(result.markdown))
    assert names[-2:] == ["*Floors*", "Voxel mean †"]
    assert cells(result.markdown)["Voxel mean †"][2].startswith("0.970"), "never bold: no model was trained"
    assert "† Floor:" in result.markdown
    assert r"Voxel mean\textsuperscript{\dag} & 0.400 {[" in result.latex
    assert result.csv.groupby("model")["floor"].first().to_dict() == {
        "vqvae": False,
        "rae": False,
        "voxel_mean": True,
    }
    models = {name: {**entry, "floor": False} for name, entry in MODELS.items()}
    assert "†" not in compare(TABLES, {**SETTINGS, "models": models}).markdown


def test_caption_says_what_is_measured_where(compare):
    result = compare(TABLES)
    caption = result.markdown.splitlines()[0]
    assert caption.startswith("**A study of 100% & more: protocol paper.** All scans are simulated")
    assert "every pixel of the sample: SSIM image by image; AUROC, AUPRC, Best Dice over the pixels of all" in caption
    assert "Test images: oasis 12, ixi 12." in caption
    assert "has the prevalence as its AUPRC: hcp_synthetic 0.034." in caption
    strict = result.strict.splitlines()[0]
    assert "What counts is the pixels of the brain mask" in strict
    assert "hcp_synthetic 0.068" in strict
    assert "simulated" not in compare(TABLES, {**SETTINGS, "simulated": False}).markdown


def test_missing_cells_are_dashes(compare):
    undefined = rows_of("voxel_mean", 1, 0.4, np.nan, np.nan)
    result = compare([rows_of("vqvae", 1, 0.9), undefined], costs=())
    table = cells(result.markdown)
    assert [cell.split(" ")[0] for cell in table["VQ-VAE"]] == ["0.900", "0.910", DASH, DASH, DASH]
    assert table["Voxel mean †"][2:] == [DASH] * 3
    assert table["rae"] == [DASH] * 5
    assert "rae & -- & -- & -- & --" in result.latex
    own = result.csv[result.csv["model"] == "rae"]
    assert len(own) == 5
    assert own[["value", "sd", "low", "high"]].isna().all(axis=None)
    assert result.wide["model"].tolist() == ["vqvae", "voxel_mean"]


def test_datasets_without_results_are_columns_of_dashes(compare):
    settings = {**SETTINGS, "datasets": ["oasis", "ixi", "hcp_synthetic", "kirby"]}
    table = cells(compare(TABLES, settings).markdown)
    assert table["Model"][2] == "kirby SSIM (frame, images) ↑"
    assert table["VQ-VAE"][2] == DASH


def test_results_of_unknown_models_are_refused(compare):
    with pytest.raises(ValueError, match="model 'unet', which is not configured"):
        compare([*TABLES, rows_of("unet", 1, 0.9)])
    with pytest.raises(ValueError, match="dataset 'ixi', which is not configured"):
        compare(TABLES, {**SETTINGS, "datasets": ["oasis", "hcp_synthetic"]})


def test_the_page_holds_the_markdowns_cells_and_needs_nothing_else(compare):
    result = compare(TABLES)
    rows = re.findall(r"<tr>(.*?)</tr>", result.html)
    cells = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in rows]
    lines = [line.strip("| ").split(" | ") for line in result.markdown.splitlines() if line.startswith("| ")]
    expected = [line for line in lines if not line[0].startswith((":", "*Floors*"))]
    assert [[re.sub(r"</?b>", "**", cell) for cell in row] for row in cells] == expected
    assert "A study of 100% &amp; more: protocol paper." in result.html
    assert "http" not in result.html


def test_latex_is_escaped_and_of_one_width(compare):
    latex = compare(TABLES).latex
    assert r"A study of 100\% \& more: protocol paper." in latex
    assert r"hcp\_synthetic" in latex
    assert r"\multicolumn{4}{c}{hcp\_synthetic}" in latex
    assert r"\cmidrule(lr){2-2} \cmidrule(lr){3-3} \cmidrule(lr){4-7}" in latex
    assert r"\textbf{0.910} $\pm$ 0.014 {[0." in latex
    assert DASH not in latex
    assert not re.search(r"[†↑±_](?!\})", latex.replace(r"\_", "")), "signs that LaTeX does not know"
    body = latex[latex.index("Model &") : latex.index(r"\bottomrule")]
    assert {line.count(" & ") for line in body.splitlines() if " & " in line} == {6}
    for command in (r"\toprule", r"\bottomrule"):
        assert latex.count(command) == 1
    assert latex.count(r"\midrule") == 2
    assert latex.count("{") == latex.count("}")


def test_csv_has_a_row_a_cell(compare):
    csv = compare(TABLES).csv
    assert list(csv.columns) == list(CELLS)
    values = csv[csv["against"].isna()].set_index(["model", "dataset", "metric"])
    assert not values.index.duplicated().any()
    row = values.loc[("vqvae", "hcp_synthetic", "average_precision")]
    assert (row["region"], row["pooling"]) == ("frame", "pixels")
    assert row["value"] == pytest.approx(0.4)
    assert row["sd"] == pytest.approx(np.std([0.3, 0.5], ddof=1))
    assert np.isnan(values.loc[("rae", "oasis", "ssim"), "sd"])
    assert set(csv.loc[csv["model"] == "rae", "label"]) == {"rae"}
