"""A training step of the VQ-VAE's transformer: brainuad's training against the tutorial's, plain and with flash."""

import copy
from collections.abc import Callable, Iterator

import torch
from peers.healing import monai_transformer
from side_by_side import Row, main, ratio
from steps import Training, alternate_steps, noise, use_of_machine
from torch import Tensor, nn
from torch.nn import functional as F

from brainuad.models import create

BATCH, SIDE, LR, ROUNDS = 4, 128, 1e-4, 5
PLAIN = "MONAI's tutorial: `DecoderOnlyTransformer` and `Adam`, codes encoded anew in each step"
FLASH = f"{PLAIN}, `use_flash_attention=True`"


def tutorial(network: nn.Module, vqvae: nn.Module, x: Tensor) -> Callable[[], tuple[Tensor]]:
    """The tutorial's step: encode, predict each code from those before it, update."""
    optimizer = torch.optim.Adam(network.parameters(), LR)

    def step() -> tuple[Tensor]:
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            codes = vqvae.index_quantize(x).flatten(1)
        logits = network(F.pad(codes, (1, 0), value=network.num_tokens - 1)[:, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), codes)
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    return step


def measure(
    batch: int = BATCH, side: int = SIDE, rounds: int = ROUNDS, channels: int = 256, params: dict | None = None
) -> Iterator[Row]:
    """Both ratios, and whether all learn the same."""
    torch.manual_seed(0)
    vqvae = create("vqvae.VQVAE", (side, side), {"channels": [channels, channels]})
    detector = create("vqvae_transformer.VQVAETransformer", (side, side), params or {}, vqvae)
    networks = [monai_transformer(detector.transformers[0], flash) for flash in (False, True)]
    encoder = copy.deepcopy(vqvae.network).eval()  # before training lays its weights out in its own way
    images = noise(batch, side)
    moving = Training(copy.deepcopy(detector), images, LR, moved={})
    training = Training(detector, images, LR)
    encoder.to(training.x.device)
    plain, flash = (tutorial(network.to(training.x.device).train(), encoder, training.x) for network in networks)
    (own, fast, slow, encoding), same, operations = alternate_steps(
        training, ["loss"], flash, plain, moving.step, against=FLASH, rounds=rounds
    )
    goal = f"Transformer, training step, {batch} images of {side // 4} × {side // 4} codes"
    kinds = {"images moved at random, as by default": encoding, "images as they are, which ours encodes once": own}
    for note, seconds in kinds.items():
        for against, theirs, wanted in ((PLAIN, slow, 9), (FLASH, fast, 1.15)):
            yield ratio(goal, against, wanted, theirs, seconds, note)
    yield same
    yield from use_of_machine(operations, training, flash, own)


if __name__ == "__main__":
    main(measure)
