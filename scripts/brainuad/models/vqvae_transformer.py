"""VQ-VAE + Transformer: the codes of an image are read one after another, and unlikely ones are replaced.

Pinaya et al., Unsupervised brain imaging 3D anomaly detection and segmentation with transformers, Medical Image
Analysis 2022; by default in the configuration of MONAI's tutorial on anomaly detection with transformers. A
transformer learns the probability of each code of a trained VQ-VAE given all codes before it. At test time the
codes that it holds for least likely are drawn anew, each from those before it as they then are ("healing"),
and the VQ-VAE decodes the result. The paper masks by a fixed probability and samples, the tutorial masks a share
of each image's codes and takes the most likely ones; both are here.
"""

import difflib
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from brainuad.models.attention import causal
from brainuad.models.detector import Detector
from brainuad.models.healing import Cache, heal, log_likelihood, sample
from brainuad.perceptual import gaussian_matrix

__all__ = ["Transformer", "VQVAETransformer", "weights_from_monai"]


class VQVAETransformer(Detector):
    """A VQ-VAE's prior and what it heals; one transformer for each ordering, called a member.

    A sequence (b, length) holds the codes of a latent image in the order of its member.
    """

    tiny: ClassVar[dict] = {"width": 16, "depth": 2, "heads": 2}
    requires: ClassVar[str] = "vqvae.VQVAE"
    tied: ClassVar[tuple[str, ...]] = ("orderings",)
    condenses: ClassVar[bool] = True

    def __init__(
        self,
        size: Sequence[int],
        upstream: Detector,
        orderings: Sequence[str] = ("raster",),
        width: int = 128,
        depth: int = 16,
        heads: int = 16,
        quantile: float = 0.03,
        threshold: float | None = None,
        healing: str = "greedy",
        draws: int = 1,
        seed: int = 0,
        mask_residual: bool = False,
        mask_smoothing: float = 2.0,
    ):
        """Build the transformers.

        Args:
            size: pixels along each axis.
            upstream: the trained VQ-VAE.
            orderings: ``raster`` (last axis fastest), ``transposed`` (first axis fastest), either with the axes
                that are read backwards (``raster-x``, ``transposed-xy``), or ``random``, drawn here and kept with
                the weights. Each adds a transformer; reconstructions are averaged.
            width: channels of a token.
            depth: number of blocks.
            heads: of each attention.
            quantile: of an image's log-likelihoods; codes strictly below it are healed.
            threshold: probability below which a code is healed; where given, it replaces ``quantile``.
            healing: ``greedy`` takes the most likely code, ``sampled`` draws one.
            draws: how many healed versions are averaged when sampled.
            seed: of those draws. All images share the random numbers, so that none depends on its batch.
            mask_residual: whether the anomaly map is multiplied by where codes were healed.
            mask_smoothing: standard deviation of the Gaussian over that mask, pixels; 0 keeps it binary.

        Raises:
            ValueError: an argument that does not exist or is out of its range.
        """
        super().__init__(size, upstream)
        check(width % heads == 0, f"width {width} is no multiple of heads {heads}")
        check(len(orderings) > 0, "orderings is empty")
        check(0 < quantile <= 1, f"quantile {quantile} is not in (0, 1]")
        check(threshold is None or 0 < threshold <= 1, f"threshold {threshold} is not in (0, 1]")
        check(healing in ("greedy", "sampled"), f"healing {healing!r} is neither greedy nor sampled")
        check(draws >= 1 and (draws == 1 or healing == "sampled"), f"{healing} healing has no use for {draws} draws")
        check(mask_smoothing >= 0, f"mask_smoothing {mask_smoothing} is negative")
        self.quantile, self.threshold = quantile, threshold
        self.sampled, self.draws, self.seed = healing == "sampled", draws, seed
        self.mask_residual, self.mask_smoothing = mask_residual, mask_smoothing
        latent_size = upstream.latent_size
        # Fixed orders are kept too: whoever reads the weights then needs no rule for any.
        self.register_buffer("orders", torch.stack([reading_order(name, latent_size) for name in orderings]))
        self.transformers = nn.ModuleList(
            Transformer(upstream.codes, math.prod(latent_size), width, depth, heads) for _ in orderings
        )

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of each code given those before it, nats; mean over members."""
        codes = self.encode(x)
        losses = [member.loss(codes[:, order]) for member, order in self.members()]
        return {"loss": torch.stack(losses).mean()}

    def step(self, x: Tensor, optimizers: list[Optimizer], backward: Callable) -> dict[str, Tensor]:
        """One update of each member by its own loss, as if it was alone, with the memory of one graph."""
        codes, losses = self.encode(x), []
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        for member, order in self.members():
            loss = member.loss(codes[:, order])
            backward(loss, inputs=list(member.parameters()))
            losses.append(loss.detach())
        for optimizer in optimizers:
            optimizer.step()
        return {"loss": torch.stack(losses).mean()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of the decoded healed codes over members and draws; unbounded."""
        codes, total = self.encode(x), torch.zeros_like(x)
        uniforms = self.uniforms().to(x.device)  # (members, draws, length)
        for (member, order), numbers in zip(self.members(), uniforms, strict=True):
            sequence, cache = codes[:, order], Cache(member, len(x))
            mask = self.unlikely(log_likelihood(member, sequence, cache))
            for row in numbers:
                healed = heal(member, sequence, mask, cache, row.expand_as(sequence) if self.sampled else None)
                total = total + self.decode(healed, order)
        return total / (len(self.orders) * self.draws)

    def score(self, x: Tensor, reconstruction: Tensor, perceptual: Tensor) -> Tensor:
        """The residual weighted by the perceptual distance and, with ``mask_residual``, by ``mask``."""
        anomaly = super().score(x, reconstruction, perceptual)
        return anomaly * self.mask(x) if self.mask_residual else anomaly

    def mask(self, x: Tensor) -> Tensor:
        """Where codes are healed, enlarged to the image and smoothed: (b, 1, *size) in [0, 1], mean over members."""
        codes, total = self.encode(x), 0.0
        for member, order in self.members():
            unlikely = self.unlikely(log_likelihood(member, codes[:, order]))
            total = total + self.image(unlikely.to(x), order)
        mask = F.interpolate(total[:, None] / len(self.orders), size=self.size, mode="nearest")
        for axis in range(2, mask.ndim) if self.mask_smoothing > 0 else ():
            matrix = gaussian_matrix(mask.shape[axis], self.mask_smoothing).to(mask)
            mask = (mask.movedim(axis, -1) @ matrix.T).movedim(-1, axis)
        return mask

    def sample(self, count: int, uniforms: Tensor | None = None, member: int = 0) -> Tensor:
        """Images (count, 1, *size) that a member dreams up, unbounded.

        Args:
            count: how many.
            uniforms: random numbers in [0, 1) that decide each code in turn by its inverse cumulative
                distribution, (count, length); None draws them from torch's global generator.
            member: index of the ordering.
        """
        order = self.orders[member]
        if uniforms is None:
            uniforms = torch.rand(count, len(order), dtype=torch.float64, device=order.device)
        if uniforms.shape != (count, len(order)):
            raise ValueError(f"uniforms must have the shape {(count, len(order))}, not {tuple(uniforms.shape)}.")
        return self.decode(sample(self.transformers[member], uniforms), order)

    def adopt(self, weights: dict[str, Tensor]) -> None:
        """Take over a state dict of MONAI's or monai-generative's ``DecoderOnlyTransformer`` as the first member."""
        if len(self.transformers) > 1:
            raise ValueError("A checkpoint holds one transformer: name one ordering in the params.")
        self.transformers[0].load_state_dict(weights_from_monai(weights))

    def members(self) -> list[tuple["Transformer", Tensor]]:
        """Each transformer with the order in which it reads."""
        return list(zip(self.transformers, self.orders, strict=True))

    def unlikely(self, likelihood: Tensor) -> Tensor:
        """Which codes to heal, by their log-likelihoods (b, length)."""
        if self.threshold is not None:
            return likelihood < math.log(self.threshold)
        return likelihood < torch.quantile(likelihood, self.quantile, dim=1, keepdim=True)

    def uniforms(self) -> Tensor:
        """The random numbers of sampled healing, (members, draws, length), the same at each call."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (len(self.orders), self.draws, self.orders.shape[1])
        return torch.rand(shape, dtype=torch.float64, generator=generator)

    def condense(self, x: Tensor) -> Tensor:
        """Codes of images, (b, 1, *latent_size)."""
        return self.upstream.encode(x)[:, None].int()

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Codes in raster order, (b, length), int64, of images or of what ``condense`` made of them."""
        return (self.upstream.encode(x) if x.is_floating_point() else x.long()).flatten(1)

    def decode(self, sequence: Tensor, order: Tensor) -> Tensor:
        """Images (b, 1, *size) of sequences."""
        return self.upstream.decode(self.image(sequence, order))

    def image(self, sequence: Tensor, order: Tensor) -> Tensor:
        """Values read in some order put back in their places, (b, *latent_size)."""
        image = torch.empty_like(sequence)
        image[:, order] = sequence
        return image.view(-1, *self.upstream.latent_size)


