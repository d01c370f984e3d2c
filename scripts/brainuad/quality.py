"""How well a scan came through preprocessing: measures of one scan, and the table and montage of a dataset."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from textwrap import wrap

import nibabel
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainuad.faults import public
from brainuad.standard_brain import standard_mask

__all__ = [
    "bias_range",
    "correlation",
    "deviations",
    "judge",
    "overlap",
    "quality",
    "robust_z",
    "volume",
    "with_slices",
]

# Which side of the median is suspicious: -1 low, 1 high, 0 both.
MEASURES = {"correlation": -1, "overlap": -1, "brain_volume_ml": 0, "bias_range": 1}
THRESHOLDS = {"correlation": "min_correlation", "overlap": "min_overlap"}
POINT = (4.0, -18.0, 10.0)  # mm in template space: beside the falx, through thalamus and ventricles
SHOWN, SHOWN_EXCLUDED = 40, 8
SMALLEST_COHORT = 7  # below it median and MAD say little, and most scans would be outliers
OUTLINE, OWN, EXCLUDED, ODD = "#39d5ff", "#ffb000", "#c0392b", "#b9770e"
COLUMNS = 4  # scans in a row of the montage


def correlation(image: np.ndarray, template: np.ndarray, mask: np.ndarray) -> float:
    """Pearson's r of image and template over the voxels of the mask, in [-1, 1]; higher is better.

    An image that is constant there has 0.
    """
    a, b = (array[mask].astype(np.float64) for array in (image, template))
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else 0.0


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient 2 |a ∩ b| / (|a| + |b|) of two masks, in [0, 1]; higher is better; 1 if both are empty."""
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 1.0


def volume(mask: np.ndarray, spacing: Sequence[float]) -> float:
    """Volume of a mask in ml, at `spacing` mm; adult brains have 1,000 to 1,900."""
    return float(np.count_nonzero(mask) * np.prod(spacing) / 1000)


