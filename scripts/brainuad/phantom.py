"""Simulated raw T1-weighted scans with known truth, made from the ICBM152 template that nilearn ships.

A subject's anatomy depends on (seed, subject) alone: pose, size, diffeomorphism, texture. A site scans it:
contrast, bias field, resolution, noise, voxel grid. So a subject at two sites is one anatomy in two scans,
and one more subject changes no other.

World coordinates are RAS+ in mm. The deformation u pulls back: template point = raw point + u(raw point), and
the tissues are those of `template()` interpolated there. Raw signal = Rician(bias × clean, noise), within
`brain` alone if there is no head.

The template is ICBM 152 nonlinear symmetric 2009a (Fonov et al. 2011, "Unbiased average age-appropriate
atlases for pediatric studies").
"""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from importlib import resources
from pathlib import Path

import nibabel
import numpy as np
from nibabel import orientations
from scipy import ndimage
from scipy.spatial.transform import Rotation
from scipy.special import expit

STEP = 3  # mm between points of the coarse grid that velocity and texture live on
MARGIN = 8  # points by which the coarse grid exceeds the template, for the head around the brain
CENTRE = np.array([0.0, -17.0, 5.0])  # mm, middle of the template's brain and of every scan
FIELD_OF_VIEW = {False: (184.0, 224.0, 192.0), True: (216.0, 256.0, 224.0)}  # mm, without and with head
TEMPLATE_CSF, TEMPLATE_GM, TEMPLATE_WM = 70.0, 168.0, 224.0  # least-squares fit of the template's T1


@dataclass(frozen=True)
class Site:
    """How one scanner sees a head.

    Attributes:
        spacing: Voxel size in mm along left-right, posterior-anterior and inferior-superior, in whichever
            order they are stored. From 3 mm on, voxels average the signal: thick slices mix tissues.
        orientation: Where the stored axes point to, for example "RAS", "LAS" or "PSR".
        oblique: Tilt of the voxel grid about the left-right axis in degrees, up to 20 either way.
        contrast: Signal of CSF, grey and white matter.
        noise: Standard deviation of the Rician noise, as a fraction of white matter's signal.
        bias: Standard deviation of the log bias field within the brain; 0 is none.
        blur: Full width at half maximum of the point spread in mm, beyond what the voxel does.
        scale: Raw intensity of a contrast of 1.
        head: Surround the brain with simulated CSF, skull, scalp and noisy air; otherwise the scan is
            skull-stripped and 0 outside the brain.
    """

    spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)
    orientation: str = "RAS"
    oblique: float = 0.0
    contrast: tuple[float, float, float] = (0.25, 0.68, 1.0)
    noise: float = 0.02
    bias: float = 0.08
    blur: float = 0.0
    scale: float = 800.0
    head: bool = False

    def __post_init__(self):
        """Refuses values that no scanner could have."""
        for name in ("spacing", "contrast"):
            value = tuple(map(float, getattr(self, name)))
            if len(value) != 3 or min(value) <= 0:
                raise ValueError(f"Simulated site: {name} must be three positive numbers, not {list(value)}.")
            object.__setattr__(self, name, value)
        axes = self.orientation.translate(str.maketrans("LPI", "RAS"))
        if sorted(axes) != ["A", "R", "S"]:
            raise ValueError(f"Simulated site: orientation must be like RAS, not {self.orientation!r}.")
        ranges = {"noise": (0, 1), "bias": (0, 1), "blur": (0, 20), "oblique": (-20, 20), "scale": (1, 10000)}
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"Simulated site: {name} must lie between {low} and {high}.")

    @classmethod
    def from_settings(cls, settings: dict) -> "Site":
        """A site from the configuration's `site:`; ValueError if a key is unknown or a value impossible."""
        names = [field.name for field in fields(cls)]
        if unknown := sorted(set(settings) - set(names)):
            raise ValueError(f"Simulated site: unknown key {unknown[0]!r}; choose from {', '.join(names)}.")
        return cls(**settings)