class Attention(nn.Module):
    """Multi-head attention of rows (..., width); what attends to what is the caller's."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attend: Callable) -> Tensor:
        """Attend with queries, keys and values (..., heads, channels)."""
        weight = torch.cat([self.to_q.weight, self.to_k.weight, self.to_v.weight])
        q, k, v = F.linear(x, weight).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return self.out_proj(attend(q, k, v).flatten(-2))


class Block(nn.Module):
    """Attention and a perceptron, each after a layer norm and around a skip connection."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.mlp = nn.Sequential(
            OrderedDict(linear1=nn.Linear(width, 4 * width), gelu=nn.GELU(), linear2=nn.Linear(4 * width, width))
        )

    def forward(self, x: Tensor, attend: Callable) -> Tensor:
        """Rows (..., width)."""
        x = x + self.attn(self.norm1(x), attend)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Decoder-only transformer without a norm after its last block; names of weights are MONAI's."""

    def __init__(self, tokens: int, length: int, width: int, depth: int, heads: int):
        """Build it for sequences of that many tokens; one more token, the last, begins every sequence."""
        super().__init__()
        self.tokens, self.length, self.width, self.heads = tokens, length, width, heads
        self.token_embeddings = nn.Embedding(tokens + 1, width)
        self.position_embeddings = nn.ModuleDict({"embedding": nn.Embedding(length, width)})
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.to_logits = nn.Linear(width, tokens + 1)

    def loss(self, sequence: Tensor) -> Tensor:
        """Mean cross-entropy of the tokens of sequences (b, length), nats."""
        return F.cross_entropy(self(self.shift(sequence)).flatten(0, 1), sequence.flatten())

    def shift(self, sequence: Tensor) -> Tensor:
        """Inputs (b, length) that the tokens of sequences are predicted from: a beginning, then all but the last."""
        return F.pad(sequence, (1, 0), value=self.tokens)[:, :-1]

    def forward(self, inputs: Tensor, attends: list[Callable] | None = None) -> Tensor:
        """Logits (b, n, tokens + 1), at each position about what follows input n there."""
        positions = torch.arange(inputs.shape[1], device=inputs.device)
        return self.to_logits(self.hidden(inputs, positions, attends or [attend_back] * len(self.blocks)))

    def hidden(self, inputs: Tensor, positions: Tensor, attends: list[Callable]) -> Tensor:
        """Output of the last block, (*inputs.shape, width), each block attending in its own way."""
        x = self.token_embeddings(inputs) + self.position_embeddings["embedding"](positions)
        for block, attend in zip(self.blocks, attends, strict=True):
            x = block(x, attend)
        return x


