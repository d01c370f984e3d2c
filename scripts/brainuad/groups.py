"""Patients against controls, without masks: where the calibrated anomaly maps of two groups differ, and by how much.

A subject is one value at each voxel, the mean of its sessions; each group is held against the reference, voxel by
voxel and region by region. Only test subjects count: models have seen the others, or were calibrated on them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from brainuad import regions as atlases
from brainuad.balance import COLUMNS as BALANCE_COLUMNS
from brainuad.balance import balance
from brainuad.effects import Moments, adjusted, effect_interval, hedges, ranking, welch
from brainuad.figures import save
from brainuad.group_figure import Panel, group_figure
from brainuad.grouping import ALONE, check_groups, file_label
from brainuad.manifest import ManifestError
from brainuad.regions import Atlas
from brainuad.resampling import draws

__all__ = ["COLUMNS", "GROUP_COLUMNS", "REGION_COLUMNS", "SCORES", "groups"]

COLUMNS = ("scan", "subject", "session", "split", "group", "age", "sex", "site", "zscore")
COVERED = 0.8  # share of the subjects of either group that must cover a voxel for it to be tested
TOO_FEW = (
    "too few maps have a z-score in any voxel to compare groups: give the training datasets more validation subjects, "
    "or lower `maps.minimum_subjects`."
)
EXTREME = 3.0  # standard deviations of healthy subjects
SCORES = {"mean_z": "mean z-score over the brain", "share_above_3": "share of the brain above z = 3"}
GROUP_COLUMNS = (
    *("group", "file", "reference", "subjects", "scans"),
    *(f"{score}_{part}" for score in SCORES for part in ("auroc", "low", "high")),
    *("voxels", "higher", "lower", "peak", "peak_x", "peak_y", "peak_z", "reason"),
)
REGION_COLUMNS = (
    *("group", "region", "name", "voxels", "covered", "n", "n_reference", "mean", "mean_reference"),
    *("effect", "low", "high", "t", "df", "p", "q", "reason"),
)


@dataclass
class Cohort:
    """The subjects of one group.

    Attributes:
        name: as the manifest has it.
        subjects: a row a subject: ``subject``, ``group``, ``age``, ``sex``, ``site``, ``sessions`` and ``SCORES``.
        moments: of their maps, over the voxels of the grid.
        regions: mean of each region of each subject, (subjects, regions).
        coverage: share of each region's voxels that the subjects cover on average, (regions,).
    """

    name: str
    moments: Moments
    subjects: list[dict] = field(default_factory=list)
    regions: list[np.ndarray] = field(default_factory=list)
    coverage: list[np.ndarray] = field(default_factory=list)

    def table(self) -> pd.DataFrame:
        """The subjects as a table."""
        return pd.DataFrame(self.subjects)


def groups(table: Path, folder: Path, files: dict[str, Path], settings: dict) -> None:
    """Compare the groups of one dataset by the maps of one model and seed.

    Args:
        table: of the maps, columns ``COLUMNS``; ``zscore`` is relative to its folder: NIfTI in template space, in
            standard deviations of healthy subjects, 0 where a scan is not covered.
        folder: to write ``mean_<group>.nii.gz`` to and, of each group but the reference, ``effect_<group>.nii.gz``
            (Hedges' g, 0 where not tested) and ``found_<group>.nii.gz`` (1 where it is higher, -1 where it is lower
            after the correction for false discoveries).
        files: to write: ``groups`` (``GROUP_COLUMNS``), ``regions`` (``REGION_COLUMNS``), ``subjects``, ``balance``
            (``brainuad.balance.COLUMNS``) and ``notes`` (what to know before believing it, a sentence a row), all
            TSV; ``picture``, PNG.
        settings: ``dataset``, ``reference`` (a group), ``regions`` and ``names`` (an atlas, or None),
            ``false_discoveries`` (their rate), ``resamples``, ``model`` (its label) and ``simulated``.

    Raises:
        ManifestError: there are no two groups, no reference, or a map is none.
    """
    rows, notes = chosen(read_maps(Path(table)), settings)
    grid = nibabel.load(rows["path"].iloc[0])
    atlas = atlases.read_atlas(settings["regions"], settings["names"], grid) if settings["regions"] else None
    cohorts, empty = gathered(rows, grid, atlas)
    if empty:
        number = "1 scan is" if len(empty) == 1 else f"{len(empty)} scans are"
        notes.append(f"{number} left out: no voxel has a z-score (the first is {empty[0]}).")
    reference = cohorts.pop(settings["reference"])
    cohorts = {name: cohort for name, cohort in cohorts.items() if cohort.subjects}
    if len(reference.subjects) < 2 or not cohorts:
        raise ManifestError(f"{table}: {TOO_FEW}")
    results = [compared(cohort, reference, grid, atlas, settings) for cohort in cohorts.values()]
    balances = [
        row
        for cohort in cohorts.values()
        for row in balance(cohort.table(), reference.table(), cohort.name, reference.name)
    ]
    notes += [row["warning"] for row in balances if row["warning"]]
    notes += [f"{one.row['group']}: {one.row['reason']}." for one in results if one.row["reason"] not in ("", ALONE)]
    first = {**described(reference), "reference": True}
    write_maps(Path(folder), grid, [reference, *cohorts.values()], results)
    frames = {
        "groups": pd.DataFrame([first, *(result.row for result in results)]).reindex(columns=list(GROUP_COLUMNS)),
        "regions": pd.DataFrame([row for result in results for row in result.regions], columns=list(REGION_COLUMNS)),
        "subjects": pd.concat([cohort.table() for cohort in (reference, *cohorts.values())]),
        "balance": pd.DataFrame(balances, columns=list(BALANCE_COLUMNS)),
        "notes": pd.DataFrame({"note": notes}),
    }
    for name, frame in frames.items():
        frame.to_csv(files[name], sep="\t", index=False, float_format="%.6g")
    save(picture([reference, *cohorts.values()], results, grid, settings), files["picture"])
    for result in results:
        row = result.row
        found = f"{row['higher']} of {row['voxels']} voxels are higher, {row['lower']} lower"
        print(f"{row['group']} against {reference.name}: {found}; AUROC of the mean z {row['mean_z_auroc']:.2f}")
    print(*notes, sep="\n")


def read_maps(path: Path) -> pd.DataFrame:
    """The table of the maps, as text but for nothing; with ``path``, where each map lies."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise ManifestError(f"{path} has no column {missing[0]!r}: make the maps anew.")
    return table.assign(path=[path.parent / name for name in table["zscore"]])


