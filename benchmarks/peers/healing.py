"""Likelihood, healing and sampling as in MONAI's tutorial: the whole prefix through the network for every token."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from monai.inferers import VQVAETransformerInferer
from monai.networks.nets import DecoderOnlyTransformer
from monai.utils import Ordering
from torch import Tensor, nn
from torch.nn import functional as F

CODES = SimpleNamespace(index_quantize=lambda codes: codes)  # a VQ-VAE whose images are codes


def monai_transformer(ours: nn.Module, flash: bool) -> DecoderOnlyTransformer:
    """MONAI's network with the weights, and on the device, of ours; flash is its ``use_flash_attention``."""
    depth = len(ours.blocks)
    theirs = DecoderOnlyTransformer(
        ours.tokens + 1, ours.length, ours.width, depth, ours.heads, use_flash_attention=flash
    )
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    if unexpected or any("causal_mask" not in name and "cross_attn" not in name for name in missing):
        raise ValueError(f"MONAI's transformer has other weights: {unexpected} are new, {missing} are missing.")
    return theirs.to(ours.to_logits.weight.device).train(ours.training)


def tutorial_healing(
    inferer, vqvae: nn.Module, transformer: nn.Module, ordering: Ordering, x: Tensor, quantile: float
) -> Tensor:
    """The tutorial's healing of one image around an inferer, from its description: codes (height, width).

    Codes strictly below the quantile of the image's own log-likelihoods are walked through in order; each becomes the
    most likely one given the codes before it as they then are, the beginning of sequences left out.
    """
    likelihood = inferer.get_likelihood(
        inputs=x, vqvae_model=vqvae, transformer_model=transformer, ordering=ordering, verbose=False
    )
    latent = vqvae.index_quantize(x)
    order = ordering.get_sequence_ordering()
    mask = (likelihood < likelihood.quantile(quantile)).reshape(1, -1)[:, order]
    sequence = F.pad(latent.reshape(1, -1)[:, order], (1, 0), value=transformer.num_tokens - 1)
    for place in mask[0].nonzero()[:, 0].tolist():
        logits = transformer(sequence[:, : place + 1])
        probabilities = logits[:, -1].softmax(-1)
        probabilities[:, transformer.num_tokens - 1] = 0
        sequence[:, place + 1] = probabilities.argmax(-1)
    return sequence[:, 1:][:, ordering.get_revert_sequence_ordering()].view(latent.shape)


@torch.no_grad()
def heal_codes(transformer: DecoderOnlyTransformer, codes: Tensor, quantile: float) -> Tensor:
    """``tutorial_healing`` with MONAI's inferer of the codes (1, height, width) of an image, in raster order."""
    codes_of_nothing = SimpleNamespace(**vars(CODES), num_embeddings=transformer.num_tokens - 1)
    ordering = Ordering("raster_scan", 2, (1, *codes.shape[1:]))
    return tutorial_healing(VQVAETransformerInferer(), codes_of_nothing, transformer, ordering, codes, quantile)


@torch.no_grad()
def naive(transformer: nn.Module, sequence: Tensor, mask: Tensor, uniforms: Tensor | None = None) -> Tensor:
    """Replace tokens of each sequence alone, running the whole prefix through the network for each.

    Args:
        transformer: MONAI's or ours; the last of its tokens begins sequences.
        sequence: tokens (count, length).
        mask: which to replace.
        uniforms: random numbers that pick from the cumulative distribution, where the tutorial's sampling calls
            ``multinomial``, whose draws nobody can repeat; None takes the most likely token.
    """
    beginning, healed = transformer.to_logits.out_features - 1, sequence.clone()
    for i, j in mask.nonzero().tolist():
        prefix = F.pad(healed[i : i + 1, :j], (1, 0), value=beginning)
        probabilities = transformer(prefix)[0, -1].double().softmax(-1)
        probabilities[beginning] = 0
        if uniforms is None:
            healed[i, j] = probabilities.argmax()
        else:
            cumulative = (probabilities / probabilities.sum()).cumsum(-1)
            healed[i, j] = torch.searchsorted(cumulative, uniforms[i, j], right=True)
    return healed


def prefix_pass(transformer: DecoderOnlyTransformer, length: int, images: int = 1) -> Callable[[], Tensor]:
    """What a loop does for one token of so many images: the network over a prefix of so many inputs."""
    inputs = torch.zeros(images, length, dtype=torch.long, device=transformer.to_logits.weight.device)

    @torch.no_grad()
    def run() -> Tensor:
        return transformer(inputs)[:, -1].softmax(-1)

    return run


def computed_seconds(prefixes: Sequence[float], lengths: Sequence[int], places: Sequence[int]) -> float:
    """What a loop takes for tokens at these places of the sequence, from passes over prefixes of some lengths."""
    return float(np.interp(np.asarray(places) + 1, lengths, prefixes).sum())