def bias_range(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> float:
    """Ratio of percentiles 99 and 1 of the removed bias field, before / after, in the mask; 1 is no bias."""
    inside = mask & (before > 0) & (after > 0)
    low, high = np.percentile(before[inside] / after[inside], [1, 99])
    return float(high / low)


def robust_z(values: np.ndarray, reference: np.ndarray | None = None) -> np.ndarray:
    """(value - median) / (1.4826 MAD), in standard deviations of a normal distribution; NaN stays NaN.

    Median and MAD are those of `reference`, by default the values themselves. Where half of those are equal and the
    MAD is 0, 1.2533 times the mean absolute deviation replaces the denominator (Iglewicz and Hoaglin 1993); where all
    are equal, it is 1.
    """
    median, scale = spread(values if reference is None else reference)
    return (values - median) / (scale or 1)


def spread(values: np.ndarray) -> tuple[float, float]:
    """The median and the denominator of `robust_z`."""
    median = np.nanmedian(values)
    distance = np.abs(values - median)
    return float(median), float(1.4826 * np.nanmedian(distance) or 1.2533 * np.nanmean(distance))


def quality(
    chunks: list[Path], table: Path, montage: Path, dataset: str, settings: dict, decisions: dict[str, dict]
) -> pd.DataFrame:
    """Gather the tables of a dataset's preprocessing jobs, decide what is left out, and picture what is left.

    Args:
        chunks: tables that `preprocess` wrote; the scans' folders lie beside them.
        table: TSV to write: the rows of the chunks, status and reason decided, and `outlier`: names and robust z of
            the measures that are outliers of the dataset.
        montage: PNG to write.
        settings: the ``quality`` section: ``min_correlation``, ``min_overlap``, ``outlier_z``; with ``simulated`` the
            picture says so; ``heights`` of the slices to be cut, z in mm: each must show brain.
        decisions: ``decision`` (exclude or include) and ``reason`` of the scans about which a person decided.

    Returns:
        The table, with the ``folder`` of each scan's files.

    Raises:
        ValueError: no scan is left.
    """
    scans = pd.concat([read_chunk(chunk) for chunk in chunks], ignore_index=True)
    scans = judge(with_slices(scans, settings.get("heights", [])), settings, decisions)
    included = scans["status"].eq("included")
    if not included.any():
        raise ValueError(
            f"All {len(scans)} scans of dataset {dataset} are excluded, the first because: {scans['reason'].iloc[0]}"
        )
    for path in (table, montage):
        path.parent.mkdir(parents=True, exist_ok=True)
    draw(scans, dataset + " (simulated)" * settings.get("simulated", False)).savefig(montage, dpi=100)
    scans.drop(columns="folder").to_csv(table, sep="\t", index=False, float_format="%.6g")
    print(f"{dataset}: {included.sum()} of {len(scans)} scans included, {scans['outlier'].ne('').sum()} flagged")
    for row in scans[~included].itertuples():
        print(f"{row.scan} excluded ({row.code}): {row.reason}")
    return scans


def read_chunk(path: Path) -> pd.DataFrame:
    """The table of one preprocessing job; ``folder`` says where each scan's files are."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    for name in MEASURES:
        table[name] = pd.to_numeric(table[name])
    return table.assign(folder=[path.parent / scan for scan in table["scan"]])


def with_slices(scans: pd.DataFrame, heights: Sequence[float]) -> pd.DataFrame:
    """A copy in which scans that have no brain at one of the heights, z in mm, are left out."""
    scans = scans.copy()
    for row in scans[scans["status"].eq("included")].itertuples() if heights else ():
        mask = nibabel.load(row.folder / "mask.nii.gz")
        planes = np.linalg.solve(mask.affine, [[0] * len(heights)] * 2 + [heights, [1] * len(heights)])[2]
        found = np.flatnonzero(np.asarray(mask.dataobj).any(axis=(0, 1)))
        bare = [z for z, plane in zip(heights, np.floor(planes + 0.5), strict=True) if plane not in found]
        if bare:
            where = ", ".join(f"{z:g}" for z in bare)
            reason = f"No brain at z = {where} mm: look at the montage, or change `samples.positions` for all scans."
            exclude(scans, row.Index, "slices", reason)
    return scans


def judge(scans: pd.DataFrame, settings: dict, decisions: dict[str, dict]) -> pd.DataFrame:
    """A copy in which it is decided who is left out, with code and reason, and `outlier` names odd measures.

    A person's decision comes first, then the thresholds, then duplicates: of equal scans the first that is still in
    stays. A measure is odd if its robust z among the included scans lies beyond `outlier_z` on the suspicious side: low
    for correlation and overlap, high for the bias, either for the volume.
    """
    scans = scans.copy()
    decided = scans["scan"].map({scan: entry["decision"] for scan, entry in decisions.items()})
    for index in scans.index[decided.eq("exclude")]:
        reason = decisions[scans.loc[index, "scan"]]["reason"] or "no reason is given"
        exclude(scans, index, "excluded", f"By config/exclusions.tsv: {reason.rstrip('.')}.")
    for name, key in THRESHOLDS.items():
        for index in scans.index[scans["status"].eq("included") & ~(scans[name] >= settings[key])]:
            reason = (
                f"The {name} with the template, {scans.loc[index, name]:.2f}, is below quality.{key} "
                f"({settings[key]:g}): look at the montage, and check the scan's orientation and contrast."
            )
            exclude(scans, index, name, reason, decided[index] == "include")
    for index, first in duplicates(scans).items():
        reason = f"Its voxels are those of {first}: find out whose scan it is, and correct the list of scans."
        exclude(scans, index, "duplicate", reason, decided[index] == "include")
    fixed = decided.eq("include") & scans["status"].eq("excluded")
    scans.loc[fixed, "reason"] += " `include` in config/exclusions.tsv cannot help that."
    flags = pd.Series("", index=scans.index)
    for name, z in deviations(scans).items():
        odd = z[is_odd(name, z, settings) & scans["status"].eq("included")]
        flags[odd.index] += [f"{name} {value:+.1f}; " for value in odd]
    scans["outlier"] = flags.str.removesuffix("; ")
    return scans


def deviations(scans: pd.DataFrame) -> pd.DataFrame:
    """Robust z of each measure (columns) and scan, against the scans that are in; NaN where those are too few."""
    included = scans["status"].eq("included")
    known = included.sum() >= SMALLEST_COHORT
    z = {
        name: robust_z(scans[name].to_numpy(), scans[name][included].to_numpy()) if known else np.nan
        for name in MEASURES
    }
    return pd.DataFrame(z, index=scans.index, dtype=float)


def is_odd(name: str, z: pd.Series | float, settings: dict) -> pd.Series | bool:
    """Whether a measure lies beyond `outlier_z` on its suspicious side; never where z is NaN."""
    return (z * MEASURES[name] if MEASURES[name] else abs(z)) > settings["outlier_z"]


def exclude(scans: pd.DataFrame, index: int, code: str, reason: str, overruled: bool = False) -> None:
    """Leave a scan out, or note the code if a person overruled it."""
    if overruled:
        scans.loc[index, "overruled"] = f"{scans.loc[index, 'overruled']} {code}".strip()
    else:
        scans.loc[index, ["status", "code", "reason"]] = ["excluded", code, reason]


def duplicates(scans: pd.DataFrame) -> dict[int, str]:
    """The included scans whose voxels an included scan before them has, and that scan's name."""
    known = scans[scans["status"].eq("included") & scans["voxels"].ne("")]
    first = known.groupby("voxels")["scan"].transform("first")
    return first[known["voxels"].duplicated()].to_dict()


def draw(scans: pd.DataFrame, dataset: str) -> Figure:
    """Axial, coronal and sagittal slice of each scan, outlines of its brain and of the template's; a list of others.

    Included scans come first, outliers and lowest correlations before the others, then (in red) excluded ones that were
    registered; radiological convention: the subject's right is on the left of the picture.
    """
    included = scans[scans["status"].eq("included")].sort_values("correlation", kind="stable")
    included = included.sort_values("outlier", key=lambda flag: flag.eq(""), kind="stable")
    excluded = scans[scans["status"].ne("included")]
    registered = excluded[excluded["correlation"].notna()]
    shown = pd.concat([included[:SHOWN], registered[:SHOWN_EXCLUDED]])
    width = max(4.2 * min(COLUMNS, len(shown)), 8.4)
    notes = [f"{row.scan}: {public(row.code, row.reason)}" for row in excluded[:SHOWN].itertuples()]
    hidden = len(included) - min(SHOWN, len(included))
    notes += [f"and {len(excluded) - SHOWN} more excluded"] if len(excluded) > SHOWN else []
    lines = [line for note in notes for line in wrap(note, int(16 * width))]
    rows, columns = -(-len(shown) // COLUMNS), min(COLUMNS, len(shown))
    heights = (0.5, 1.65 * rows, 0.2 * len(lines) + 0.2)
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    top, text = figure.subfigures(2, 1, height_ratios=(heights[0] + heights[1], heights[2]))
    more = f" ({hidden} more not shown)" if hidden else ""
    top.suptitle(
        f"{dataset}: {len(included)} scans included{more}, {len(excluded)} excluded", fontsize=11, parse_math=False
    )
    axes = list(top.subplots(rows, columns, squeeze=False).flat)
    for axis in axes:
        axis.set_axis_off()
    for axis, row in zip(axes, shown.itertuples(), strict=False):
        draw_scan(axis, row)
    text.text(0.01, 0.98, "\n".join(lines), fontsize=7, va="top", color=EXCLUDED, parse_math=False)
    return figure


def draw_scan(axis: Axes, row: tuple) -> None:
    """The three slices of one scan beside each other."""
    image = nibabel.load(row.folder / "t1w.nii.gz")
    axis.imshow(beside(slices(np.asarray(image.dataobj), image.affine)), origin="lower", cmap="gray", vmin=0, vmax=1)
    for mask, colour in ((template_brain(image), OUTLINE), (own_brain(row.folder), OWN)):
        axis.contour(beside(slices(mask, image.affine)), [0.5], colors=colour, linewidths=0.6)
    excluded = row.status != "included"
    title = f"{row.scan}  r {row.correlation:.2f}  Dice {row.overlap:.2f}"
    title += "\nexcluded" if excluded else f"\n{row.outlier}" if row.outlier else ""
    colour = EXCLUDED if excluded else ODD if row.outlier else "black"
    axis.set_title(title, fontsize=7, color=colour, parse_math=False)


def own_brain(folder: Path) -> np.ndarray:
    """The brain mask of a preprocessed scan."""
    return np.asarray(nibabel.load(folder / "mask.nii.gz").dataobj) > 0


def template_brain(image: nibabel.Nifti1Image) -> np.ndarray:
    """The template's brain mask on the grid of a preprocessed scan."""
    return _template_brain(image.shape, tuple(image.affine.ravel().tolist()))


@lru_cache(maxsize=1)
def _template_brain(shape: tuple, affine: tuple) -> np.ndarray:
    return standard_mask(shape, np.reshape(affine, (4, 4)))


def slices(volume: np.ndarray, affine: np.ndarray) -> list[np.ndarray]:
    """Axial, coronal and sagittal slice through `POINT`, rows upwards, right of the subject on the left."""
    i, j, k = np.rint(np.linalg.solve(affine, [*POINT, 1])[:3]).astype(int)
    return [volume[::-1, :, k].T, volume[::-1, j, :].T, volume[i, :, :].T]


def beside(images: Sequence[np.ndarray]) -> np.ndarray:
    """The images in one row, centred on the tallest."""
    height = max(image.shape[0] for image in images)
    padded = []
    for image in images:
        low = (height - image.shape[0]) // 2
        padded.append(np.pad(image.astype(np.float32), ((low, height - image.shape[0] - low), (1, 1))))
    return np.hstack(padded)
