import base64
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml

from brainuad import provenance, report_figures, report_groups, report_results, report_scans, report_tables
from brainuad.cohort import mean_number
from brainuad.page import MISSING, Cell, Paragraph, Row, Section, Table, listed, number, render
from brainuad.report import confirmed, costs, duration, report
from brainuad.report_study import PATHS, Study
from brainuad.resampling import draws, interval
from conftest import ROOT
from fabricated import ANOMALOUS, FORMULA, MINUS, MODELS, SCRIPT, TAG, fabricated

ANCHORS = [
    "comparison",
    "published",
    "ranks",
    "responses",
    "curves",
    "training",
    "quality",
    "maps",
    "cases",
    "false-positives",
    "groups",
    "costs",
    "provenance",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    files, settings = fabricated(tmp_path_factory.mktemp("study"))
    return Study(settings, files)


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    """The page of all results, as text."""
    path = tmp_path_factory.mktemp("page") / "results/report.html"
    report(path, study.files, study.settings)
    return path.read_text(encoding="utf-8")


def anchors(text):
    return re.findall(r'<section id="([\w-]+)"', text)


def words(text):
    """What a reader sees of the page, without its pictures."""
    return re.sub(r"<[^>]+>", " ", text.split("<body>")[1])


def test_every_section_is_there_and_listed(page):
    assert anchors(page) == ANCHORS
    assert re.findall(r'<li><a href="#([\w-]+)"', page) == ANCHORS


def test_labels_cannot_become_markup(page):
    for label in (SCRIPT, TAG, "{{ 7 * 7 }}"):
        assert label in page if "{{" in label else label not in page
    assert page.count("<script>") == 1, "the page's own"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert FORMULA.replace("&", "&amp;") in page


def test_the_page_needs_nothing_else(page):
    without_pictures = re.sub(r"data:image/[a-z+]+;base64,[\w+/=]+", "data:", page)
    assert not re.findall(r"https?:|//\w", re.sub(r"^\s*//.*$", "", without_pictures, flags=re.M))
    assert set(re.findall(r'<img src="([^"]{0,14})', page)) <= {"data:image/png", "data:image/svg"}
    for encoded in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page):
        drawing = ElementTree.fromstring(base64.b64decode(encoded))
        assert not [element for element in drawing.iter() if element.tag.endswith("script")]


def test_no_path_of_a_scan_reaches_the_page(study, tmp_path):
    """The sentences of the quality table name files, and files may be named after people."""
    row = {"scan": "sub-1", "status": "excluded", "code": "unreadable", "outlier": ""}
    pd.DataFrame([{**row, "reason": "/data/Jane_Doe/t1.nii.gz cannot be read (it is empty): copy it again."}]).to_csv(
        tmp_path / "oasis.tsv", sep="\t", index=False
    )
    section = repr(report_scans.quality(Study(study.settings, {"quality": [tmp_path / "oasis.tsv"]})))
    assert "'unreadable'" in section
    assert "the file is empty, truncated, wrongly compressed or otherwise damaged" in section
    assert "Jane_Doe" not in section


def test_no_path_of_the_configuration_reaches_the_page(study, tmp_path):
    """Where scans lie is nobody else's business: folders are named after wards, studies and people."""
    manifest = tmp_path / "Jane_Doe/list_of_Jane_Doe.tsv"
    manifest.parent.mkdir()
    manifest.write_text("subject\tt1w\n1\t/data/Jane_Doe/1.nii.gz\n")
    datasets = {
        "oasis": {"manifest": str(manifest), "lesion": None, "split": {"train": 0.5}},
        "beside": {"manifest": "../Jane_Doe/list.tsv"},
        "searched": {"pattern": ["Jane_Doe/{subject}.nii.gz"], "lesion": "~/Jane_Doe/{subject}.nii.gz"},
        "bids": {"bids": {"root": "/data/Jane_Doe", "suffix": "T1w"}, "participants": "Jane_Doe/people.tsv"},
    }
    datasets["oasis"]["groups"] = {
        "reference": "control",
        "false_discoveries": 0.05,
        "regions": "Jane_Doe/atlas.nii",
        "names": "Jane_Doe/n.tsv",
    }
    models = {"rae": {"weights": "Jane_Doe/rae.safetensors", "params": {"upstream": "/data/Jane_Doe/vqvae.pth"}}}
    configuration = {
        "datasets": datasets,
        "models": models,
        "comparison": {"published": "Jane_Doe/numbers.tsv"},
        "preprocessing": {"brain_extraction": {"method": "command", "command": "strip /Jane_Doe/{input} {mask}"}},
    }
    files = {**study.files, "manifests": [str(manifest)]}
    report(tmp_path / "report.html", files, {**study.settings, "configuration": configuration})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Jane_Doe" not in page
    assert str(tmp_path) not in page
    for kept in ("manifest of oasis", "pattern:", "- (not shown)", "lesion: null", "reference: control", "train: 0.5"):
        assert kept in page