def chosen(table: pd.DataFrame, settings: dict) -> tuple[pd.DataFrame, list[str]]:
    """The scans that are compared, and sentences about the others."""
    notes, dataset = [], settings["dataset"]
    compared_rows = table[table["split"].eq("test") & table["group"].ne("")]
    torn = table["subject"].map(compared_rows.groupby("subject")["group"].nunique()).gt(1)
    for mask, why in (
        (table["split"].ne("test"), "not of the split test, so that models have seen them or were calibrated on them"),
        (table["group"].eq(""), "of no group"),
        (torn, "of another group in another session"),
    ):
        mask = mask.reindex(table.index)
        left = sorted(set(table["subject"][mask]) - set(table["subject"][~mask]))
        single = table["scan"][mask & ~table["subject"].isin(left)]
        if len(single):
            number = "1 scan is" if len(single) == 1 else f"{len(single)} scans are"
            notes.append(f"{number} left out: {why}, unlike others of the subject (the first is {single.iloc[0]}).")
        if left:
            number = "1 subject is" if len(left) == 1 else f"{len(left)} subjects are"
            notes.append(f"{number} left out: {why} (the first is {left[0]}).")
        table = table[~mask]
    check_groups(dataset, settings, table)
    numbers = table.groupby("group")["subject"].nunique()
    notes += [f"{name}: {ALONE}; it has a map and a rank, but no test." for name in numbers.index[numbers == 1]]
    return table, notes