def attend_back(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention within sequences (b, n, heads, channels), each position looking back."""
    q, k, v = (part.transpose(1, 2).contiguous() for part in (q, k, v))  # heads of few channels lie apart otherwise
    return causal(q, k, v).transpose(1, 2)


def weights_from_monai(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of a ``Transformer`` from that of a ``DecoderOnlyTransformer`` without conditioning.

    Left out is what takes no part: causal masks and, in MONAI, cross-attention and its norm.

    Args:
        weights: of MONAI (1.4 or later) or of monai-generative, which has a ``norm3`` for ``norm2``.
    """
    unused = ("causal_mask", "cross_attn")
    return {name.replace("norm3", "norm2"): w for name, w in weights.items() if not any(u in name for u in unused)}


def check(condition: bool, mistake: str) -> None:
    """Refuse arguments."""
    if not condition:
        raise ValueError(f"VQ-VAE + Transformer: {mistake}: correct the params of its entry.")


def reading_order(name: str, size: Sequence[int]) -> Tensor:
    """Indices into a flattened latent image in the order in which they are read, (prod(size),), int64.

    ``random`` comes from torch's global generator.

    Raises:
        ValueError: there is no ordering of that name.
    """
    letters = "xyz"[: len(size)]
    reflections = ["".join(c) for n in range(len(size) + 1) for c in itertools.combinations(letters, n)]
    known = [f"{kind}-{axes}".rstrip("-") for kind in ("raster", "transposed") for axes in reflections] + ["random"]
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.0)[0]
        raise ValueError(f"Ordering {name!r} does not exist for images with {len(size)} axes: did you mean {near!r}?")
    if name == "random":
        return torch.randperm(math.prod(size))
    kind, _, reflected = name.partition("-")
    indices = torch.arange(math.prod(size)).view(*size).flip([letters.index(letter) for letter in reflected])
    return (indices if kind == "raster" else indices.permute(*reversed(range(len(size))))).flatten()
