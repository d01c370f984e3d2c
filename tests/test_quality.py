"""Measures in closed form; what the quality job excludes, flags and draws."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from scipy.ndimage import map_coordinates

from brainuad.exclusions import read_decisions
from brainuad.faults import FAULTS
from brainuad.page import MINUS, MISSING
from brainuad.quality import (
    OWN,
    bias_range,
    correlation,
    draw,
    judge,
    overlap,
    quality,
    read_chunk,
    robust_z,
    volume,
    with_slices,
)
from brainuad.quality_page import IN_DARK, RED_DARK, outlines, quality_page, strips
from brainuad.samples import frame_coordinates

SETTINGS = {"min_correlation": 0.5, "min_overlap": 0.8, "outlier_z": 3.5}


def test_measures_in_closed_form(rng):
    image, mask = rng.normal(size=(6, 6, 6)), rng.random((6, 6, 6)) > 0.4
    assert correlation(image, 3 * image + 2, mask) == pytest.approx(1)
    assert correlation(image, -image, mask) == pytest.approx(-1)
    assert correlation(np.ones_like(image), image, mask) == 0
    other = rng.normal(size=image.shape)
    assert correlation(image, other, mask) == pytest.approx(np.corrcoef(image[mask], other[mask])[0, 1])
    a, b = np.arange(10) < 6, np.arange(10) >= 4
    assert overlap(a, b) == pytest.approx(2 * 2 / 12)
    assert overlap(a & b & ~a, a & ~a) == 1
    assert volume(np.ones((10, 10, 10), bool), (1, 2, 3)) == 6
    field = np.linspace(1, 2, 101)
    assert bias_range(field * 50, np.full(101, 50.0), np.ones(101, bool)) == pytest.approx(1.99 / 1.01)


def test_robust_z():
    assert np.allclose(robust_z(np.array([1.0, 2, 3, 4, 100]))[:2] * 1.4826, [-2, -1])
    assert not robust_z(np.ones(4)).any()
    assert robust_z(np.array([1.0, 1, 1, 1, 2]))[4] == pytest.approx(1 / (1.2533 * 0.2))


@pytest.fixture
def chunks(tmp_path, rng):
    return write_chunks(tmp_path, rng)


def write_chunks(folder, rng):
    """Two chunk tables of six good scans, one low in correlation, one large, one that could not be read."""
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = [-98, -134, -72]
    rows = []
    for i in range(9):
        row = {
            "scan": f"sub-{i:03d}",
            "subject": f"{i:03d}",
            "session": "",
            "status": "included",
            "code": "",
            "reason": "",
        }
        row |= {"overruled": "", "voxels": f"{i:x}"}
        row |= {"correlation": 0.7 + 0.01 * rng.random(), "overlap": 0.95, "bias_range": 1.3 + 0.1 * rng.random()}
        row["brain_volume_ml"] = 1400 + 100 * rng.random()
        row |= {6: {"correlation": 0.31}, 7: {"brain_volume_ml": 2400.0}}.get(i, {})
        if i == 8:
            row |= {
                "status": "excluded",
                "code": "unreadable",
                "voxels": "",
                "reason": "scan.nii.gz cannot be read: copy it again.",
            }
            row |= dict.fromkeys(("correlation", "overlap", "bias_range", "brain_volume_ml"))
        else:
            scan = folder / "preprocess" / row["scan"]
            scan.mkdir(parents=True)
            nibabel.save(nibabel.Nifti1Image(rng.random((50, 59, 48), np.float32), affine), scan / "t1w.nii.gz")
            mask = np.zeros((50, 59, 48), np.uint8)
            mask[8:42, 8:51, 10:40] = 1
            nibabel.save(nibabel.Nifti1Image(mask, affine), scan / "mask.nii.gz")
        rows.append(row)
    paths = [folder / f"preprocess/chunk-{i}.tsv" for i in range(2)]
    for path, part in zip(paths, (rows[:5], rows[5:]), strict=True):
        pd.DataFrame(part).to_csv(path, sep="\t", index=False)
    return paths


def test_job_excludes_flags_and_draws(chunks, tmp_path, capsys):
    table, montage = tmp_path / "quality/site.tsv", tmp_path / "quality/site.png"
    quality(chunks, table, montage, "site", SETTINGS, {})
    result = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False).set_index("subject")
    assert result.index.tolist() == [f"{i:03d}" for i in range(9)]
    assert result["status"].eq("included").tolist() == [True] * 6 + [False, True, False]
    assert "0.31, is below quality.min_correlation (0.5)" in result["reason"]["006"]
    assert result["reason"]["008"] == "scan.nii.gz cannot be read: copy it again."
    assert result["code"].tolist() == [""] * 6 + ["correlation", "", "unreadable"]
    assert result["outlier"]["007"].startswith("brain_volume_ml +")
    assert result["outlier"].ne("").sum() == 1
    assert montage.read_bytes()[:4] == b"\x89PNG"
    assert montage.stat().st_size > 20_000
    assert "7 of 9 scans included, 1 flagged" in capsys.readouterr().out


def test_a_scan_without_brain_at_a_slice_is_left_out(chunks, tmp_path, rng):
    path = chunks[0].parent / "sub-002/mask.nii.gz"
    image = nibabel.load(path)
    mask = np.asarray(image.dataobj).copy()
    mask[..., 33:] = 0
    nibabel.save(nibabel.Nifti1Image(mask, image.affine), path)
    settings = SETTINGS | {"heights": [8, 58, 59, 62.5]}
    result = quality(chunks, tmp_path / "site.tsv", tmp_path / "site.png", "site", settings, {})
    assert result["code"].tolist() == ["", "", "slices", "", "", "", "correlation", "", "unreadable"]
    assert (
        "No brain at z = 58, 59, 62.5 mm" in result["reason"][2]
    )  # 58 is midway: cut from the plane above, as slices are
    frame = {"size": [2, 2], "spacing": 4, "centre": [0, 0, 0]}
    for z in rng.uniform(-40, 90, 200).round(1):
        cut = map_coordinates(mask, frame_coordinates(frame, z, image.affine), order=0)
        left = with_slices(pd.concat([read_chunk(chunk) for chunk in chunks]), [z])["code"].eq("slices")
        assert left.iloc[2] == (not cut.any())


def judged(chunks, decisions, **changes):
    """The scans that a decision about some leaves in, out or doubted; changes are values by column and place."""
    scans = pd.concat([read_chunk(chunk) for chunk in chunks], ignore_index=True)
    for column, values in changes.items():
        for place, value in values.items():
            scans.loc[place, column] = value
    entries = {f"sub-{i:03d}": {"decision": decision, "reason": reason} for i, decision, reason in decisions}
    return judge(scans, SETTINGS, entries)


def test_a_decision_overrides_both_ways(chunks):
    table = judged(chunks, [(0, "exclude", "moved."), (1, "exclude", ""), (6, "include", ""), (8, "include", "")])
    assert table["status"].eq("included").tolist() == [False, False, True, True, True, True, True, True, False]
    assert table["code"].tolist() == ["excluded"] * 2 + [""] * 6 + ["unreadable"]
    assert table["reason"][0] == "By config/exclusions.tsv: moved."
    assert table["reason"][1] == "By config/exclusions.tsv: no reason is given."
    assert table["overruled"].tolist() == [""] * 6 + ["correlation", "", ""]
    assert table["reason"][8].endswith("copy it again. `include` in config/exclusions.tsv cannot help that.")


def test_of_equal_scans_the_first_that_is_in_stays(chunks):
    same = {"voxels": dict.fromkeys((1, 3, 5), "same")}
    table = judged(chunks, [], **same)
    assert table["code"].tolist() == ["", "", "", "duplicate", "", "duplicate", "correlation", "", "unreadable"]
    assert "Its voxels are those of sub-001" in table["reason"][5]
    table = judged(chunks, [(1, "exclude", "")], **same)
    assert table["code"].tolist()[:6] == ["", "excluded", "", "", "", "duplicate"]
    table = judged(chunks, [(5, "include", "")], **same)
    assert table["code"].tolist()[:6] == ["", "", "", "duplicate", "", ""]
    assert table["overruled"][5] == "duplicate"


def test_the_montage_names_no_file(chunks, tmp_path):
    scans = judged(chunks, []).assign(dataset="site")
    texts = " ".join(text.get_text() for text in draw(scans, "site").findobj(Text))
    assert "sub-008: the file is empty, truncated" in texts
    assert "scan.nii.gz" not in texts
    assert "0.31, is below" in " ".join(texts.split())


def test_a_dollar_in_a_reason_or_a_name_is_no_formula(chunks, tmp_path):
    r"""Between dollars stands mathematics, for matplotlib: ``$\foo$`` is none, and no montage was drawn."""
    table = judged(chunks, [(0, "exclude", r"moved $\foo$"), (1, "exclude", "5 $ and $")]).assign(outlier=r"$\bar$")
    draw(table, r"site $\foo$").savefig(tmp_path / "montage.png")
    quality(
        chunks,
        tmp_path / "table.tsv",
        tmp_path / "site.png",
        "site",
        SETTINGS,
        {"sub-000": {"decision": "exclude", "reason": r"$\foo$"}},
    )
    assert (tmp_path / "site.png").stat().st_size > 20_000


def test_many_scans_are_not_all_drawn(chunks, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("brainuad.quality.SHOWN", 3)
    monkeypatch.setattr("brainuad.quality.draw_scan", lambda axis, row: drawn.append(row.subject))
    quality(chunks, tmp_path / "site.tsv", tmp_path / "site.png", "site", SETTINGS, {})
    assert len(drawn) == 4
    assert drawn[0] == "007"
    assert drawn[3] == "006"


def test_a_dataset_without_any_scan_left_is_an_error(chunks, tmp_path):
    with pytest.raises(
        ValueError, match="All 9 scans of dataset site are excluded, the first because: The correlation"
    ):
        quality(chunks, tmp_path / "site.tsv", tmp_path / "site.png", "site", SETTINGS | {"min_correlation": 0.99}, {})


def test_the_job_stays_light():
    code = (
        "import brainuad.quality_page, sys; sys.exit(any(name in sys.modules for name in ('torch', 'ants', 'monai')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1] / "scripts")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.fixture
def page(chunks, tmp_path, monkeypatch):
    """The page of a dataset in which a person decided, which leaves six scans."""
    for module in ("quality", "quality_page"):
        monkeypatch.setattr(f"brainuad.{module}.SMALLEST_COHORT", 6)
    scans = pd.concat([pd.read_csv(chunk, sep="\t", dtype=str, keep_default_na=False) for chunk in chunks])
    for chunk, rows in zip(chunks, (scans[:5], scans[5:]), strict=True):
        overruled = rows["overruled"].mask(rows["subject"] == "003", "sform_qform")
        rows.assign(overruled=overruled).to_csv(chunk, sep="\t", index=False)
    paths = [tmp_path / f"site.{ending}" for ending in ("tsv", "png", "html")]
    decisions = {"sub-001": {"decision": "exclude", "reason": "moved <b>"}}
    judged = quality(chunks, *paths[:2], "site", SETTINGS, decisions)
    quality_page(judged, paths[2], paths[1], "site", SETTINGS)
    return paths[2].read_text()


def test_the_page_shows_who_is_out_who_is_odd_and_by_how_much(page):
    rows = {row[0].split()[0]: row for row in cells(page)}
    assert set(rows) == {f"sub-{i:03d}" for i in range(9)}
    assert rows["sub-006"][0] == "sub-006 left out: correlation"
    assert rows["sub-006"][1].startswith(f"0.31 z {MINUS}")
    assert rows["sub-003"][0] == "sub-003 taken in spite of: sform_qform"
    assert rows["sub-007"][3].startswith("2400 z +")
    assert rows["sub-007"][5].startswith("odd: brain_volume_ml +")
    assert rows["sub-008"][1:5] == [MISSING] * 4
    assert rows["sub-008"][5].startswith(f"{FAULTS['unreadable'].meaning}; no decision helps")
    assert "scan.nii.gz" not in page, "what files are called is nobody's business"
    assert "moved &lt;b&gt;" in page
    assert "6 of 9 scans are used, 3 left out, 1 taken in spite of a doubt." in page
    assert page.count("<figure>") == 3
    assert not re.findall(r"https?:|src=\"(?!data:)", re.sub(r"data:[^\"]+", "data:", page))


def test_each_line_of_the_page_is_one_that_exclusions_take(page, tmp_path):
    lines = dict(re.findall(r"<code>site\t(\w+)\t\t([^<]+)</code>", page))
    assert set(lines) == {"000", "002", "004", "005", "006", "007"}, "there is nothing to decide about the others"
    assert lines["006"] == "include\tlooked at"
    assert lines["007"].startswith("exclude\tbrain_volume_ml +")
    head = re.search("<pre[^>]*>(dataset\t[^<]+)</pre>", page)[1]
    (tmp_path / "exclusions.tsv").write_text("\n".join([head, *re.findall("<code>([^<]+)</code>", page)]) + "\n")
    scans = pd.DataFrame({"subject": list(lines), "session": "", "scan": [f"sub-{label}" for label in lines]})
    decided = read_decisions(tmp_path / "exclusions.tsv", {"site": scans})["site"]
    assert {scan: entry["decision"] for scan, entry in decided.items()} == {
        f"sub-{label}": text.split("\t")[0] for label, text in lines.items()
    }


def test_a_small_cohort_has_a_page_too(chunks, tmp_path):
    judged = quality(chunks[:1], tmp_path / "a.tsv", tmp_path / "a.png", "site", SETTINGS, {})
    quality_page(judged, tmp_path / "a.html", tmp_path / "a.png", "site", SETTINGS | {"simulated": True})
    page = (tmp_path / "a.html").read_text()
    assert "None of those used is odd in a measure; below 7 scans nothing can be called odd." in page
    assert "The scans of this dataset are simulated." in page
    assert "No scan is left out, and none is odd." in page


def test_every_scan_is_outlined_on_the_template(chunks):
    scans = judged(chunks, [])
    figure = outlines(scans[scans["correlation"].notna()])
    assert len(figure.axes[0].collections) == 8
    colours = [collection.get_edgecolor()[0][:3].tolist() for collection in figure.axes[0].collections]
    expected = [to_rgb(colour) for colour in (*[IN_DARK] * 6, OWN, RED_DARK)]
    assert np.allclose(colours, expected), "what stands out is on top"


def test_points_that_stand_out_have_names(chunks):
    figure = strips(judged(chunks, []), SETTINGS)
    named = [[text.get_text() for text in axis.texts] for axis in figure.axes]
    assert named == [["sub-006"], [], ["sub-007"], []]
    assert all(len(axis.collections[0].get_offsets()) == 8 for axis in figure.axes)


def cells(page):
    """Rows of the page's tables about scans, as text."""
    rows = re.findall(r"<tr>(<td.*?)</tr>", page, re.S)
    texts = [
        [" ".join(re.sub("<[^>]+>", " ", cell).split()) for cell in re.findall("<td.*?</td>", row)] for row in rows
    ]
    return [row for row in texts if row[0].startswith("sub-")]