def gathered(rows: pd.DataFrame, grid: nibabel.Nifti1Image, atlas: Atlas | None) -> tuple[dict[str, Cohort], list[str]]:
    """The cohort of each group, and the scans without a z-score; one map is in memory at a time."""
    places = int(np.prod(grid.shape[:3]))
    cohorts, empty = {name: Cohort(name, Moments(places)) for name in sorted(set(rows["group"]))}, []
    for subject, own in rows.groupby("subject", sort=True):
        cohort, scores = cohorts[own["group"].iloc[0]], []
        total, number = np.zeros(grid.shape[:3]), np.zeros(grid.shape[:3], np.int16)
        for scan, path in zip(own["scan"], own["path"], strict=True):
            values = read_map(path, grid)
            covered = values != 0
            if not covered.any():
                empty.append(scan)
                continue
            total, number = total + values, number + covered
            scores.append([values[covered].mean(dtype=float), (values[covered] > EXTREME).mean()])
        if not scores:
            continue
        mean, covered = total / np.maximum(number, 1), number > 0
        cohort.moments.add(mean.ravel(), covered.ravel())
        if atlas is not None:
            cohort.regions.append(atlases.means(mean, covered, atlas))
            cohort.coverage.append(np.nan_to_num(atlases.means(covered, np.ones_like(covered), atlas)))
        known = dict(zip(SCORES, np.mean(scores, axis=0), strict=True))
        cohort.subjects.append({"subject": subject, **description(own), "sessions": len(scores), **known})
    return cohorts, empty


def description(own: pd.DataFrame) -> dict:
    """What is known of a subject from its sessions: the mean age, and what they agree in."""
    ages = pd.to_numeric(own["age"], errors="coerce")
    agreed = {name: own[name].iloc[0] if own[name].nunique() == 1 else "" for name in ("group", "sex", "site")}
    return {"group": agreed["group"], "age": ages.mean(), "sex": agreed["sex"], "site": agreed["site"]}


def read_map(path: Path, grid: nibabel.Nifti1Image) -> np.ndarray:
    """The voxels of a map, (x, y, z) float32.

    Raises:
        ManifestError: it is not on the grid of the others, or holds what is no number.
    """
    image = nibabel.load(path)
    if image.shape != grid.shape or not np.allclose(image.affine, grid.affine, atol=1e-3):
        raise ManifestError(f"{path} has another grid than the first map of its dataset: make the maps anew.")
    values = np.asarray(image.dataobj, np.float32).reshape(grid.shape[:3])
    if not np.isfinite(values).all():
        raise ManifestError(
            f"{path} holds {np.count_nonzero(~np.isfinite(values))} values that are no finite numbers: the model's "
            "maps are broken; look at its learning curve, and train it again."
        )
    return values


@dataclass(frozen=True)
class Result:
    """One group against the reference: ``effect`` (NaN where not tested) and ``found`` (-1, 0, 1), (x, y, z)."""

    effect: np.ndarray
    found: np.ndarray
    row: dict
    regions: list[dict]


def compared(
    cohort: Cohort, reference: Cohort, grid: nibabel.Nifti1Image, atlas: Atlas | None, settings: dict
) -> Result:
    """Hold a group against the reference."""
    pair = cohort.moments, reference.moments
    sizes = len(cohort.subjects), len(reference.subjects)
    tested = np.logical_and(*(moments.number >= COVERED * size for moments, size in zip(pair, sizes, strict=True)))
    effect = np.where(tested, hedges(*pair), np.nan)
    q = adjusted(np.where(tested, welch(*pair).p, np.nan))
    found = np.where(q < settings["false_discoveries"], np.sign(effect), 0).astype(np.int16)
    drawn = tuple(
        draws(f"{settings['dataset']}:{one.name}", len(one.subjects), settings["resamples"])
        for one in (cohort, reference)
    )
    row = {**described(cohort), "reference": False, "voxels": int(np.isfinite(effect).sum())}
    for score in SCORES:
        ranked = ranking(*(one.table()[score].to_numpy() for one in (cohort, reference)), drawn)
        row |= {f"{score}_{part}": value for part, value in ranked._asdict().items()}
    row |= {"higher": int((found > 0).sum()), "lower": int((found < 0).sum()), **peak(effect, found, grid)}
    row["reason"] = ALONE if sizes[0] < 2 else "" if row["voxels"] else "no voxel is covered in both groups"
    shape = grid.shape[:3]
    rows = region_rows(cohort, reference, atlas, drawn) if atlas is not None else []
    return Result(effect.reshape(shape), found.reshape(shape), row, rows)