def test_every_text_of_the_configuration_is_a_path_or_known_to_be_none():
    """A key that is added has to be thought of: is it a path?"""
    plain = {
        *("study", "suffix", "subject", "group", "age", "sex", "site", "family", "orientation", "from", "people"),
        *("reference", "class", "label", "requires", "floor", "acq", "ce", "rec", "echo", "inv", "part", "space"),
        *("res", "desc"),
    }
    assert texts(yaml.safe_load((ROOT / "config/schema/config.schema.yaml").read_text())) == plain | set(PATHS)


def texts(schema):
    """The keys of a schema whose values are free text."""
    found = set()
    for key, value in schema.get("properties", {}).items():
        kinds = value.get("type", [])
        if "string" in ([kinds] if isinstance(kinds, str) else kinds) and "enum" not in value:
            found.add(key)
        found |= texts(value)
    nested = schema.get("additionalProperties")
    return found | texts(nested) if isinstance(nested, dict) else found


@pytest.mark.parametrize(
    ("section", "names"),
    [
        (report_tables.comparison, ["strict", "table2", "summary"]),
        (report_results.published, ["paper_difference"]),
        (report_results.ranks, ["ranks", "significance"]),
        (report_results.responses, ["responses"]),
        (report_results.curves, ["curves"]),
        (report_scans.quality, ["quality", "montages"]),
        (report_scans.best_and_worst, ["subjects"]),
        (report_scans.best_and_worst, ["score"]),
        (report_scans.false_positives, ["subjects"]),
        (report_groups.groups, ["groups"]),
        (costs, ["costs", "comparison"]),
    ],
)
def test_a_section_without_data_is_empty(study, section, names):
    files = {name: paths for name, paths in study.files.items() if name not in names}
    assert section(Study(study.settings, files)).blocks == []


def test_the_pages_of_quality_control_are_linked(study, tmp_path):
    pages = [tmp_path / "results/quality/ixi.html", tmp_path / "results/quality/hcp.html"]
    report(tmp_path / "report.html", {**study.files, "quality_pages": pages}, study.settings)
    page = (tmp_path / "report.html").read_text()
    assert '<a href="quality/ixi.html">ixi</a>, <a href="quality/hcp.html">hcp</a>.' in page


def test_the_maps_of_scans_are_linked(study, tmp_path):
    tables = []
    for model, files in (("vqvae", ("sub-1.html", "sub-1.png", "sub-2.png")), ("rae", ())):
        table = tmp_path / f"results/maps/ixi/{model}/seed-1/table.tsv"
        (table.parent / "figures").mkdir(parents=True)
        for name in files:
            (table.parent / "figures" / name).touch()
        pd.DataFrame({"scan": ["sub-2", "sub-1"]}).to_csv(table, sep="\t", index=False)
        tables.append(table)
    section = report_scans.images(Study(study.settings, {"maps": tables}))
    assert [block.summary for block in section.blocks[1:]] == [f"ixi by {study.look['vqvae'].label}, seed 1: 2 scans"]
    folder = "maps/ixi/vqvae/seed-1/figures"
    links = [("sub-1", f"{folder}/sub-1.html"), ("sub-2", f"{folder}/sub-2.png")]
    assert section.blocks[1].blocks[0].targets == links
    report(tmp_path / "report.html", {**study.files, "maps": tables}, study.settings)
    assert f'<a href="{folder}/sub-1.html">sub-1</a>' in (tmp_path / "report.html").read_text()


def test_with_no_files_at_all_there_is_a_page(study, tmp_path):
    report(tmp_path / "page.html", {}, {**study.settings, "simulated": False})
    text = (tmp_path / "page.html").read_text()
    assert anchors(text) == ["provenance"]
    assert "simulated" not in words(text)


