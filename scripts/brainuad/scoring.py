"""Trained model and sample set → reconstructions and anomaly maps.

The components of a map are kept beside it, so that other combinations, regions and thresholds cost no GPU:

* ``reconstruction.npy``  what the model holds for the healthy image, clamped to [0, 1]
* ``residual.npy``        ``|x - reconstruction|``, in [0, 1]
* ``perceptual.npy``      smoothed LPIPS distance of the two, 0 or greater
* ``map.npy``             the model's anomaly map, by default residual times perceptual; higher: more abnormal. With
                          ``map: equalised`` that of the published code of RA (Bercea et al., MIDL 2023): both images
                          are equalised (CLAHE) for the residual, which a second distance, of the equalised, weights

each float32 (n, 1, *size), ``table.tsv`` with the row of each in the sample set (column ``sample``), and ``cost.json``
with the time it took and on what.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from brainuad.equalisation import equalise
from brainuad.gpus import automatic_device
from brainuad.models import Detector, load
from brainuad.perceptual import PerceptualDistance, as_images, as_slices
from brainuad.sample_set import SampleSet

__all__ = ["ARRAYS", "score"]

ARRAYS = ("reconstruction", "residual", "perceptual", "map")


def score(model: Path, samples: Path, trunk: Path, folder: Path, settings: dict) -> None:
    """Score the validation and test samples of a set; training samples are left out.

    Args:
        model: weights of a trained model, its description beside it.
        samples: folder of the sample set.
        trunk: weights of the perceptual distance's trunk.
        folder: where the arrays, the table and the cost go; each appears only when all are whole.
        settings: ``batch_size``, ``smoothing`` (pixels), ``trunk`` (``alex``, the default, ``squeeze`` or ``vgg``),
            ``map`` (``product``, the default, or ``equalised``) and ``device`` (``auto``, ``cpu`` or ``cuda``).

    Raises:
        ValueError: no sample to score, or a reconstruction with values that are not numbers.
    """
    began, samples, folder = time.monotonic(), SampleSet(samples), Path(folder)
    rows = samples.rows("validation", "test")
    if len(rows) == 0:
        raise ValueError(f"{samples.folder} has no validation or test samples: change the `split` of its dataset.")
    device = device_of(settings["device"])
    detector = load(model).eval().to(device)
    perceptual = PerceptualDistance(trunk, settings["smoothing"], settings.get("trunk", "alex")).to(device)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: partial(folder, f"{name}.npy") for name in ARRAYS}
    shape = (len(rows), 1, *samples.size)
    arrays = {name: open_memmap(path, "w+", np.float32, shape) for name, path in paths.items()}
    for start in range(0, len(rows), settings["batch_size"]):
        batch = rows[start : start + settings["batch_size"]]
        x = torch.from_numpy(samples.images[batch]).to(device)
        for name, maps in components(detector, perceptual, x, settings.get("map", "product")).items():
            if not torch.isfinite(maps).all():
                raise ValueError(f"The {name} of {model} on {samples.folder} is not finite: train it again.")
            arrays[name][start : start + len(batch)] = maps.cpu().numpy()
    cost = {"wall_seconds": time.monotonic() - began, "gpus": int(device.type == "cuda"), "device": str(device)}
    finish(folder, arrays, samples.table.iloc[rows].assign(sample=rows), cost)
    print(f"{model}: {len(rows)} samples of {samples.folder} scored on {device}")


@torch.inference_mode()
def components(
    detector: Detector, perceptual: PerceptualDistance, x: Tensor, kind: str = "product"
) -> dict[str, Tensor]:
    """The arrays of one batch.

    Args:
        detector: a model in eval mode.
        perceptual: the distance.
        x: images (b, 1, *size) in [0, 1].
        kind: of the map: ``product``, or ``equalised`` for the models whose map is residual times perceptual.

    Returns:
        A tensor (b, 1, *size) for each name in ``ARRAYS``.
    """
    reconstruction = detector.reconstruct(x).float()
    reconstruction = reconstruction.where(reconstruction.isfinite(), torch.nan)  # clamping would hide infinity
    reconstruction = reconstruction.clamp(0, 1)
    distance, shown = perceptual(x, reconstruction), (x, reconstruction)
    factor = distance
    if kind == "equalised" and type(detector).score is Detector.score:
        shown = equalised(x), equalised(reconstruction)
        factor = distance * perceptual(*shown)
    return {
        "reconstruction": reconstruction,
        "residual": (x - reconstruction).abs(),
        "perceptual": distance,
        "map": detector.score(*shown, factor).float(),
    }


def equalised(x: Tensor) -> Tensor:
    """Images (b, 1, *size) in [0, 1] after CLAHE of each axial slice."""
    slices = as_slices(x)
    array = torch.from_numpy(equalise(slices[:, 0].cpu().numpy()))[:, None]
    return as_images(array.to(x), x.shape)


def device_of(name: str) -> torch.device:
    """The device of that name; ``auto`` is the GPU where there is one.

    Raises:
        ValueError: there is no GPU, or the installed torch cannot use the one that was given.
    """
    device = torch.device(automatic_device(name))
    if device.type == "cuda":
        from brainuad.devices import prepare_gpu  # brings Fabric, whose second a job on a CPU spares

        prepare_gpu("32-true", 0)
    return device


def partial(folder: Path, name: str) -> Path:
    """Where a file lies while it is written; always the same, so that a second try leaves nothing behind."""
    return folder / f".{name}.partial"


def finish(folder: Path, arrays: dict[str, np.ndarray], table, cost: dict) -> None:
    """Write what is in memory to the disk, then give each file its name."""
    for array in arrays.values():
        array.flush()
    table.to_csv(partial(folder, "table.tsv"), sep="\t", index=False)
    partial(folder, "cost.json").write_text(json.dumps(cost, indent=2) + "\n", encoding="utf-8")
    for name in (*(f"{name}.npy" for name in arrays), "table.tsv", "cost.json"):
        partial(folder, name).rename(folder / name)