@dataclass(frozen=True)
class Template:
    """The atlas that every subject is a deformation of."""

    affine: np.ndarray  # voxel to world of tissues and detail, (4, 4), mm
    tissues: np.ndarray  # probabilities of CSF, grey and white matter, (3, x, y, z); their sum falls to 0 outside
    detail: np.ndarray  # what tissues leave unexplained of the T1, in units of its white-grey contrast
    grid_affine: np.ndarray  # voxel to world of the coarse grid, that of the arrays below
    ventricles: np.ndarray  # lateral and third, smoothed, in [0, 1]
    distance: np.ndarray  # from the brain's hull in mm, negative inside


@dataclass(frozen=True)
class Anatomy:
    """What a subject brings to every site."""

    pose: np.ndarray  # raw world to unposed world, (4, 4), mm: position, rotation and size of the head
    displacement: np.ndarray  # unposed world to template world in mm, (3, x, y, z) on the coarse grid
    texture: np.ndarray  # relative deviation of the signal, on the coarse grid
    contrast: np.ndarray  # factors on the site's signal of CSF, grey and white matter
    layers: np.ndarray  # thickness of CSF gap, skull and scalp in mm


@dataclass(frozen=True)
class Phantom:
    """A simulated scan and the truth behind it; all arrays lie on the scan's stored voxel grid.

    Attributes:
        t1w: Raw scan, int16.
        clean: Signal without bias and noise, in raw intensities.
        bias: Multiplicative bias field; its logarithm averages 0 within the brain.
        tissues: Probabilities of CSF, grey and white matter, (3, x, y, z).
        brain: Where the tissues' sum exceeds 0.5 (ventricles and sulci included), bool.
        deformation: Displacement in mm, (3, x, y, z) with components R, A, S: template - raw point.
    """

    t1w: nibabel.Nifti1Image
    clean: np.ndarray
    bias: np.ndarray
    tissues: np.ndarray
    brain: np.ndarray
    deformation: np.ndarray


def phantom(scans: list[dict], table: Path, site: dict, seed: int, patients: dict | None = None) -> None:
    """Simulates the scans of one job and writes each with its truth beside it, `truth.npz`.

    The truth holds, as in `Phantom`, clean, bias, tissues and deformation (float16) and brain (bool).

    Args:
        scans: `subject`, which keys the anatomy, `t1w`, the NIfTI file to write, and `group` of each.
        table: TSV to write at the end: the files that are there by then.
        site: Attributes of `Site`; ValueError if a key is unknown or a value impossible.
        seed: Of the cohort.
        patients: `ventricles`, how much further out their walls lie in the group patient, in mm; None without one.
    """
    scanner = Site.from_settings(site)
    for row in scans:
        lost = patients["ventricles"] if patients and row["group"] == "patient" else 0.0
        result, t1w = simulate(row["subject"], scanner, seed, lost), Path(row["t1w"])
        t1w.parent.mkdir(parents=True, exist_ok=True)
        names = ("clean", "bias", "tissues", "deformation")
        halves = {name: getattr(result, name).astype(np.float16) for name in names}
        np.savez_compressed(t1w.with_name("truth.npz"), brain=result.brain, **halves)
        nibabel.save(result.t1w, t1w)
    lines = [f"{row['subject']}\t{row['t1w']}\n" for row in scans]
    table.write_text("subject\tt1w\n" + "".join(lines), encoding="utf-8")


