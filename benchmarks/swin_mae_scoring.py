"""Reconstruction by the Swin MAE: four masks that complement one another, against 30 random ones and their nan-mean."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from peers.swin_mae import like
from side_by_side import ROOT, Row, alternate, main, ratio
from simulated import abnormal, slices
from sklearn.metrics import average_precision_score, roc_auc_score
from steps import Training, noise
from torch import Tensor

from brainuad.gpus import automatic_device
from brainuad.models import Detector, create
from brainuad.models.swin_mae import enlarge
from brainuad.perceptual import PerceptualDistance

BATCH, SIDE, ROUNDS = 8, 128, 5
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
PEER = "30 random masks, nan-mean, plain network"
NARROW = {"width": 48, "heads": [2, 4, 8, 16]}


def measure_speed(batch: int, side: int, rounds: int, params: dict | None) -> Iterator[Row]:
    """Seconds of a batch, by a model of full size, and how often each of its pixels is predicted."""
    torch.manual_seed(0)
    model = create("swin_mae.SwinMAE", (side, side), params or {}).eval().to(automatic_device("auto"))
    plain, x = like(model), torch.from_numpy(noise(batch, side)).to(model.mask_token.device)

    def work(network: torch.nn.Module) -> Callable[[], Tensor]:
        return torch.inference_mode()(lambda: network.reconstruct(x))

    goal = f"Swin MAE, reconstruction of {batch} images of {side} × {side}"
    yield ratio(goal, PEER, 7, *alternate(work(plain), work(model), rounds=rounds))
    passes = [enlarge(model.hide(dealing[None], k), 4) for dealing in model.dealings for k in range(model.groups)]
    yield Row("... predictions of a pixel, at least", "", 3, int(torch.stack(passes).sum(0).min()), unit="")


def trained(updates: int, side: int, subjects: int, params: dict) -> tuple[Detector, tuple[np.ndarray, np.ndarray]]:
    """A model that has learnt simulated brains, and slices of other brains with an anomaly each, and their masks."""
    torch.manual_seed(0)
    healthy, _ = slices(range(subjects), 24, side)
    model = create("swin_mae.SwinMAE", (side, side), params)
    model = Training(model, healthy, 2e-3, 8, {"rotation": 3.0, "translation": 0.02, "scaling": 0.03}).learn(updates)
    brains = slices(range(subjects, subjects + 2), 24, side)
    return model, abnormal(*brains, (5 * side // 32, 15 * side // 64))  # 20 to 30 pixels of 128


@torch.inference_mode()
def measure_quality(model: Detector, images: np.ndarray, masks: np.ndarray, trunk_path=TRUNK) -> Iterator[Row]:
    """How well either reconstruction finds the anomalies, as the study's maps and pooled pixels measure it."""
    device, plain = model.mask_token.device, like(model)
    perceptual, found = PerceptualDistance(trunk_path, 2.0).to(device), {}
    for name, network in (("ours", model), ("theirs", plain)):
        maps = []
        for part in torch.from_numpy(images).split(8):
            x = part.to(device)
            reconstruction = network.reconstruct(x).clamp(0, 1)
            maps.append(model.score(x, reconstruction, perceptual(x, reconstruction)).cpu().numpy())
        pair = masks.ravel(), np.concatenate(maps).ravel()
        found[name] = {"AUROC": roc_auc_score(*pair), "AUPRC": average_precision_score(*pair)}
    for metric, own in found["ours"].items():
        theirs = found["theirs"][metric]
        note = f"{own:.4f} against {theirs:.4f}, {len(images)} simulated images"
        goal = f"... difference in {metric}, a model trained for this"
        yield Row(goal, PEER, 0.005, abs(own - theirs), unit="", at_least=False, note=note)


def measure(
    batch: int = BATCH,
    side: int = SIDE,
    rounds: int = ROUNDS,
    params: dict | None = None,
    updates: int = 300,
    subjects: int = 8,
    narrow: dict = NARROW,
) -> Iterator[Row]:
    """The ratio, the coverage, and what it costs in quality."""
    yield from measure_speed(batch, side, rounds, params)
    model, data = trained(updates, side, subjects, narrow)
    yield from measure_quality(model, *data)


if __name__ == "__main__":
    main(measure)