def test_the_summary_says_scans_models_and_who_clears_the_floor(page):
    summary = words(page.split('<div class="summary">')[1].split("</div>")[0].join(["<body>", ""]))
    assert "12 scans of 2 datasets, 2 of them left out by quality control" in summary
    assert "1 dataset with synthetic anomalies" in summary
    assert "3 trained models (1 seed each) and 2 floors" in summary
    assert (
        "(1 of 1) is above the floor Voxel z-score at finding anomalies (AUPRC, the strict protocol), by the interval "
        "of the difference (paired tests, corrected by Holm, confirm 0 of 1); no other trained model is." in summary
    )
    assert "All scans of this study are simulated" in words(page)


def test_paired_tests_confirm_what_they_find(study, tmp_path):
    """Of the pairs with that floor alone, of the number that is asked, in either order."""
    table = study.table("significance").assign(p_holm=0.5)
    pairs = table[["model_a", "model_b"]].agg(set, axis=1)
    table.loc[pairs.map({"vqvae", "voxel_z"}.__eq__), "p_holm"] = 0.01
    table.to_csv(tmp_path / "significance.tsv", sep="\t", index=False)
    other = Study(study.settings, {**study.files, "significance": [tmp_path / "significance.tsv"]})
    gaps = [column for column in report_tables.columns_of(study, "strict") if column.gap]
    assert confirmed(other, gaps, [["vqvae", "rae"]]).endswith("confirm 1 of 2)")
    turned = table.rename(columns={"model_a": "model_b", "model_b": "model_a"})
    turned.to_csv(tmp_path / "turned.tsv", sep="\t", index=False)
    again = Study(study.settings, {**study.files, "significance": [tmp_path / "turned.tsv"]})
    assert confirmed(again, gaps, [["vqvae", "rae"]]).endswith("confirm 1 of 2)")
    assert confirmed(again, gaps, [[]]) == ""


def test_the_interval_decides_what_is_above_a_floor(study):
    gaps = [column for column in report_tables.columns_of(study, "strict") if column.gap]
    assert [(column.dataset, column.metric, column.floor) for column in gaps] == [
        (ANOMALOUS, "average_precision", "Voxel z-score")
    ]
    assert report_tables.above(study, gaps[0]) == ["vqvae"]
    table = report_tables.numbers(study, gaps)
    assert [row.cells[1].text for row in table.rows[:3]] == ["above", "below", "not told apart"]
    assert [row.cells[1].strong for row in table.rows] == [True, False, False, False, False]
    assert [row.floor for row in table.rows] == [False, False, False, True, True]


def test_a_difference_without_an_interval_says_why(study):
    gap = next(column for column in report_tables.columns_of(study, "strict") if column.gap)
    rows = gap.rows.assign(reason="of no use")
    rows.loc[0, ["low", "high"]] = np.nan
    rows.loc[1, ["value", "low", "high"]] = np.nan
    cells = [row.cells[1] for row in report_tables.numbers(study, [replace(gap, rows=rows)]).rows]
    assert [cell.note for cell in cells[:2]] == ["of no use"] * 2
    assert (cells[0].text, cells[1].text) == ("+0.100", "\N{EN DASH}")
    assert "of no use" not in [cell.note for cell in cells[2:]]


@pytest.mark.parametrize("label", ["Voxel z low", "Blur sd", f"A {MINUS} B", "SSIM"])
def test_no_label_is_taken_for_something_else(study, label):
    """Labels are free text: what a column is does not hang on them."""
    models = {**MODELS, "voxel_z": {"label": label, "floor": True}}
    columns = report_tables.columns_of(Study({**study.settings, "models": models}, study.files), "strict")
    assert [column.gap for column in columns] == [True, False, False, False, False]
    assert columns[0].question == f"Above {label} in AUPRC?"


def test_all_numbers_stand_there_with_their_reasons(study):
    details = report_tables.everything(study)[1]
    assert details.summary == ANOMALOUS
    row = details.blocks[0].rows[0]
    assert [cell.text for cell in row.cells] == ["AUPRC", "brain, pixels", "0.300", "\N{EN DASH}", *["0.300"] * 3]
    assert row.cells[2].note == "0.250 to 0.350"
    assert row.cells[3].note == f"{TAG} is constant"


def test_published_numbers_share_their_notes(study):
    table = pd.concat([study.table("paper_difference")] * 2, ignore_index=True)
    shown, *notes = report_results.difference_table(study, table.assign(note=["a", "", "b", "a"]))
    assert [row.cells[-1].text for row in shown.rows] == ["1", "\N{EN DASH}", "2", "1"]
    assert [note.text for note in notes] == ["Note 1: a.", "Note 2: b."]


