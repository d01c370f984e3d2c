import numpy as np
import pandas as pd
import pytest

from brainuad.anomalies import region
from brainuad.sample_set import COLUMNS, SampleSet, SampleWriter
from brainuad.synthetic import draw, kinds, spread, synthetic

PAPER = ["rectangle", "ellipse"]
SETTINGS = {"kinds": PAPER, "size": [6, 9], "intensity": [0.0, 1.0], "centre": "brain", "seed": 1, "grid": None}
EARLIER = {
    "kind": ["rectangle", "rectangle", "ellipse", "ellipse"],
    "centre": ["17,5", "17,4", "19,14", "25,24"],
    "axes": ["8,8", "6,6", "9,8", "6,7"],
    "intensity": [0.3929940164089203, 0.5074542760848999, 0.2488449215888977, 0.29618728160858154],
}
GRID = {"size": [4, 9], "intensity": [0.0, 0.3, 1.0], "samples": 3}


@pytest.mark.parametrize("count", [1, 10, 11])
def test_exactly_half_are_rectangles_whatever_the_order(count):
    names = [f"sub-{i}:8.0" for i in range(count)]
    drawn = kinds(names, 1, PAPER)
    assert drawn.count("rectangle") == (count + 1) // 2
    assert drawn.count("ellipse") == count // 2
    assert kinds(names[::-1], 1, PAPER) == drawn[::-1]


def test_kinds_share_the_samples_equally():
    drawn = kinds([f"sub-{i}" for i in range(23)], 1, ["blob", "blur", "texture"])
    assert [drawn.count(kind) for kind in ("blob", "blur", "texture")] == [8, 8, 7]


def test_centres_lie_in_the_brain_or_anywhere(rng):
    brain = np.zeros((40, 40), bool)
    brain[18:22, 18:22] = True

    def centres(kind, centre):
        return [draw(kind, brain, {**SETTINGS, "centre": centre}, rng).centre for _ in range(50)]

    assert all(brain[tuple(centre)] for centre in centres("ellipse", "brain"))
    assert not all(brain[tuple(centre)] for centre in centres("ellipse", "frame"))
    assert all(brain[tuple(centre)] for centre in centres("blur", "frame")), "it changes nothing outside"


def test_axes_and_intensities_cover_their_ranges_uniformly(rng):
    brain = np.ones((40, 40), bool)
    drawn = [draw("rectangle", brain, SETTINGS, rng) for _ in range(2000)]
    axes = np.array([anomaly.axes for anomaly in drawn])
    assert set(axes.ravel()) == {6, 7, 8, 9}
    assert np.bincount(axes.ravel())[6:] / axes.size == pytest.approx(0.25, abs=0.03)
    intensities = np.array([anomaly.intensity for anomaly in drawn])
    assert np.histogram(intensities, 4, (0, 1))[0] / 2000 == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("size", [(32, 32), (24, 20, 16)])
def test_a_synthetic_set_differs_from_its_source_inside_the_mask_only(tmp_path, make_sample_set, size):
    healthy = SampleSet(make_sample_set(size=size))
    synthetic(healthy.folder, tmp_path / "synthetic", SETTINGS)
    made = SampleSet(tmp_path / "synthetic")
    assert len(made) == len(healthy.rows("test")) == 4
    for i, row in made.table.iterrows():
        mask = made.lesion[i, 0]
        assert mask.any()
        assert np.array_equal(made.images[i, 0][~mask], healthy.images[row["source"], 0][~mask])
        assert np.all(made.images[i, 0][mask] == np.float32(row["intensity"]))
        centre = tuple(map(int, row["centre"].split(",")))
        axes = tuple(map(int, row["axes"].split(",")))
        assert np.array_equal(mask, region(row["kind"], size, centre, axes))
    assert sorted(made.table["kind"]) == ["ellipse", "ellipse", "rectangle", "rectangle"]
    assert list(made.table.columns) == list(COLUMNS)


def test_the_papers_anomalies_are_what_they_were(tmp_path, make_sample_set):
    """Centres, axes and intensities that earlier versions drew: studies that are finished stay comparable."""
    synthetic(make_sample_set(), tmp_path / "out", SETTINGS)
    table = SampleSet(tmp_path / "out").table
    drawn = table[["kind", "centre", "axes", "intensity"]].to_dict("list")
    assert drawn == EARLIER


def test_an_anomaly_does_not_depend_on_the_other_samples(tmp_path, make_sample_set):
    long, short = (make_sample_set(f"{n}", splits=("test",) * n) for n in (8, 3))
    for folder in (long, short):
        synthetic(folder, tmp_path / f"{folder.name}_synthetic", SETTINGS)
    first, second = (SampleSet(tmp_path / f"{folder.name}_synthetic").table for folder in (long, short))
    assert list(first["centre"][:3]) == list(second["centre"])
    assert list(first["intensity"][:3]) == list(second["intensity"])