def described(cohort: Cohort) -> dict:
    """Name and numbers of a group."""
    table = cohort.table()
    name = file_label(cohort.name)
    return {"group": cohort.name, "file": name, "subjects": len(table), "scans": int(table["sessions"].sum())}


def peak(effect: np.ndarray, found: np.ndarray, grid: nibabel.Nifti1Image) -> dict:
    """The largest effect, of what is found if anything is, and where it is in mm."""
    sizes = np.where(found != 0, np.abs(effect), np.nan) if found.any() else np.abs(effect)
    if np.isnan(sizes).all():
        return {}
    place = int(np.nanargmax(sizes))
    point = nibabel.affines.apply_affine(grid.affine, np.unravel_index(place, grid.shape[:3]))
    return {"peak": effect[place], **dict(zip(("peak_x", "peak_y", "peak_z"), np.round(point, 1), strict=True))}


def region_rows(cohort: Cohort, reference: Cohort, atlas: Atlas, drawn: Sequence[np.ndarray]) -> list[dict]:
    """A row a region."""
    values = [np.array(one.regions) for one in (cohort, reference)]
    pair = [Moments.of(each) for each in values]
    effect, test = hedges(*pair), welch(*pair)
    p = np.where(np.isnan(effect), np.nan, test.p)
    low, high = effect_interval(*values, drawn, effect).T
    covered = np.mean([*cohort.coverage, *reference.coverage], axis=0)
    columns = {
        **{name: atlas.table[name].to_numpy() for name in ("region", "name", "voxels")},
        **{"covered": covered, "n": pair[0].number, "n_reference": pair[1].number},
        "mean": np.where(pair[0].number > 0, pair[0].mean, np.nan),
        "mean_reference": np.where(pair[1].number > 0, pair[1].mean, np.nan),
        **{"effect": effect, "low": low, "high": high, "t": test.t, "df": test.freedom, "p": p, "q": adjusted(p)},
    }
    table = pd.DataFrame(columns).assign(group=cohort.name, reason="")
    table.loc[np.isnan(effect), "reason"] = "the same in all subjects"
    table.loc[(table["n"] < 2) | (table["n_reference"] < 2), "reason"] = "covered in fewer than two subjects of a group"
    table.loc[table["voxels"] == 0, "reason"] = "no voxel on the grid of the maps"
    return table.to_dict("records")


def write_maps(folder: Path, grid: nibabel.Nifti1Image, cohorts: Sequence[Cohort], results: Sequence[Result]) -> None:
    """Write the images; their headers say nothing but where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for cohort in cohorts:
        write(folder / f"mean_{file_label(cohort.name)}.nii.gz", cohort.moments.mean.astype(np.float32), grid)
    for result in results:
        write(folder / f"effect_{result.row['file']}.nii.gz", np.nan_to_num(result.effect).astype(np.float32), grid)
        write(folder / f"found_{result.row['file']}.nii.gz", result.found, grid)


def write(path: Path, values: np.ndarray, grid: nibabel.Nifti1Image) -> None:
    """Write one image on the grid."""
    image = nibabel.Nifti1Image(values.reshape(grid.shape[:3]), grid.affine)
    for form in (image.set_sform, image.set_qform):
        form(grid.affine, 4)  # MNI space
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)


def picture(cohorts: Sequence[Cohort], results: Sequence[Result], grid: nibabel.Nifti1Image, settings: dict) -> Figure:
    """Mean maps of all groups, then effects with what is found."""
    shape = grid.shape[:3]
    panels = []
    for cohort in cohorts:
        mean = np.where(cohort.moments.number > 0, cohort.moments.mean, np.nan).reshape(shape)
        panels.append(Panel(f"{cohort.name}\nmean z-score\nn = {len(cohort.subjects)}", mean, "z"))
    for result in results:
        title = f"{result.row['group']} against {settings['reference']}\nHedges' g"
        panels.append(Panel(title, result.effect, "g", result.found != 0))
    title = f"{settings['model']} on {settings['dataset']}" + " (simulated)" * settings["simulated"]
    return group_figure(panels, grid.affine, title, settings["false_discoveries"])