def test_false_positives_are_of_subjects_without_a_lesion(study, tmp_path):
    """Healthy controls of a dataset with patients count, its patients do not."""
    path = next(path for model, _, dataset, path in study.jobs("subjects") if (model, dataset) == ("rae", ANOMALOUS))
    table = report_scans.read(path).assign(lesion=[True, False, True, False, True, False])
    mixed = tmp_path / "rae/1" / path.name
    mixed.parent.mkdir(parents=True)
    table.to_csv(mixed, sep="\t", index=False)
    files = {**study.files, "subjects": [mixed]}
    first = report_scans.false_positives(Study(study.settings, files)).blocks[1].blocks[0]
    assert first.columns == ["Model", f"{ANOMALOUS} (n = 3)"]
    expected = table.loc[~table["lesion"], report_scans.FALSE_POSITIVES].mean()
    assert first.rows[0].cells[1].value == pytest.approx(expected)


def test_responses_are_named_by_dataset_and_measure(study):
    titles = [picture.title for picture in report_results.responses(study).blocks]
    assert titles == [f"{ANOMALOUS}: detection", "Of all"]


def test_few_subjects_are_said_to_be_few(study):
    tests = study.table("significance")
    assert "Of 6 subjects no p can be below 0.031" in report_results.test_table(study, tests).caption
    assert report_results.test_table(study, tests.assign(n=60)).caption == ""
    cells = report_results.test_table(study, tests.assign(p=0.0001, p_holm=0.04)).rows[0].cells
    assert [(cell.text, cell.strong) for cell in cells[3:5]] == [("< 0.001", False), ("0.040", True)]


def test_best_and_worst_are_those_of_the_metric(study):
    values = [
        report_scans.read(path).assign(model=model, dataset=dataset)
        for model, _, dataset, path in study.jobs("subjects")
        if model == "vqvae"
    ]
    sets = {path.parent.name: report_scans.SampleSet(path.parent) for path in study.paths("samples")}
    folders = {(path.parents[2].name, path.parent.name): path.parent for path in study.paths("score")}
    lines = report_scans.case_lines(pd.concat(values), sets, folders)
    assert list(lines) == [ANOMALOUS, "healthy scans"]
    best, worst = lines[ANOMALOUS]
    assert (best.scan, best.value, worst.scan, worst.value) == ("sub-4", "AP 0.60", "sub-2", "AP 0.10")
    np.testing.assert_array_equal(best.lesion, sets[ANOMALOUS].lesion[4, 0])
    np.testing.assert_array_equal(worst.map, np.load(folders["vqvae", ANOMALOUS] / "map.npy")[2, 0])
    assert lines["healthy scans"][0].value == "SSIM 0.60"


def test_the_slice_with_most_anomaly_is_shown(make_sample_set, tmp_path):
    samples = report_scans.SampleSet(make_sample_set(splits=("test",) * 5))
    lesion = np.load(samples.folder / "lesion.npy")
    lesion[3, 0, 4:9, 4:9] = lesion[1, 0, 4:6, 4:6] = True
    np.save(samples.folder / "lesion.npy", lesion)
    for name in ("reconstruction", "map"):
        np.save(tmp_path / f"{name}.npy", np.arange(5.0)[:, None, None, None] * np.ones((1, 1, 32, 32)))
    table = pd.DataFrame({"sample": range(5), "scan": "sub-1", "subject": "1", "split": "test"})
    table.to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    assert report_scans.case("1", "", samples, tmp_path).map[0, 0] == 3
    np.save(samples.folder / "lesion.npy", np.zeros_like(lesion))
    healthy = report_scans.SampleSet(samples.folder)
    assert report_scans.case("1", "", healthy, tmp_path).map[0, 0] == 2, "the middle one"


def test_false_positives_are_grouped_where_groups_are_known(study):
    parts = [report_scans.read(path).assign(model=m, dataset=d) for m, _, d, path in study.jobs("subjects")]
    rows = pd.DataFrame(report_scans.group_rows(pd.concat(parts), {}))
    groups = rows.groupby("grouping", sort=False)["group"].unique().map(list).to_dict()
    assert groups["dataset"] == ["oasis", "ixi", ANOMALOUS]
    assert groups["age"] == ["20\N{EN DASH}39", "40\N{EN DASH}59", "60\N{EN DASH}79"]
    assert groups["sex"] == ["F", "M"]
    assert groups["site"] == [SCRIPT, "north"]
    assert "group" not in groups, "nothing is said about groups"
    own = rows[(rows["grouping"] == "sex") & (rows["group"] == "F") & (rows["model"] == "rae")].iloc[0]
    expected = pd.concat(p for p in parts if p["model"].iloc[0] == "rae")
    expected = expected.loc[expected["sex"] == "F", report_scans.FALSE_POSITIVES]
    assert own["value"] == pytest.approx(expected.mean())
    assert own["low"] < own["value"] < own["high"]
    assert own["n"] == len(expected)


