"""Sequences of codes drawn from nothing, with cached keys and values and in batches, against the tutorial's loop."""

from collections.abc import Iterator

import torch
from healing import LENGTHS, untrained
from peers.healing import computed_seconds, monai_transformer, naive, prefix_pass
from side_by_side import Row, alternate, main, on_gpu, ratio

from brainuad.models.healing import sample

BATCH, ROUNDS = 8, 5
PEER = "MONAI's tutorial, `sample`, token by token"
FLASH = f"{PEER}, `use_flash_attention=True`"


def random_numbers(count: int, side: int, device: torch.device) -> torch.Tensor:
    """Uniforms (count, side * side)."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, side * side, dtype=torch.float64, generator=generator).to(device)


def measure(
    batch: int = BATCH,
    side: int = 32,
    lengths: tuple[int, ...] = (1, *LENGTHS),
    rounds: int = ROUNDS,
    params: dict | None = None,
) -> Iterator[Row]:
    """Both ratios, and whether the same uniforms give the same tokens."""
    small = untrained(side // 4, params)
    uniforms = random_numbers(2 * batch, side // 4, small.orders.device)
    expected = naive(
        monai_transformer(small.transformers[0], False),
        torch.zeros_like(uniforms, dtype=torch.long),
        torch.ones_like(uniforms, dtype=torch.bool),
        uniforms,
    )
    same = int((sample(small.transformers[0], uniforms) == expected).all(1).sum())

    detector = untrained(side, params)
    uniforms = random_numbers(batch, side, detector.orders.device)
    networks = [monai_transformer(detector.transformers[0], flash) for flash in (False, True)]
    together = batch if on_gpu() else 1  # on a processor long prefixes of many images take longer, each
    passes = [prefix_pass(network, length, together) for network in networks for length in lengths]
    own, *seconds = alternate(lambda: sample(detector.transformers[0], uniforms), *passes, rounds=rounds, warm=0)
    own = [second / batch for second in own]
    goal = f"Sampling of {side} × {side} codes, an image"
    note = f"{batch} images at a time, by the loop {together}, whose time is computed from passes over {len(lengths)} "
    note += "prefixes"
    for against, wanted, part in ((PEER, 250, seconds[: len(lengths)]), (FLASH, 35, seconds[len(lengths) :])):
        theirs = [computed_seconds(row, lengths, range(side * side)) / together for row in zip(*part, strict=True)]
        yield ratio(goal, against, wanted, theirs, own, note)
    goal = f"... sequences of {2 * batch} with identical codes for the same uniforms, {side // 4} × {side // 4}"
    against = f"{PEER}, uniforms in place of `multinomial`"
    yield Row(goal, against, 2 * batch, same, unit="", note="by an untrained model")


if __name__ == "__main__":
    main(measure)
