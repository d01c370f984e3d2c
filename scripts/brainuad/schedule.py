"""How fast a training learns as it goes on."""

import math

__all__ = ["learning_rate"]


def learning_rate(epoch: float, epochs: int, lr: float, min_lr: float | None = None, warmup_epochs: float = 0) -> float:
    """Rate of one update: linear from 0 over the warm-up, then constant or half a cosine down to ``min_lr``.

    Args:
        epoch: epochs that lie behind, in [0, epochs), with a fraction within one.
        epochs: of the whole run.
        lr: the peak.
        min_lr: where the cosine ends; None for a constant rate.
        warmup_epochs: length of the linear part.
    """
    if epoch < warmup_epochs:
        return lr * epoch / warmup_epochs
    if min_lr is None:
        return lr
    share = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * share)) / 2