def test_by_dataset_the_interval_is_that_of_the_tables():
    """One number has one interval: the same draws of the same subjects, whatever their names sort to."""
    values = np.random.default_rng(1).random(12)
    table = pd.DataFrame({"subject": [f"s{number}" for number in range(12)], report_scans.FALSE_POSITIVES: values})
    table = table.assign(model="rae", dataset="ixi", lesion=False, group="")
    row = report_scans.group_rows(table, {}, 400)[0]
    number = mean_number(values, np.arange(12), draws("ixi", 12, 400), metric="m", region="r", pooling="p", map="map")
    assert (row["low"], row["high"]) == pytest.approx(interval(number.value, number.replicates, number.deciding))


def rates(groups, lesion=False):
    """Tables of two seeds of two models on one dataset, a subject for each group."""
    rows = [
        {"model": model, "dataset": "clinic", "subject": str(index), "group": group, "sex": "FM"[index % 2]}
        | {"seed": seed, "lesion": lesion, report_scans.FALSE_POSITIVES: 0.01 * (index + 1) + 0.001 * seed}
        for model in ("rae", "vqvae")
        for seed in (1, 2)
        for index, group in enumerate(groups)
    ]
    return pd.DataFrame(rows)


def test_patients_known_by_their_group_alone_are_not_healthy():
    """They have no mask; in the panel by group they stand beside the others."""
    table = rates(["control", "control", "patient", ""])
    rows = pd.DataFrame(report_scans.group_rows(table, {"clinic": "control"})).query("model == 'rae'")
    assert rows.set_index(["grouping", "group"])["n"].to_dict() == {
        ("dataset", "clinic"): 2,
        ("group", "control"): 2,
        ("group", "patient"): 1,
        ("sex", "F"): 1,
        ("sex", "M"): 1,
    }
    everybody = pd.DataFrame(report_scans.group_rows(table, {})).query("model == 'rae'")
    assert everybody.set_index("grouping").loc["dataset", "n"] == 4, "nobody said who is healthy"


def test_references_are_those_of_the_configuration(study):
    assert report_scans.references(study) == {"oasis": TAG}


def test_a_model_of_which_a_seed_has_no_rate_is_left_out():
    """The other seed's is not its mean; a subject of whom nobody has one leaves nobody out."""
    table = rates(["", "", ""])
    broken = table[report_scans.FALSE_POSITIVES].mask((table["model"] == "rae") & (table["seed"] == 2))
    rows = pd.DataFrame(report_scans.group_rows(table.assign(**{report_scans.FALSE_POSITIVES: broken}), {}))
    assert set(rows["model"]) == {"vqvae"}
    unknown = table[report_scans.FALSE_POSITIVES].mask(table["subject"] == "1")
    rows = pd.DataFrame(report_scans.group_rows(table.assign(**{report_scans.FALSE_POSITIVES: unknown}), {}))
    assert rows[rows["grouping"] == "dataset"].set_index("model")["n"].to_dict() == {"rae": 2, "vqvae": 2}


def test_groups_are_compared_and_what_to_mind_comes_first(study):
    section = report_groups.groups(study)
    kinds = [block.kind for block in section.blocks]
    assert kinds == ["heading", "paragraph", "paragraph", "table", "details", "details", "details"]
    assert section.blocks[2].text == f"Mind: {SCRIPT} and {TAG} share no site.", "once, though two models say it"
    rows = [[cell.text for cell in row.cells] for row in section.blocks[3].rows]
    assert [row[1] for row in rows] == [SCRIPT, "mild"] * 2
    assert rows[0][2] == "11 / 12"
    assert rows[0][-3:] == ["40", "0", "1.250"]
    notes = [row.cells[-1].note for row in section.blocks[3].rows[:2]]
    assert notes == [f"at 24, {MINUS}20, 8 mm", ""]
    assert [row.floor for row in section.blocks[3].rows] == [False, False, True, True]
    regions = section.blocks[-1].blocks[1].rows
    assert [row.cells[1].text for row in regions] == [TAG, "left", "right"]
    assert regions[0].cells[6].note == "0.200 to 1.400"
    assert regions[2].cells[-1].text == "no voxel on the grid of the maps"
    balance = section.blocks[4].blocks[0].rows
    assert [cell.text for cell in balance[1].cells] == [SCRIPT, "age", "0 of 23", "", "", MISSING, MISSING]


