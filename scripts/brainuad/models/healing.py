"""Likelihood, healing and sampling of token sequences by a causal transformer, without running it over a prefix twice.

A transformer of ``brainuad.models.vqvae_transformer`` reads inputs (count, length): a beginning-of-sequence token,
then all tokens but the last. Its output at a position is about the token there, which the input has one place
further on. Keys and values of inputs that have been read are cached. Once a token is replaced, only the inputs
between it and the next one to replace are read again, in one go; sequences that have these elsewhere go through
all layers as one list of rows and part only in the attention.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from brainuad.models.attention import causal

__all__ = ["Cache", "heal", "log_likelihood", "sample"]


class Segment(NamedTuple):
    """Neighbouring inputs, start to stop, of neighbouring sequences, first to last."""

    first: int
    last: int
    start: int
    stop: int

    def rows(self) -> int:
        """How many inputs these are."""
        return (self.last - self.first) * (self.stop - self.start)


class Cache:
    """Keys and values of every layer: (count, heads, length, channels) each.

    What lies at or behind the first input that changed is stale and must not be looked at before it is written
    again; ``heal`` sees to that by reading on from there.
    """

    def __init__(self, transformer: nn.Module, count: int):
        self.count, self.length = count, transformer.length
        weight = transformer.to_logits.weight
        shape = (count, transformer.heads, self.length, transformer.width // transformer.heads)
        self.keys = [weight.new_empty(shape) for _ in transformer.blocks]
        self.values = [weight.new_empty(shape) for _ in transformer.blocks]

    def whole(self, layer: int) -> Callable:
        """Attention within whole sequences, each input looking back; fills the cache."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys[layer].copy_(k.transpose(1, 2))
            self.values[layer].copy_(v.transpose(1, 2))
            q = q.transpose(1, 2).contiguous()
            return causal(q, self.keys[layer], self.values[layer]).transpose(1, 2)

        return attend

    def extend(self, layer: int, segments: list[Segment], at: tuple[Tensor, Tensor], biases: list) -> Callable:
        """Attention of the inputs of segments, rows (n, heads, channels), to all before them and themselves.

        Args:
            layer: whose.
            segments: those inputs.
            at: sequence and position of each row, where its key and value are written.
            biases: for each segment what hides the inputs that come later, or None.
        """
        keys, values = self.keys[layer], self.values[layer]
        counts = [segment.rows() for segment in segments]

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys[at[0], :, at[1]] = k
            values[at[0], :, at[1]] = v
            outputs = []
            for segment, bias, queries in zip(segments, biases, q.split(counts), strict=True):
                first, last, start, stop = segment
                past = (part[first:last, :, :stop] for part in (keys, values))
                queries = queries.unflatten(0, (-1, stop - start)).transpose(1, 2)
                outputs.append(F.scaled_dot_product_attention(queries, *past, bias).transpose(1, 2).flatten(0, 1))
            return torch.cat(outputs)

        return attend


@torch.no_grad()
def log_likelihood(transformer: nn.Module, sequence: Tensor, cache: Cache | None = None) -> Tensor:
    """Logarithm of the probability of each token given those before it, (count, length).

    Args:
        transformer: which model.
        sequence: tokens (count, length).
        cache: filled where given.
    """
    attends = [cache.whole(layer) for layer in range(len(transformer.blocks))] if cache else None
    logits = transformer(transformer.shift(sequence), attends)
    return logits.float().log_softmax(-1).gather(-1, sequence[..., None])[..., 0]


@torch.no_grad()
def heal(
    transformer: nn.Module, sequence: Tensor, mask: Tensor, cache: Cache, uniforms: Tensor | None = None
) -> Tensor:
    """Replace tokens one after another, each given all before it as they are by then.

    Args:
        transformer: which model.
        sequence: tokens (count, length).
        mask: which to replace, bool (count, length).
        cache: filled by ``log_likelihood`` of the same sequence, or empty if every first token is replaced. It
            may be used again for another healing of the same sequence and mask: what is stale is read again.
        uniforms: random numbers in [0, 1), one a token, that pick from the cumulative distribution; None takes
            the most likely token.

    Returns:
        Tokens (count, length); the beginning-of-sequence token is never among them.
    """
    healed = F.pad(sequence, (1, 0), value=transformer.tokens)  # inputs, and the last token
    wanted = [row.nonzero()[:, 0].tolist() for row in mask.cpu()]
    for step in range(max(map(len, wanted), default=0)):
        active = [i for i, positions in enumerate(wanted) if step < len(positions)]
        ends = [wanted[i][step] for i in active]
        starts = [wanted[i][step - 1] + 1 if step else wanted[i][0] for i in active]
        logits = read(transformer, healed, gather(active, starts, ends, len(wanted)), cache)
        here = torch.tensor([active, ends], device=sequence.device)
        healed[here[0], here[1] + 1] = choose(logits, uniforms[here[0], here[1]] if uniforms is not None else None)
    return healed[:, 1:]


def sample(transformer: nn.Module, uniforms: Tensor) -> Tensor:
    """Sequences from nothing, by the inverse cumulative distribution at uniforms in [0, 1), (count, length)."""
    cache = Cache(transformer, len(uniforms))
    blank = torch.zeros_like(uniforms, dtype=torch.long)
    return heal(transformer, blank, torch.ones_like(blank, dtype=torch.bool), cache, uniforms)


def gather(active: list[int], starts: list[int], ends: list[int], count: int) -> list[Segment]:
    """Segments of inputs, one a sequence, or a single one if all sequences have it at the same place."""
    if len(active) == count and len(set(zip(starts, ends, strict=True))) == 1:
        return [Segment(0, count, starts[0], ends[0] + 1)]
    return [Segment(i, i + 1, start, end + 1) for i, start, end in zip(active, starts, ends, strict=True)]


def read(transformer: nn.Module, inputs: Tensor, segments: list[Segment], cache: Cache) -> Tensor:
    """Read the inputs of segments into the cache.

    Returns:
        Logits about the token after the last input of each sequence, (sequences, tokens + 1).
    """
    places = torch.arange(cache.count * cache.length).view(cache.count, cache.length)
    places = torch.cat([places[s.first : s.last, s.start : s.stop].flatten() for s in segments]).to(inputs.device)
    at = (places // cache.length, places % cache.length)
    biases = [look_back(s.stop - s.start, s.stop, cache.keys[0]) for s in segments]
    ends = torch.cat([torch.full((s.last - s.first,), s.stop - s.start) for s in segments]).cumsum(0) - 1
    attends = [cache.extend(layer, segments, at, biases) for layer in range(len(transformer.blocks))]
    return transformer.to_logits(transformer.hidden(inputs[at], at[1], attends)[ends.to(inputs.device)])


def look_back(count: int, stop: int, like: Tensor) -> Tensor | None:
    """What to add to the attention of the last count of stop inputs: minus infinity where a key comes later."""
    return like.new_full((count, stop), -torch.inf).triu(stop - count + 1) if count > 1 else None


def choose(logits: Tensor, uniforms: Tensor | None) -> Tensor:
    """A token for each row of logits, never the last one, which begins sequences."""
    logits = logits[:, :-1]
    if uniforms is None:
        return logits.argmax(-1)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    return (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(-1).clamp(max=logits.shape[-1] - 1)
