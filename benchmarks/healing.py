"""Likelihood and healing of codes, with cached keys and values and in batches, against the tutorial's loop."""

from collections.abc import Iterator
from statistics import median

import numpy as np
import torch
from peers.healing import computed_seconds, heal_codes, monai_transformer, prefix_pass
from side_by_side import Row, alternate, main, ratio
from simulated import abnormal, slices
from steps import Training
from torch import Tensor

from brainuad.gpus import automatic_device
from brainuad.models import Detector, create
from brainuad.models.healing import Cache, heal, log_likelihood

BATCH, LENGTHS, ROUNDS, QUANTILES = 8, (32, 128, 256, 384, 512, 640, 768, 896, 1024), 3, (0.03, 0.1)
PLAIN = "MONAI's tutorial, token by token"
FLASH = f"{PLAIN}, `use_flash_attention=True`"


def untrained(side: int, params: dict | None = None) -> Detector:
    """A transformer for so many codes along each side; the VQ-VAE beneath it is not used."""
    torch.manual_seed(0)
    vqvae = create("vqvae.VQVAE", (4 * side, 4 * side), {"channels": [8, 8], "residual_units": 1})
    detector = create("vqvae_transformer.VQVAETransformer", vqvae.size, params or {}, vqvae)
    return detector.eval().to(automatic_device("auto"))


@torch.inference_mode()
def ours(detector: Detector, codes: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """Healed codes (count, length) and which were replaced, as ``VQVAETransformer.reconstruct`` has them."""
    detector.quantile, transformer = quantile, detector.transformers[0]
    sequence, cache = codes.flatten(1), Cache(transformer, len(codes))
    mask = detector.unlikely(log_likelihood(transformer, sequence, cache))
    return heal(transformer, sequence, mask, cache), mask


def measure_speed(batch: int, side: int, lengths: tuple[int, ...], rounds: int, params: dict | None) -> Iterator[Row]:
    """Seconds per image of ours in a batch, of the loops for the first of its images."""
    detector = untrained(side, params)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 16, (batch, side, side)))
    codes = codes.to(detector.orders.device)
    plain, flash = (monai_transformer(detector.transformers[0], kind) for kind in (False, True))
    few, many = ((lambda quantile=quantile: ours(detector, codes, quantile)) for quantile in QUANTILES)
    peers = [(plain, QUANTILES[0]), (flash, QUANTILES[0]), (flash, QUANTILES[1])]
    loops = [(lambda network=network, q=q: heal_codes(network, codes[:1], q)) for network, q in peers]
    few(), many()
    works = [few, many, *loops, *(prefix_pass(plain, length) for length in lengths)]
    seconds = alternate(*works, rounds=rounds, warm=0)
    own = [[second / batch for second in kept] for kept in seconds[:2]]
    places = [work()[1][0].nonzero()[:, 0].tolist() for work in (few, many)]
    passes = list(zip(*seconds[5:], strict=True))  # by round
    # The likelihood is one pass over all inputs.
    three, ten = ([row[-1] + computed_seconds(row, lengths, where) for row in passes] for where in places)
    share = median(guess / real for guess, real in zip(three, seconds[2], strict=True))
    goal = "Likelihood and healing of {:.0f} % of " + f"{side} × {side} codes, an image"
    sizes = f"ours {batch} images at a time"
    yield ratio(goal.format(3), PLAIN, 40, seconds[2], own[0], sizes)
    note = f"the loop's time computed from {len(lengths)} prefixes, {share:.2f} of the real one at 3 %"
    yield ratio(goal.format(10), PLAIN, 90, ten, own[1], note)
    yield ratio(goal.format(3), FLASH, 6, seconds[3], own[0])
    yield ratio(goal.format(10), FLASH, 12, seconds[4], own[1])


def trained(
    updates: tuple[int, int], side: int, subjects: int, count: int, params: dict | None
) -> tuple[Detector, Tensor]:
    """A model that has learnt simulated brains, and so many slices of others, every second with an anomaly."""
    torch.manual_seed(0)
    healthy, _ = slices(range(subjects), 24, side)
    vqvae = create("vqvae.VQVAE", (side, side), {"channels": [32, 32]})
    vqvae = Training(vqvae, healthy, 1e-3, 8).learn(updates[0]).cpu()
    detector = create("vqvae_transformer.VQVAETransformer", (side, side), params or {}, vqvae)
    detector = Training(detector, healthy, 1e-3, 8).learn(updates[1])
    images, brains = slices(range(subjects, subjects + 4), -(-count // 4), side)
    images, brains = images[:count], brains[:count]
    images[::2] = abnormal(images, brains, (side // 6, side // 4))[0][::2]
    return detector, torch.from_numpy(images).to(detector.orders.device)


def gap(transformer: torch.nn.Module, sequence: Tensor, other: Tensor) -> float:
    """How far apart the logits of two healings' tokens are where they part first."""
    place = int((sequence != other).nonzero()[0])
    logits = transformer(transformer.shift(sequence[None]))[0, place]
    return float((logits[sequence[place]] - logits[other[place]]).abs())


@torch.no_grad()
def measure_sameness(detector: Detector, x: Tensor) -> Iterator[Row]:
    """On how many images both healings end with the same tokens at both quantiles."""
    transformer, codes = detector.transformers[0], detector.upstream.encode(x)
    networks, same, gaps, replaced = [monai_transformer(transformer, kind) for kind in (False, True)], [], [], []
    for network, quantile in zip(networks, QUANTILES, strict=True):
        own, mask = ours(detector, codes, quantile)
        theirs = torch.cat([heal_codes(network, image, quantile) for image in codes.split(1)]).flatten(1)
        same.append((own == theirs).all(1))
        gaps += [gap(transformer, *pair) for pair in zip(own, theirs, strict=True) if not torch.equal(*pair)]
        replaced.append((own != codes.flatten(1))[mask].float().mean().item())
    note = f"{codes[0].numel()} codes; of those looked at {replaced[0]:.0%} and {replaced[1]:.0%} change"
    if gaps:
        note += f"; logits of tokens that differ lie at most {max(gaps):.1e} apart"
    goal = f"... images of {len(x)} with identical codes at 3 % and at 10 %, by a trained model"
    equal = int(torch.stack(same).all(0).sum())
    yield Row(goal, f"{PLAIN}, without flash at 3 %, with it at 10 %", len(x), equal, unit="", note=note)


def measure(
    batch: int = BATCH,
    side: int = 32,
    lengths: tuple[int, ...] = LENGTHS,
    rounds: int = ROUNDS,
    updates: tuple[int, int] = (300, 150),
    subjects: int = 8,
    count: int = 64,
    params: dict | None = None,
) -> Iterator[Row]:
    """The ratios, and whether tokens are identical."""
    yield from measure_speed(batch, side, lengths, rounds, params)
    yield from measure_sameness(*trained(updates, 2 * side, subjects, count, params))


if __name__ == "__main__":
    main(measure)