def test_a_source_without_test_samples_is_refused(tmp_path, make_sample_set):
    with pytest.raises(ValueError, match="no healthy test samples"):
        synthetic(make_sample_set(splits=("train",) * 3), tmp_path / "out", SETTINGS)


def make_grid(folder, output, **changes):
    settings = {**SETTINGS, "kinds": ["ellipse", "blob", "texture"], "grid": {**GRID, **changes}}
    synthetic(folder, output, settings)
    return SampleSet(output)


@pytest.mark.parametrize("size", [(32, 32), (24, 20, 16)])
def test_every_cell_of_a_grid_holds_the_same_samples(tmp_path, make_sample_set, size):
    healthy = SampleSet(make_sample_set(size=size))
    made = make_grid(healthy.folder, tmp_path / "grid")
    table = made.table
    cells = table.groupby(["kind", "size", "intensity"])
    assert list(table.columns) == [*COLUMNS, "size"]
    assert len(cells) == 3 * 2 * 3
    assert {tuple(cell["source"]) for _, cell in cells} == {tuple(table["source"][:3])}
    assert table["source"].nunique() == 3
    assert table.groupby("source")["centre"].nunique().eq(1).all(), "at the same place"
    for i, row in table.iterrows():
        assert set(row["axes"].split(",")) == {str(row["size"])}
        before, mask = healthy.images[row["source"], 0], made.lesion[i, 0]
        assert np.array_equal(made.images[i, 0][~mask], before[~mask])
        if row["kind"] == "texture" and row["intensity"] == 0:
            assert np.array_equal(made.images[i, 0], before), "a control"
    one = table[(table["kind"] == "blob") & (table["size"] == 9) & (table["source"] == table["source"][0])]
    masks = made.lesion[one.index]
    assert np.all(masks == masks[0]), "intensities change no mask"


def test_a_grid_takes_what_there_is(tmp_path, make_sample_set):
    assert len(make_grid(make_sample_set(), tmp_path / "grid", samples=20)) == 3 * 2 * 3 * 4


def test_a_sample_in_a_grid_does_not_depend_on_the_others(tmp_path, make_sample_set):
    long, short = (make_grid(make_sample_set(f"{n}", splits=("test",) * n), tmp_path / f"g{n}") for n in (8, 3))
    table = long.table
    rows = table[(table["kind"] == "blob") & (table["size"] == 9) & (table["intensity"] == 0.3)]
    for i, source in rows["source"].items():
        other = short.table
        match = other[(other["kind"] == "blob") & (other["size"] == 9) & (other["intensity"] == 0.3)]
        match = match[match["source"] == source]
        assert all(np.array_equal(long.lesion[i], short.lesion[j]) for j in match.index)


def test_samples_of_a_grid_are_spread_over_the_subjects_and_stay():
    subjects = pd.Series([f"{i // 5}" for i in range(30)])
    names = "sub-" + subjects + ":" + pd.Series(range(30)).astype(str)
    chosen = spread(names, subjects, 8, 1)
    assert subjects[chosen].value_counts().between(1, 2).all()
    assert subjects[chosen].nunique() == 6
    assert spread(names, subjects, 8, 2) != chosen
    assert spread(names[::-1], subjects[::-1], 8, 1) == chosen
    for missing in range(30):
        fewer = [row for row in range(30) if row != missing]
        before = spread(names[fewer], subjects[fewer], 8, 1)
        assert len(set(before) - set(chosen)) <= 1, "a new sample pushes out one at most"
        assert set(chosen) - {missing} <= set(before)


def test_anomalies_are_put_into_the_healthy_alone(tmp_path):
    """Patients by group, by a lesion that is seen, and by one that no sample shows, in any of their scans."""
    writer = SampleWriter(tmp_path / "source", 7, (32, 32))
    image, nothing = np.full((32, 32), 0.5, np.float32), np.zeros((32, 32), bool)
    for subject, group, lesion, known in (
        ("a", "control", False, False),
        ("b", "patient", False, False),
        ("c", "control", True, True),
        ("c", "control", False, False),
        ("d", "control", False, True),
        ("e", "", False, False),
        ("f", "control", False, False),
    ):
        row = {"scan": f"sub-{subject}", "subject": subject, "split": "test", "group": group, "scan_lesion": known}
        writer.add(image, ~nothing, ~nothing if lesion else nothing, {**row, "position": 0.0})
    writer.close()
    for reference, expected in (("control", "af"), (None, "abef")):
        synthetic(tmp_path / "source", tmp_path / f"made{reference}", SETTINGS, reference)
        made = SampleSet(tmp_path / f"made{reference}").table
        assert "".join(made["subject"]) == expected
        assert list(made["source"]) == ["abccdef".index(subject) for subject in expected]
