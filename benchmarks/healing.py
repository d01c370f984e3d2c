"""Likelihood, healing and sampling of codes, with cached keys and values and in batches, against the tutorial's loops.

A loop takes one pass over a prefix for each token, so that its time can be computed from passes over prefixes of some
lengths, which take turns with ours.
"""

from collections.abc import Iterator
from statistics import median

import numpy as np
import torch
from peers.healing import computed_seconds, heal_codes, monai_transformer, naive, prefix_pass
from side_by_side import Row, alternate, main, on_gpu, ratio
from simulated import abnormal, slices
from steps import Training, use_of_gpu
from torch import Tensor

from brainuad.gpus import automatic_device
from brainuad.models import Detector, create
from brainuad.models.healing import Cache, heal, log_likelihood, sample

BATCH, LENGTHS, ROUNDS, QUANTILES = 8, (1, 32, 128, 256, 512, 640, 768, 1024), 5, (0.03, 0.1)
PLAIN, SAMPLE = "MONAI's tutorial, token by token", "MONAI's tutorial, `sample`, token by token"
FLASH, WITH_FLASH = (f"{peer}, `use_flash_attention=True`" for peer in (PLAIN, SAMPLE))


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


@torch.inference_mode()
def unlikely_places(detector: Detector, codes: Tensor, quantile: float) -> list[list[int]]:
    """Where the codes of each image are unlikely, in the order of the sequence."""
    detector.quantile, transformer = quantile, detector.transformers[0]
    sequence = codes.flatten(1)
    mask = detector.unlikely(log_likelihood(transformer, sequence, Cache(transformer, len(codes))))
    return [image.nonzero()[:, 0].tolist() for image in mask]


def random_numbers(count: int, side: int, device: torch.device) -> Tensor:
    """Uniforms (count, side * side)."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, side * side, dtype=torch.float64, generator=generator).to(device)


def measure_speed(batch: int, side: int, lengths: tuple[int, ...], rounds: int, params: dict | None) -> Iterator[Row]:
    """Seconds per image of ours in a batch, and of the loops for one of its images, in the mean of all.

    The loops of healing run at 3 %, the plain one once, with that image whose unlikely codes lie most nearly where they
    lie in the mean.
    """
    detector = untrained(side, params)
    codes = torch.from_numpy(np.random.default_rng(0).integers(0, 16, (batch, side, side)))
    codes = codes.to(detector.orders.device)
    uniforms = random_numbers(batch, side, codes.device)
    networks = [monai_transformer(detector.transformers[0], flash) for flash in (False, True)]
    places = [unlikely_places(detector, codes, quantile) for quantile in QUANTILES]
    prefixes = [sum(where) + len(where) for where in places[0]]  # inputs of all passes at 3 %
    usual = int(np.abs(np.subtract(prefixes, np.mean(prefixes))).argmin())
    image = codes[usual : usual + 1]
    healings = [(lambda quantile=quantile: ours(detector, codes, quantile)) for quantile in QUANTILES]
    plain, flash = ((lambda network=network: heal_codes(network, image, QUANTILES[0])) for network in networks)
    # Sampling may have many images at a time: on a processor each of them then takes longer, by long prefixes.
    together = [1, batch] if on_gpu() else [1]
    passes = [prefix_pass(network, length, n) for n in together for network in networks for length in lengths]
    works = *healings, lambda: sample(detector.transformers[0], uniforms), flash, *passes
    three, ten, drawn, real, *seconds = alternate(*works, rounds=rounds, warm=0)
    once = alternate(plain, rounds=1, warm=0)[0][0]
    three, ten, drawn = ([second / batch for second in kept] for kept in (three, ten, drawn))
    parts = [seconds[start : start + len(lengths)] for start in range(0, len(seconds), len(lengths))]

    def computed(prefixes: list[list[float]], images: list[list[int]]) -> list[float]:
        """Seconds of the loop for an image by round; the likelihood is one pass over all inputs."""
        rows = zip(*prefixes, strict=True)
        return [row[-1] + np.mean([computed_seconds(row, lengths, where) for where in images]) for row in rows]

    slow, fast = ([computed(part, images) for images in places] for part in parts[:2])
    checks = [median(computed(part, places[0][usual : usual + 1])) for part in parts[:2]]  # of what the loops ran on
    goal, sizes = "Likelihood and healing of {} % of " + f"{side} × {side} codes, an image", f"ours {batch} at a time"
    note = sizes + f"; the loop's time computed from passes over {len(lengths)} prefixes, " + "{:.2f} of {} at 3 %"
    of_plain = note.format(checks[0] / once, "a real loop's, run once, on one image,")
    of_flash = note.format(checks[1] / median(real), "the real loop's")
    yield ratio(goal.format(3), PLAIN, 40, slow[0], three, of_plain)
    yield ratio(goal.format(10), PLAIN, 90, slow[1], ten, of_plain)
    yield ratio(goal.format(3), FLASH, 6, real, three, f"{sizes}; the loop on the image nearest the mean")
    yield ratio(goal.format(10), FLASH, 12, fast[1], ten, of_flash)
    yield from use_of_gpu(f"3 %, {batch} images against one", healings[0], flash, [second * batch for second in three])
    goal = f"Sampling of {side} × {side} codes, an image"
    note = f"ours {batch} at a time, the loop {together[-1]}; its time from passes over {len(lengths)} prefixes"
    for against, wanted, part in zip((SAMPLE, WITH_FLASH), (250, 35), parts[-2:], strict=True):
        rows = zip(*part, strict=True)
        theirs = [computed_seconds(row, lengths, range(side * side)) / together[-1] for row in rows]
        yield ratio(goal, against, wanted, theirs, drawn, note)


def measure_draws(batch: int, side: int, params: dict | None) -> Iterator[Row]:
    """Whether the same uniforms give the same tokens."""
    detector = untrained(side, params)
    uniforms = random_numbers(batch, side, detector.orders.device)
    nothing = torch.zeros_like(uniforms, dtype=torch.long)
    network = monai_transformer(detector.transformers[0], False)
    expected = naive(network, nothing, torch.ones_like(nothing, dtype=torch.bool), uniforms)
    same = int((sample(detector.transformers[0], uniforms) == expected).all(1).sum())
    goal = f"... sequences of {batch} with identical codes for the same uniforms, {side} × {side}"
    against = f"{SAMPLE}, uniforms in place of `multinomial`"
    yield Row(goal, against, batch, same, unit="", note="by an untrained model")


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
    likelihood = log_likelihood(transformer, codes.flatten(1)).mean().exp().item()
    note = f"{codes[0].numel()} codes, each given a probability of {likelihood:.2f} in the mean, that of chance being "
    note += f"{1 / transformer.tokens:.2f}; of those looked at {replaced[0]:.0%} and {replaced[1]:.0%} change"
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
    updates: tuple[int, int] = (200, 60),
    subjects: int = 8,
    count: int = 64,
    params: dict | None = None,
    small: int = 48,
) -> Iterator[Row]:
    """The ratios, and whether tokens are identical."""
    yield from measure_speed(batch, side, lengths, rounds, params)
    yield from measure_draws(2 * batch, side // 4, params)
    yield from measure_sameness(*trained(updates, small, subjects, count, params))


if __name__ == "__main__":
    main(measure)