def simulate(subject: str, site: Site, seed: int, lost: float = 0.0) -> Phantom:
    """A scan of the subject at the site: the same bytes for the same arguments; `lost` as for `anatomy`."""
    atlas, person = template(), anatomy(subject, seed, lost)
    scanner = json.dumps(asdict(site), sort_keys=True)
    affine, shape = voxel_grid(site)
    deformation, tissues, signal = _image(atlas, person, site, affine, shape)
    brain = tissues.sum(0) > 0.5
    if site.blur:
        signal = ndimage.gaussian_filter(signal, site.blur / 2.3548 / nibabel.affines.voxel_sizes(affine))
    bias = _bias(brain, site.bias, _random(seed, scanner, "coil"), _random(seed, scanner, subject, "bias"))
    random = _random(seed, scanner, subject, "noise")
    scale = site.scale * random.lognormal(0, 0.08)
    clean = signal * np.float32(scale)
    sigma = np.float32(site.noise * scale * site.contrast[2])
    real, imaginary = sigma * random.standard_normal((2, *shape), np.float32)
    raw = np.hypot(bias * clean + real, imaginary) * (brain | site.head)
    image = nibabel.Nifti1Image(np.rint(raw).clip(0, 32767).astype(np.int16), affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    return Phantom(image, clean, bias, tissues, brain, deformation)


@lru_cache(maxsize=1)
def template() -> Template:
    """ICBM152 at 1 mm, sharpened.

    An average of many brains is blurred as none of them is: squaring the tissue probabilities makes grey
    matter a ribbon again, and weighing CSF up opens the sulci.
    """
    folder = resources.files("nilearn") / "datasets" / "data"
    crop = np.s_[22:175, 23:213, 0:160]
    maps = {}
    for name in ("t1", "gm", "wm"):
        image = nibabel.load(str(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"))
        maps[name] = np.asarray(image.dataobj)[crop].astype(np.float32)
    t1, gm, wm = maps["t1"], maps["gm"] / 255, maps["wm"] / 255
    inside = ((t1 > 0) | (gm + wm > 0.1)).astype(np.float32)
    csf = np.clip(inside - gm - wm, 0, 1)
    envelope = ndimage.gaussian_filter(inside, 0.8)
    detail = t1 - TEMPLATE_CSF * csf - TEMPLATE_GM * gm - TEMPLATE_WM * wm
    detail = (detail / (TEMPLATE_WM - TEMPLATE_GM)).clip(-0.5, 0.5) * (t1 > 0)
    weights = np.stack([(2.0 * csf + 0.02) ** 2, (gm + 0.01) ** 2, (wm + 0.01) ** 2])
    tissues = envelope * weights / weights.sum(0)
    affine = image.slicer[crop].affine
    return Template(affine, tissues, detail, *_landmarks(envelope, csf, affine))


def _landmarks(envelope, csf, affine):
    """Coarse grid's affine, smoothed ventricles and distance to the hull."""
    # No margin below: fields continue with their last slice, which makes a neck.
    margin = [(MARGIN, MARGIN), (MARGIN, MARGIN), (0, MARGIN)]
    envelope, csf = (np.pad(array[::STEP, ::STEP, ::STEP], margin) for array in (envelope, csf))
    grid = affine @ np.diag([STEP, STEP, STEP, 1.0])
    grid[:3, 3] -= STEP * np.array([MARGIN, MARGIN, 0])
    # Deep CSF above the cisterns is ventricles.
    depth = ndimage.distance_transform_edt(envelope > 0.5) * STEP
    height = grid[2, 3] + STEP * np.arange(csf.shape[2])
    label, _ = ndimage.label((csf > 0.4) & (depth > 20) & (height > -6))
    ventricles = np.isin(label, np.flatnonzero(np.bincount(label.ravel())[1:] > 10) + 1)
    hull = ndimage.gaussian_filter(envelope, 5 / STEP) > 0.4
    distance = ndimage.distance_transform_edt(~hull) - ndimage.distance_transform_edt(hull)
    smooth = ndimage.gaussian_filter(ventricles.astype(np.float32), 4 / STEP)
    return grid, smooth, ndimage.gaussian_filter(STEP * distance, 1.0).astype(np.float32)


def anatomy(subject: str, seed: int, lost: float = 0.0) -> Anatomy:
    """The subject's anatomy, from (seed, subject) alone; a patient's ventricles have walls `lost` mm further out."""
    random = _random(seed, subject, "anatomy")
    normal = random.standard_normal(16).clip(-2, 2)
    pose = np.eye(4)
    # The template is larger than the brains it is made of.
    size = (0.94 + 0.03 * normal[0]) * (1 + 0.02 * normal[1:4])
    rotation = Rotation.from_euler("xyz", np.array([4.0, 2.5, 2.5]) * normal[4:7], degrees=True).as_matrix()
    pose[:3, :3] = rotation / size[:, None]
    pose[:3, 3] = CENTRE - pose[:3, :3] @ (CENTRE + 3 * normal[7:10])
    ventricles = np.clip(0.5 + 1.5 * normal[10], -1.5, 4)  # mm that their walls move outwards
    velocity = _velocity(template(), ventricles + lost, _random(seed, subject, "velocity"))
    texture = 0.02 * _smooth_noise(_random(seed, subject, "texture"), velocity.shape[1:], 7.0)
    contrast = np.exp([0.06 * normal[11], 0.02 * normal[12], 0.0])
    layers = np.array([2.0, 6.0, 5.5]) * np.exp(0.15 * normal[13:16])
    return Anatomy(pose, _exponential(velocity), texture, contrast, layers)


def voxel_grid(site: Site) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Affine (voxel to world, mm) and shape of the site's scans, whose middle is `CENTRE`."""
    shape = np.ceil(np.divide(FIELD_OF_VIEW[site.head], site.spacing)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", site.oblique, degrees=True).as_matrix() * site.spacing
    affine[:3, 3] = CENTRE - affine[:3, :3] @ ((shape - 1) / 2)
    ras, stored = (orientations.axcodes2ornt(codes) for codes in ("RAS", site.orientation))
    axes = orientations.ornt_transform(ras, stored)
    stored_shape = tuple(shape[np.argsort(axes[:, 0])].tolist())
    return affine @ orientations.inv_ornt_aff(axes, tuple(shape)), stored_shape


def _image(atlas, person, site, affine, shape):
    """Deformation, tissues and signal (contrast units) on the raw grid, averaged over thick voxels."""
    factors = np.rint(nibabel.affines.voxel_sizes(affine) / 2 + 1e-3).astype(int).clip(1)
    fine = affine @ np.diag([*(1 / factors), 1.0])
    fine[:3, 3] = affine[:3, 3] + affine[:3, :3] @ ((1 / factors - 1) / 2)
    fine_shape = tuple(np.array(shape) * factors)
    points = _template_points(atlas, person, fine, fine_shape)
    voxels = _transform(np.linalg.inv(atlas.affine), points)
    tissues = np.stack([ndimage.map_coordinates(p, voxels, order=1) for p in atlas.tissues])
    signal = np.tensordot(np.float32(site.contrast * person.contrast), tissues, 1)
    signal += (site.contrast[2] - site.contrast[1]) * ndimage.map_coordinates(atlas.detail, voxels, order=1)
    coarse = _transform(np.linalg.inv(atlas.grid_affine), points)
    if site.head:
        distance = ndimage.map_coordinates(atlas.distance, coarse, order=1, mode="nearest")
        signal += (1 - tissues.sum(0)) * _shell(distance, site.contrast[0], person.layers)
    signal *= 1 + ndimage.map_coordinates(person.texture, coarse, order=1, mode="nearest")
    deformation = points - _transform(fine, np.indices(fine_shape, np.float32))
    return _average(deformation, factors), _average(tissues, factors), _average(signal, factors).clip(0)


def _template_points(atlas, person, affine, shape):
    """Template world coordinates of each voxel, float32 (3, *shape)."""
    unposed = person.pose @ affine
    points = _transform(unposed, np.indices(shape, np.float32))
    to_grid = np.linalg.inv(atlas.grid_affine) @ unposed
    for point, component in zip(points, person.displacement, strict=True):
        point += ndimage.affine_transform(component, to_grid, output_shape=shape, order=1, mode="nearest")
    return points


def _velocity(atlas, growth, random):
    """Large and small scale, and ventricles whose walls move outwards by `growth`; (3, x, y, z) in mm."""
    shape = atlas.ventricles.shape
    large = np.stack([2.5 * _smooth_noise(random, shape, 22.0) for _ in range(3)])
    small = np.stack([1.1 * _smooth_noise(random, shape, 5.5) for _ in range(3)])
    # Folds end at the brain's surface: skull and scalp stay smooth.
    small *= expit(-(atlas.distance - 2) / 2)
    # Up the gradient is into the ventricle: a wall that lies further out is looked up further in.
    wall = np.stack(np.gradient(atlas.ventricles))
    return large + small + growth * wall / np.linalg.norm(wall, axis=0).max()


def _exponential(velocity, squarings=6):
    """Displacement in mm at time 1 of the flow along the velocity in mm.

    Scaling and squaring (Arsigny et al. 2006, "A Log-Euclidean framework for statistics on diffeomorphisms").
    """
    identity = np.indices(velocity.shape[1:], np.float32)
    displacement = (velocity / 2**squarings / STEP).astype(np.float32)
    for _ in range(squarings):
        points = identity + displacement
        displacement = displacement + np.stack(
            [ndimage.map_coordinates(d, points, order=1, mode="nearest") for d in displacement]
        )
    return displacement * np.float32(STEP)


def _shell(distance, csf, layers):
    """Signal by distance from the brain's hull in mm: CSF, dark skull with marrow, bright scalp, air."""
    skull, marrow, scalp = 0.06, 0.3, 0.95
    surfaces = np.cumsum(layers)
    gap, bone, skin = (expit((distance - surface) / 0.6) for surface in surfaces)
    middle, width = surfaces[:2].mean(), 0.2 * layers[1]
    signal = csf + (skull - csf) * gap + (scalp - skull) * bone - scalp * skin
    return signal + marrow * np.exp(-(((distance - middle) / width) ** 2))


def _bias(brain, strength, coil, random):
    """Smooth field whose logarithm has mean 0 and the standard deviation `strength` within the brain."""
    order = 4
    frequency = np.indices((order,) * 3).sum(0)
    # The scanner's own pattern, and what this head makes of it.
    coefficients = 0.8 * coil.standard_normal((order,) * 3) + 0.6 * random.standard_normal((order,) * 3)
    coefficients *= np.where(frequency < order, 2.0**-frequency, 0)
    waves = [np.cos(np.pi * np.outer(np.arange(order), (np.arange(n) + 0.5) / n)) for n in brain.shape]
    field = np.einsum("ijk,ix,jy,kz->xyz", coefficients, *waves, optimize=True)
    return np.exp(strength * (field - field[brain].mean()) / field[brain].std()).astype(np.float32)


def _smooth_noise(random, shape, sigma):
    """Gaussian noise of unit variance, smoothed by sigma in mm on the coarse grid."""
    noise = ndimage.gaussian_filter(random.standard_normal(shape, np.float32), sigma / STEP)
    return noise / noise.std()


def _random(*keys):
    """Random numbers of their own for each key."""
    digest = hashlib.sha256("\0".join(map(str, keys)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _transform(affine, points):
    """The affine applied to points (3, ...)."""
    rotation, offset = affine[:3, :3].astype(np.float32), affine[:3, 3].astype(np.float32)
    return np.tensordot(rotation, points, 1) + offset[:, None, None, None]


def _average(array, factors):
    """Means over blocks of `factors` voxels in the last three axes."""
    if (factors == 1).all():
        return array
    split = [length for n, f in zip(array.shape[-3:], factors, strict=True) for length in (n // f, f)]
    return array.reshape(*array.shape[:-3], *split).mean((-1, -3, -5))
