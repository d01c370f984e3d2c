"""Maps of one scan to look at: slices for print, and a page in which one walks through the volume."""

import html
import re
import warnings
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
from matplotlib.figure import Figure

from brainuad.derivatives import ScanMaps
from brainuad.grids import Frame

__all__ = ["draw_slices", "write_page"]

SHOWN = 6  # slices of a scan
Z_RANGE = (2.0, 6.0)  # standard deviations: from where they are coloured, and where colours end at the earliest
FILLED = 99.5  # percentile of a map in the brain at which its colours end
PAGE = """<h1 style="font: 1rem sans-serif; margin: .5rem">{title}</h1>
<p style="font: .8rem sans-serif; margin: .5rem; max-width: 50rem">{text} Click into the picture to move. The subject's
left is on the left (L). Nothing is coloured outside what the model saw; that is no finding.</p>
"""
NOT_FOUND_OUTSIDE = re.compile(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//""")


def shown_planes(frame: Frame, brain: np.ndarray) -> list[int]:
    """Planes of the template's grid to show: one of each slice, or spread over the brain of a volume."""
    area = brain.sum(axis=(0, 1))
    planes = np.flatnonzero(area)
    if not len(planes):
        return [frame.shape[2] // 2]
    if not frame.volumes:
        slices = frame.weights[2][planes].argmax(axis=1)
        planes = np.array([planes[slices == number][(slices == number).sum() // 2] for number in np.unique(slices)])
    inner = planes if len(planes) <= SHOWN else planes[np.linspace(0.5, len(planes) - 1.5, SHOWN).round().astype(int)]
    return [int(plane) for plane in inner]


def draw_slices(maps: ScanMaps, anatomy: np.ndarray, frame: Frame, title: str) -> Figure:
    """Axial slices from below to above: scan, reconstruction, anomaly map, z-score over the scan.

    The right of the subject is on the left of the picture, as radiologists have it.

    Args:
        maps: of one scan.
        anatomy: the preprocessed scan on the template's grid, 0 to 1.
        frame: where samples lie.
        title: plain text.
    """
    planes = shown_planes(frame, maps.covered["covered"])
    rows = rows_of(maps, anatomy)
    figure = Figure(figsize=(1.6 * len(planes) + 1.6, 1.9 * len(rows) + 0.6), layout="constrained")
    figure.suptitle(title.replace("$", r"\$"), fontsize=9)
    axes = figure.subplots(len(rows), len(planes), squeeze=False)
    left, right, bottom, top = border(anatomy)
    for line, (name, volume, options, back) in zip(axes, rows, strict=True):
        for axis, plane in zip(line, planes, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if back:
                axis.imshow(turned(anatomy[left:right, bottom:top, plane]), cmap="gray", vmin=0, vmax=1)
            shown = axis.imshow(turned(volume[left:right, bottom:top, plane]), **options)
        line[0].set_ylabel(name, fontsize=8)
        bar = figure.colorbar(shown, ax=list(line), fraction=0.03, pad=0.01)
        bar.ax.tick_params(labelsize=6)
    for axis, plane in zip(axes[0], planes, strict=True):
        axis.set_title(f"z = {frame.affine[2, 3] + plane * frame.affine[2, 2]:g} mm", fontsize=7)
    for text, x, side in (("R", 0.02, "left"), ("L", 0.98, "right")):
        axes[0, 0].text(x, 0.98, text, color="white", fontsize=7, ha=side, va="top", transform=axes[0, 0].transAxes)
    return figure


def rows_of(maps: ScanMaps, anatomy: np.ndarray) -> list[tuple]:
    """Name, volume, options of ``imshow`` and whether the scan is drawn behind it, of each row of pictures."""
    anomaly, most = maps.images["anomaly"], highest(maps, "anomaly")
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    rows = [
        ("scan", anatomy, gray, False),
        ("reconstruction", maps.images["reconstruction"], gray, False),
        ("anomaly map", anomaly, {"cmap": "inferno", "vmin": 0, "vmax": most}, False),
    ]
    if "zscore" in maps.images:
        seen = np.ma.masked_less(maps.images["zscore"], Z_RANGE[0])
        options = {"cmap": "autumn", "vmin": Z_RANGE[0], "vmax": highest(maps, "zscore")}
        rows.append((f"z above {Z_RANGE[0]:g}", seen, options, True))
    return rows


def highest(maps: ScanMaps, name: str) -> float:
    """Where the colours of a map end."""
    values = maps.images[name][maps.covered[name]]
    most = float(np.percentile(values, FILLED)) if values.size else 0.0
    return max(most, Z_RANGE[1]) if name == "zscore" else most or 1.0


def border(anatomy: np.ndarray, margin: int = 2) -> tuple[int, int, int, int]:
    """First and last column and row of the brain, with a margin."""
    known = []
    for axis, length in zip((0, 1), anatomy.shape, strict=False):
        where = np.flatnonzero(anatomy.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = (where[0], where[-1] + 1) if len(where) else (0, length)
        known += [max(0, low - margin), min(length, high + margin)]
    return tuple(known)


def turned(plane: np.ndarray) -> np.ndarray:
    """A plane (x, y) as a picture: anterior above, right of the subject on the left."""
    return plane[::-1, ::-1].T


def write_page(path: Path, maps: ScanMaps, anatomy: np.ndarray, affine: np.ndarray, title: str) -> None:
    """A page that shows the z-scores (the anomaly map where there are none) over the scan, and needs no network.

    Args:
        path: of the HTML file.
        maps: of one scan.
        anatomy: the preprocessed scan on the template's grid.
        affine: voxel → mm of that grid.
        title: plain text.

    Raises:
        ValueError: the installed nilearn writes pages that load something.
    """
    from nilearn.plotting import view_img

    name = "zscore" if "zscore" in maps.images else "anomaly"
    image, most = maps.images[name].clip(0), highest(maps, name)
    low = Z_RANGE[0] if name == "zscore" else most / 3
    text = f"{'z-scores' if name == 'zscore' else 'Anomaly map'} above {low:.3g} over the scan in template space."
    shifted = np.array(affine, float)
    shifted[:3, 3] -= shifted[:3, :3].sum(axis=1)  # brainsprite counts voxels from 1: it would be a voxel off
    # Not `radiological`: it turns the picture, and the cross stays on the side where it was.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given float value must not exceed")  # nothing is above the threshold
        page = view_img(
            nibabel.Nifti1Image(image, shifted),
            bg_img=nibabel.Nifti1Image(anatomy.astype(np.float32), shifted),
            cut_coords=peak(image, affine),
            threshold=low,
            vmin=0,
            vmax=most,
            symmetric_cmap=False,
            cmap="autumn" if name == "zscore" else "inferno",
            black_bg=True,
            title="",
            resampling_interpolation="nearest",
        ).get_standalone()
    if NOT_FOUND_OUTSIDE.search(page):
        raise ValueError("The installed nilearn writes pages that load something: install the version that is pinned.")
    title = html.escape(title)
    page = re.sub(r"<title>.*?</title>", "", page, flags=re.S).replace("<head>", f"<head><title>{title}</title>", 1)
    page = re.sub(r"(<body[^>]*>)", lambda tag: tag[1] + PAGE.format(title=title, text=text), page, count=1)
    Path(path).write_text(page, encoding="utf-8")


def peak(image: np.ndarray, affine: np.ndarray) -> Sequence[float]:
    """Where a volume is highest, in mm."""
    voxel = np.unravel_index(int(image.argmax()), image.shape)
    return [float(value) for value in (affine @ [*voxel, 1])[:3]]
