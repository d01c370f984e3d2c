"""Reconstruction by the Swin MAE: four masks that complement one another, against 30 random ones and their nan-mean."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from peers.swin_mae import like
from side_by_side import ROOT, Row, alternate, main, ratio
from simulated import abnormal, slices
from sklearn.metrics import average_precision_score, roc_auc_score
from steps import Training, noise, use_of_gpu
from torch import Tensor

from brainuad.gpus import automatic_device
from brainuad.models import Detector, create
from brainuad.models.swin_mae import enlarge
from brainuad.perceptual import PerceptualDistance

BATCH, SIDE, ROUNDS = 8, 128, 5
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
PEER = "30 random masks, nan-mean, plain network"
# The trained model: images of half the pixels with masks of the same layout, so that a minute brings it past predicting
# one brightness everywhere, which is what the median error of little training holds it at.
SMALL, LR = 64, 5e-4
NARROW = {"width": 48, "heads": [4, 8], "unit": 8, "loss": "squared", "stochastic_depth": 0.0}


def measure_speed(batch: int, side: int, rounds: int, params: dict | None) -> Iterator[Row]:
    """Seconds of a batch, by a model of full size, and how often each of its pixels is predicted."""
    torch.manual_seed(0)
    model = create("swin_mae.SwinMAE", (side, side), params or {}).eval().to(automatic_device("auto"))
    plain, x = like(model), torch.from_numpy(noise(batch, side)).to(model.mask_token.device)

    def work(network: torch.nn.Module) -> Callable[[], Tensor]:
        return torch.inference_mode()(lambda: network.reconstruct(x))

    goal = f"Swin MAE, reconstruction of {batch} images of {side} × {side}"
    theirs, own = alternate(work(plain), work(model), rounds=rounds, warm=0)
    yield ratio(goal, PEER, 7, theirs, own)
    yield from use_of_gpu("a batch", work(model), work(plain), own)
    passes = [enlarge(model.hide(dealing[None], k), 4) for dealing in model.dealings for k in range(model.groups)]
    yield Row("... predictions of a pixel, at least", "", 3, int(torch.stack(passes).sum(0).min()), unit="")


def trained(updates: int, side: int, subjects: int, params: dict) -> tuple[Detector, Tensor, np.ndarray, np.ndarray]:
    """A model that has learnt simulated brains, their mean image, and slices of other brains with masks of these."""
    torch.manual_seed(0)
    healthy, _ = slices(range(subjects), 24, side)
    model = create("swin_mae.SwinMAE", (side, side), params)
    model = Training(model, healthy, LR, 8).learn(updates, warmup=updates // 20)
    return model, torch.from_numpy(healthy.mean(0)), *slices(range(subjects, subjects + 2), 24, side)


@torch.inference_mode()
def reconstructions(network: torch.nn.Module, images: np.ndarray, device: torch.device) -> Tensor:
    """Of images (n, 1, side, side), eight at a time."""
    return torch.cat([network.reconstruct(part.to(device)) for part in torch.from_numpy(images).split(8)]).clamp(0, 1)


def measure_context(model: Detector, mean: Tensor, images: np.ndarray, brains: np.ndarray) -> Iterator[Row]:
    """How far apart both reconstructions of healthy slices lie, and whether the model is better than one without any.

    Reconstructions of a model that looks at nothing that is shown would agree whatever the masks.
    """
    device, x, inside = model.mask_token.device, torch.from_numpy(images), torch.from_numpy(brains)
    ours, theirs = (reconstructions(network, images, device).cpu() for network in (model, like(model)))
    error = [float((part - x).abs()[inside].mean()) for part in (ours, theirs, ours.flip(0), mean, torch.zeros(1))]
    note = "healthy slices; error {:.3f} against {:.3f}; {:.3f} by what was made of another slice, {:.3f} by the mean "
    note += "training image, {:.3f} by a black one"
    apart = float((ours - theirs).abs()[inside].mean())
    yield Row("... mean difference within brains", PEER, None, apart, unit="", note=note.format(*error))


def measure_quality(model: Detector, images: np.ndarray, masks: np.ndarray, trunk_path=TRUNK) -> Iterator[Row]:
    """How well either reconstruction finds the anomalies, as the study's maps and pooled pixels measure it.

    The peer's by 30 other masks tells how much of the difference is the luck of masks.
    """
    device, x = model.mask_token.device, torch.from_numpy(images)
    perceptual, plain, found = PerceptualDistance(trunk_path, 2.0).to(device), like(model), {}
    for name, network in (("ours", model), ("theirs", plain), ("again", plain)):
        parts = zip(x.to(device).split(8), reconstructions(network, images, device).split(8), strict=True)
        with torch.inference_mode():
            maps = torch.cat([model.score(*pair, perceptual(*pair)) for pair in parts]).cpu().numpy()
        pair = masks.ravel(), maps.ravel()
        found[name] = {"AUROC": roc_auc_score(*pair), "AUPRC": average_precision_score(*pair)}
    for metric, own in found["ours"].items():
        theirs = found["theirs"][metric]
        note = f"{own:.4f} against {theirs:.4f}, and {found['again'][metric]:.4f} by 30 other masks; "
        note += f"{len(images)} simulated images of {images.shape[-1]} × {images.shape[-1]}"
        goal = f"... difference in {metric}, a model trained for this"
        yield Row(goal, PEER, 0.005, abs(own - theirs), unit="", at_least=False, note=note)


def measure(
    batch: int = BATCH,
    side: int = SIDE,
    rounds: int = ROUNDS,
    params: dict | None = None,
    updates: int = 800,
    subjects: int = 8,
    small: int = SMALL,
    narrow: dict = NARROW,
) -> Iterator[Row]:
    """The ratio, the coverage, and what it costs in quality."""
    yield from measure_speed(batch, side, rounds, params)
    model, mean, *healthy = trained(updates, small, subjects, narrow)
    yield from measure_quality(model, *abnormal(*healthy, (5 * small // 32, 15 * small // 64)))  # 10 to 15 pixels of 64
    yield from measure_context(model, mean, *(part[::2] for part in healthy))


if __name__ == "__main__":
    main(measure)
