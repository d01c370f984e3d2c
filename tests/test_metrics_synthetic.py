"""Numbers that need synthetic anomalies, healthy images or whole lesions, against what their words say."""

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import generate_binary_structure, label
from sklearn.metrics import roc_auc_score

from brainuad.cohort import Cohort
from brainuad.metrics import metrics
from brainuad.sample_set import SampleSet, SampleWriter
from brainuad.synthetic import synthetic
from brainuad.thresholds import thresholds

SIZE, SUBJECTS, SPACING = (40, 36), 5, 2.0
ANOMALIES = {"kinds": ["ellipse"], "size": [5, 12], "intensity": [0.2, 1.0], "centre": "brain", "seed": 1, "grid": None}


def healthy_set(folder, lesions=None, ill=()):
    """Two images of each of five test subjects; ``lesions`` names images and where a lesion lies in them.

    ``ill`` names subjects whose scan holds a lesion, be it in no image.
    """
    generator, writer = np.random.default_rng(0), SampleWriter(folder, 2 * SUBJECTS + 1, SIZE)
    for index in range(2 * SUBJECTS + 1):
        brain = np.zeros(SIZE, bool)
        brain[4:34, 5:31] = True
        lesion = np.zeros(SIZE, bool)
        for where in (lesions or {}).get(index, ()):
            lesion[where] = True
        image = generator.random(SIZE, dtype=np.float32)
        split = "test" if index < 2 * SUBJECTS else "validation"
        row = {"scan": f"sub-{index // 2}", "subject": str(index // 2), "split": split, "position": float(index % 2)}
        row["scan_lesion"] = index // 2 in ill
        writer.add(image * brain, brain, lesion, row)
    writer.close()
    return SampleSet(folder)


def scored(folder, samples, seed, most=4):
    """Scores of a model that finds lesions a little."""
    generator = np.random.default_rng(seed)
    folder.mkdir()
    noise = generator.random(samples.images.shape, dtype=np.float32)
    reconstruction = np.clip(samples.images + 0.3 * noise - 0.15, 0, 1)
    lift = samples.lesion * np.linspace(0.6, 1, len(noise), dtype=np.float32)[:, None, None, None]
    higher = np.repeat(generator.integers(0, most, SUBJECTS + 1), 2)[
        : len(noise)
    ]  # some subjects score more as a whole
    arrays = {
        "map": np.maximum(noise**60, lift - 0.2 * noise) + higher[:, None, None, None] / 24,
        "reconstruction": reconstruction,
        "perceptual": noise,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array.astype(np.float32))
    table = samples.table.assign(sample=range(len(samples.table)))
    table.to_csv(folder / "table.tsv", sep="\t", index=False)
    return {name: np.load(folder / f"{name}.npy") for name in arrays}


def evaluated(folder, score, samples, healthy=()):
    """What ``metrics`` writes, by metric."""
    known = folder / "thresholds.tsv"
    thresholds([score], [samples.folder], known)
    paths = [folder / name for name in ("table.tsv", "subjects.tsv", "curves.tsv", "replicates.npz")]
    settings = {"resamples": 100, "spacing": SPACING}
    kept = {"dataset": "synthetic", "model": "rae", "seed": 1, "settings": settings, "healthy": healthy}
    metrics(score, samples.folder, known, *paths, **kept)
    table = pd.read_csv(paths[0], sep="\t")
    return table[table["region"] == "brain"].drop_duplicates(["metric"], keep="first").set_index("metric")


@pytest.fixture
def study(tmp_path):
    """Healthy images and the same with anomalies, the scores of both, and what is measured."""
    healthy = healthy_set(tmp_path / "healthy")
    synthetic(healthy.folder, tmp_path / "altered", ANOMALIES)
    altered = SampleSet(tmp_path / "altered")
    clean, found = scored(tmp_path / "clean", healthy, 1, most=8), scored(tmp_path / "found", altered, 2)
    table = evaluated(tmp_path, tmp_path / "found", altered, (tmp_path / "clean", healthy.folder))
    return healthy, altered, clean, found, table


def test_restoration_is_measured_against_the_clean_original_inside_the_brain(study):
    healthy, altered, _, found, table = study
    inside, outside, copied = [], [], []
    for row, made, brain, lesion, image in zip(
        altered.table["source"], found["reconstruction"], altered.brain, altered.lesion, altered.images, strict=True
    ):
        clean = healthy.images[row]
        assert (lesion & ~brain).any() or lesion.any()
        inside.append(np.abs(made - clean)[lesion & brain].mean(dtype=float))
        outside.append(np.abs(made - clean)[brain & ~lesion].mean(dtype=float))
        copied.append(np.abs(image - clean)[lesion & brain].mean(dtype=float))
    assert any((lesion & ~brain).any() for lesion, brain in zip(altered.lesion, altered.brain, strict=True))
    for name, values in (
        ("restoration_error_inside", inside),
        ("restoration_error_outside", outside),
        ("copy_error_inside", copied),
    ):
        assert table.loc[name, "value"] == pytest.approx(np.mean(values), abs=1e-6)
        assert table.loc[name, "n"] == 2 * SUBJECTS
        assert table.loc[name, "low"] < table.loc[name, "value"] < table.loc[name, "high"]


def test_images_with_anomalies_are_ranked_against_their_originals(study):
    healthy, altered, clean, found, table = study
    test = healthy.rows("test")
    values = [scores[brain].mean(dtype=float) for scores, brain in zip(found["map"], altered.brain, strict=True)]
    values += [clean["map"][row][healthy.brain[row]].mean(dtype=float) for row in test]
    truth = np.repeat([True, False], 2 * SUBJECTS)
    assert table.loc["image_auroc", "value"] == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    assert table.loc["image_auroc", "n"] == 4 * SUBJECTS
    owner = [*altered.table["subject"], *healthy.table["subject"].iloc[test]]
    means = pd.DataFrame({"owner": owner, "truth": truth, "value": values}).groupby(["owner", "truth"])["value"].mean()
    expected = roc_auc_score(means.index.get_level_values("truth"), means)
    assert table.loc["subject_auroc", "value"] == pytest.approx(expected, abs=1e-12)
    assert table.loc["subject_auroc", "n"] == 2 * SUBJECTS
    assert 0 < expected < 1


def test_patients_are_ranked_against_controls(tmp_path):
    """Without originals: subjects with a lesion in any image against those without."""
    lesions = {0: [np.s_[10:20, 10:20]], 3: [np.s_[8:14, 8:20]], 5: [np.s_[20:30, 10:30]]}
    samples = healthy_set(tmp_path / "samples", lesions)
    found = scored(tmp_path / "score", samples, 3)
    table = evaluated(tmp_path, tmp_path / "score", samples)
    test = samples.rows("test")
    values = np.array([found["map"][row][samples.brain[row]].mean(dtype=float) for row in test])
    truth = np.array([row in lesions for row in test])
    assert table.loc["image_auroc", "value"] == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    by_subject = truth.reshape(-1, 2).any(axis=1), values.reshape(-1, 2).mean(axis=1)
    assert table.loc["subject_auroc", "value"] == pytest.approx(roc_auc_score(*by_subject), abs=1e-12)
    assert table.loc["subject_auroc", "n"] == SUBJECTS


def test_a_subject_whose_lesion_no_image_shows_is_no_control(tmp_path):
    """Subject 1 is neither; subject 0 has a lesion in one of its images, the other of which is healthy."""
    lesions = {0: [np.s_[10:20, 10:20]], 5: [np.s_[20:30, 10:30]]}
    samples = healthy_set(tmp_path / "samples", lesions, ill=(0, 1, 2))
    found = scored(tmp_path / "score", samples, 3)
    table = evaluated(tmp_path, tmp_path / "score", samples)
    test = np.array([row for row in samples.rows("test") if row // 2 != 1])
    values = np.array([found["map"][row][samples.brain[row]].mean(dtype=float) for row in test])
    truth = np.array([row in lesions for row in test])
    assert table.loc["image_auroc", "n"] == len(test) == 2 * SUBJECTS - 2
    assert table.loc["image_auroc", "value"] == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    by_subject = truth.reshape(-1, 2).any(axis=1), values.reshape(-1, 2).mean(axis=1)
    assert table.loc["subject_auroc", "n"] == SUBJECTS - 1
    assert table.loc["subject_auroc", "value"] == pytest.approx(roc_auc_score(*by_subject), abs=1e-12)
    subjects = pd.read_csv(tmp_path / "subjects.tsv", sep="\t")
    assert subjects["lesion"].tolist() == [True, True, True, False, False]


def test_an_original_of_a_scan_with_a_lesion_is_no_control(tmp_path):
    """As in a study whose copies were made before it was known: they have their anomaly all the same."""
    healthy = healthy_set(tmp_path / "healthy", ill=(3,))
    synthetic(healthy_set(tmp_path / "taken for healthy").folder, tmp_path / "altered", ANOMALIES)
    altered = SampleSet(tmp_path / "altered")
    clean, found = scored(tmp_path / "clean", healthy, 1, most=8), scored(tmp_path / "found", altered, 2)
    table = evaluated(tmp_path, tmp_path / "found", altered, (tmp_path / "clean", healthy.folder))
    values = [scores[brain].mean(dtype=float) for scores, brain in zip(found["map"], altered.brain, strict=True)]
    test = [row for row in healthy.rows("test") if row // 2 != 3]
    values += [clean["map"][row][healthy.brain[row]].mean(dtype=float) for row in test]
    truth = np.repeat([True, False], [2 * SUBJECTS, 2 * SUBJECTS - 2])
    assert table.loc["image_auroc", "value"] == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    assert table.loc["subject_auroc", "n"] == 2 * SUBJECTS - 1
    assert Cohort(tmp_path / "found", altered).lesioned.all()
    assert not Cohort(tmp_path / "found", altered).unseen.any()


@pytest.mark.parametrize("column", ["scan_lesion", "nothing"])
def test_tables_of_samples_without_the_column_are_read(tmp_path, column):
    samples = healthy_set(tmp_path / "samples", ill=(1,))
    scored(tmp_path / "score", samples, 3)
    path = samples.folder / "table.tsv"
    pd.read_csv(path, sep="\t").rename(columns={"scan_lesion": column}).to_csv(path, sep="\t", index=False)
    cohort = Cohort(tmp_path / "score", SampleSet(samples.folder))
    assert cohort.diseased.tolist() == [column == "scan_lesion" and row // 2 == 1 for row in samples.rows("test")]
    assert (~cohort.healthy()).tolist() == cohort.diseased.tolist()


def naive_curve(maps, lesions, brains, size=None):
    """Sensitivity and false alarms per image just below each lesion's score, up to a tenth of the normal pixels."""
    structure = generate_binary_structure(2, 2)
    normal = np.concatenate([m[b & ~t] for m, t, b in zip(maps, lesions, brains, strict=True)])
    points = []
    needed = []
    for scores, lesion, brain in zip(maps, lesions, brains, strict=True):
        numbered, count = label(lesion & brain, structure)
        values = [np.sort(scores[numbered == index])[::-1] for index in range(1, count + 1)]
        needed += [each[int(np.ceil(0.1 * each.size)) - 1] for each in values]
    for threshold in np.unique(np.nextafter(needed, np.float32(-np.inf))):
        if (normal > threshold).mean() > 0.1:
            continue
        found = alarms = number = 0
        for scores, lesion, brain in zip(maps, lesions, brains, strict=True):
            marked = (scores > threshold) & brain
            numbered, count = label(lesion & brain, structure)
            for index in range(1, count + 1):
                inside = numbered == index
                diameter = 2 * np.sqrt(inside.sum() * SPACING**2 / np.pi)
                if size is None or size[0] <= diameter < size[1]:
                    number += 1
                    found += marked[inside].sum() >= 0.1 * inside.sum()
            regions, count = label(marked, structure)
            alarms += sum(not (lesion & brain)[regions == index].any() for index in range(1, count + 1))
        points.append((found / number if number else np.nan, alarms / len(maps)))
    return points


def test_lesions_are_found_at_so_many_false_alarms(study):
    _, altered, _, found, table = study
    maps, lesions, brains = found["map"][:, 0], altered.lesion[:, 0], altered.brain[:, 0]

    def best(points, allowed):
        return max([share for share, alarms in points if alarms <= allowed], default=0)

    points = naive_curve(maps, lesions, brains)
    each = [best(points, allowed) for allowed in (0.25, 0.5, 1, 2, 4)]
    assert each[-1] > each[-2] > each[0], "each point of the curve counts"
    assert table.loc[table.index.str.startswith("lesion_sensitivity"), "n"].sum() == 2 * SUBJECTS
    assert table.loc["froc", "value"] == pytest.approx(np.mean(each), abs=1e-12)
    for name, size in (("small", (0, 10)), ("medium", (10, 20)), ("large", (20, np.inf))):
        known = table.loc[f"lesion_sensitivity_{name}"]
        if known["n"]:
            expected = best(naive_curve(maps, lesions, brains, size), 1.0)
            assert known["value"] == pytest.approx(expected, abs=1e-12)
        else:
            assert known["reason"] == "no lesion of this size"
