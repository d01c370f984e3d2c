"""Every model in its tiny preset, and images that it can learn from in a few steps."""

import importlib

import numpy as np
import pytest
import torch

from brainuad.models import create

SIZES = [(32, 32), (16, 16, 16)]
both_sizes = pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])


def brains(count, size, seed=0):
    """Bright ellipsoids of random place on black, smooth enough for a tiny model to learn in a few steps."""
    source = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in size], indexing="ij")
    images = []
    for _ in range(count):
        centre = source.uniform(-0.2, 0.2, len(size))
        distance = sum((axis - c) ** 2 for axis, c in zip(axes, centre, strict=True))
        images.append(np.clip(0.9 - distance, 0, 1) * (distance < 0.6))
    return torch.tensor(np.array(images)[:, None], dtype=torch.float32)


def build(class_name, size):
    """A model in its tiny preset, on a tiny upstream if it needs one."""
    torch.manual_seed(0)
    module, name = class_name.split(".")
    cls = getattr(importlib.import_module(f"brainuad.models.{module}"), name)
    upstream = build(cls.requires, size) if cls.requires else None
    model = create(class_name, size, cls.tiny, upstream)
    if not trainable(model):
        model.fit([brains(4, size, seed).numpy() for seed in range(2)])
    return model


def trainable(model):
    return any(p.requires_grad for p in model.parameters())


def backward(loss, **options):
    loss.backward(**options)


def use_all_codes(upstream, x):
    """Put the codebook where an untrained encoder sends the images."""
    z = upstream.network.encode(x).movedim(1, -1).flatten(0, -2)
    spread = z[z[:, 0].argsort()][:: len(z) // upstream.codes][: upstream.codes]
    upstream.network.quantizer.quantizer.embedding.weight.data = spread.detach().clone()
