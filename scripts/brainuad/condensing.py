"""Training images that are never moved → what the model learns from, made of them once.

What a frozen upstream makes of an image is then the same in every epoch. Codes of 1,024 latent pixels take 4 KB.
"""

import numpy as np
import torch
from lightning_fabric import Fabric

from brainuad.models import Detector
from brainuad.sample_set import Images

__all__ = ["condensed"]


@torch.no_grad()
def condensed(
    detector: Detector, images: Images, batch_size: int, fabric: Fabric, layout: torch.memory_format
) -> np.ndarray:
    """What ``detector.condense`` makes of all images, an array (n, 1, ...) in their order.

    Args:
        detector: a model that condenses, on its device; it is in eval mode afterwards.
        images: of the training; each process goes through all of them.
        batch_size: how many at once.
        fabric: of the training, for device and precision.
        layout: of a batch in memory.
    """
    detector.eval()
    parts = []
    for batch in images.batches(batch_size):
        x = fabric.to_device(torch.from_numpy(batch)).contiguous(memory_format=layout)
        with fabric.autocast():
            parts.append(detector.condense(x).cpu().numpy())
    return np.concatenate(parts)