def test_sites_that_are_the_datasets_are_not_shown_twice():
    datasets = pd.Series(["a", "a", "b"])
    assert not report_scans.informative(pd.Series(["x", "x", "y"]), datasets)
    assert not report_scans.informative(pd.Series(["x", "x", ""]), datasets)
    assert report_scans.informative(pd.Series(["x", "y", "y"]), datasets)


def test_a_model_has_one_colour_everywhere(study):
    look = study.look
    assert len({entry.colour for entry in look.values()}) == len(MODELS)
    assert look["swin_mae"].label == "swin_mae"
    rows = pd.DataFrame({"model": list(MODELS), "value": 0.5, "low": 0.4, "high": 0.6})
    panel = report_figures.Panel("one", rows, 0.5)
    run = pd.DataFrame({"true_positive_rate": [0, 1], "false_positive_rate": [0, 1], "precision": [1, 0.1]})
    forest = report_figures.forest([panel], look)
    curves = report_figures.curves({"vqvae": [run], "voxel_z": [run]}, look, 0.1)
    assert {line.get_color() for line in forest.axes[0].lines} >= {entry.colour for entry in look.values()}
    lines = {line.get_color(): line.get_linestyle() for line in curves.axes[0].lines}
    assert lines[look["vqvae"].colour] == "-"
    assert lines[look["voxel_z"].colour] != "-"
    assert study.name("voxel_z") == Cell("Voxel z-score \N{DAGGER}", colour=look["voxel_z"].colour)
    more = report_figures.looks({f"m{index}": {"label": None, "floor": index > 14} for index in range(25)})
    assert len(more) == 25, "colours come again where there are more models than colours"


def test_pictures_are_the_same_each_time(study):
    first, second = (report_results.curves(study).blocks[0].source for _ in range(2))
    assert first == second


def test_numbers_sort_and_missing_ones_come_last():
    assert (number(0.5, 0.4, 0.6).text, number(0.5, 0.4, 0.6).note) == ("0.500", "0.400 to 0.600")
    assert number(float("nan")).key == ""
    assert number(-0.25).key == "-0.25"
    assert [duration(seconds).text for seconds in (0.123, 59.4, 80, 7300)] == [
        "0.12 s",
        "59 s",
        "1 min 20 s",
        "2 h 01 min",
    ]
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]


def test_a_page_escapes_all_that_it_is_given():
    table = Table([TAG], [Row([Cell(TAG, note=TAG, colour="red")])], TAG, [(TAG, 1)])
    text = render(TAG, TAG, [TAG], TAG, [Section("a", TAG, [Paragraph(TAG), table]), Section("empty", "Empty")])
    assert TAG not in text
    assert anchors(text) == ["a"]


def test_provenance_names_code_packages_configuration_and_inputs(page, study):
    text = words(page)
    for name, digest in (("oasis.tsv", study.paths("manifests")[0]), ("table.tsv", study.paths("samples")[0])):
        assert provenance.digest(digest) in text
        assert name in text
    assert provenance.versions()["numpy"] in text
    assert "2.10.0" in text
    assert "epochs: 2" in text
    shown = re.search(r"<pre[^>]*>(.*?)</pre>", page, re.S)[1]
    assert (
        yaml.safe_load(shown.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'").replace("&#34;", '"'))
        == study.settings["configuration"]
    )


def test_the_commit_is_that_of_the_code_or_said_to_be_unknown(tmp_path):
    (tmp_path / "file.py").write_text("")
    assert provenance.commit(tmp_path / "file.py") == "unknown: no git repository is at hand"
    if provenance.git(ROOT, "rev-parse", "HEAD"):
        assert re.match(r"[0-9a-f]{40}", provenance.commit(ROOT / "Snakefile"))
        assert provenance.commit(ROOT / ".venv/nothing.py").startswith("unknown"), "not tracked"


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert provenance.digest(tmp_path / "file").startswith("ba7816bf8f01cfea414140de5dae2223b00361a3")
