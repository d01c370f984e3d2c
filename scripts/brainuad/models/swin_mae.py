"""Swin MAE: an autoencoder of shifted-window attention that paints in what it is not shown.

Xu et al., Swin MAE: masked autoencoders for small datasets, Computers in Biology and Medicine 2023, written
from the published facts; blocks of Liu et al., Swin Transformer, ICCV 2021. Squares of 16 x 16 pixels are
hidden, three of four at random; hidden tokens stay in place, so that windows keep their shape, and hold one
learnt vector. It departs from Swin as its authors' code does: windows are shifted in the last stage too, where
one window fills the image, no norm follows the encoder, and the table of positions is never added.
At test time, for which nothing is published, the squares are dealt out to four groups; each pass shows one group,
and a square's reconstruction is the mean of the predictions made while it was hidden.
"""

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from monai.networks.blocks import MLPBlock
from monai.networks.nets.swin_unetr import WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer

from brainuad.models.detector import Detector
from brainuad.shares import whole_batch

__all__ = ["SwinMAE"]

PATCH = 4  # pixels along each side of a token
LARGEST_WINDOW = 8  # of those chosen automatically, in tokens along each axis
EPSILON = 1e-6  # of every layer norm


class SwinMAE(Detector):
    """Swin MAE in 2-D, as published, or 3-D. Tokens are (b, *grid, channels), grid = size / 4."""

    tiny: ClassVar[dict] = {"width": 12, "heads": (2, 4), "unit": 8}

    def __init__(
        self,
        size: Sequence[int],
        channels: int = 1,
        window: int | None = None,
        unit: int = 16,
        groups: int = 4,
        width: int = 96,
        heads: Sequence[int] = (3, 6, 12, 24),
        depth: int = 2,
        stochastic_depth: float = 0.1,
        loss: str = "l1",
        optimizer: str = "adamw",
        permutations: int = 1,
        seed: int = 0,
        side: int | None = None,
    ):
        """Build the network.

        Args:
            size: pixels along each axis, multiples of ``unit`` and, with four stages, of 32.
            channels: of the network's images: 1, or 3 for grey replicated as the authors' code wants it.
            window: tokens along each axis of a window, a divisor of the coarsest grid, that is of side / 32
                with four stages. None takes the largest up to 8: 4 at 128, 7 at 224.
            unit: pixels along each axis of what is hidden or shown as a whole.
            groups: one of so many groups of units is shown: 4 hides 75 %.
            width: channels of a token in the first stage; each later stage has twice as many.
            heads: of each stage's attention; the decoder has all stages but the last, in reverse.
            depth: blocks of a stage, windows being shifted in every second one.
            stochastic_depth: probability to skip the encoder's last block in training; it rises linearly
                from 0 at the first. A decoder stage has the probabilities of its encoder stage.
            loss: ``l1`` as in the comparison or ``squared`` as in the authors' code.
            optimizer: ``adamw`` as in the authors' code or ``adam``.
            permutations: how often ``reconstruct`` deals the units out; its passes are so many times groups.
            seed: of that dealing.
            side: pixels along every axis that the network works at, as the authors' 224; images are resized to a
                square of it and reconstructions back, so that every model is measured on the same pixels. None works
                at ``size``.

        Raises:
            ValueError: an argument that does not exist, or a size that cannot be cut as it says.
        """
        super().__init__(size)
        check_choice("channels", channels, (1, 3))
        check_choice("loss", loss, ("l1", "squared"))
        check_choice("optimizer", optimizer, ("adamw", "adam"))
        if not 0 <= stochastic_depth < 1:
            raise ValueError(f"A Swin MAE's stochastic_depth is 0 or more and below 1, not {stochastic_depth}.")
        if permutations < 1:
            raise ValueError(f"A Swin MAE needs 1 permutation or more, not {permutations}: correct its params.")
        self.channels, self.unit, self.groups = channels, unit, groups
        self.loss_name, self.optimizer_name = loss, optimizer
        if side is not None and (not isinstance(side, int) or side < 1):
            raise ValueError(f"A Swin MAE cannot work at side {side!r}: give a whole number of pixels, such as 224.")
        self.working_size = self.size if side is None else (side,) * len(self.size)
        self.units = cut(self.working_size, unit, groups)
        self.window = choose_window(self.working_size, PATCH * 2 ** (len(heads) - 1), window)
        axes, levels = len(self.size), range(len(heads))
        grids = [[length // (PATCH * 2**i) for length in self.working_size] for i in levels]
        widths = [width * 2**i for i in levels]
        rates = torch.linspace(0, stochastic_depth, depth * len(heads)).view(-1, depth).tolist()
        stages = [(grids[i], widths[i], heads[i], self.window, rates[i]) for i in levels]
        self.embedding = {2: nn.Conv2d, 3: nn.Conv3d}[axes](channels, width, PATCH, PATCH)
        self.embedding_norm = nn.LayerNorm(width, EPSILON)
        self.mask_token = nn.Parameter(torch.empty(width).normal_(0, 0.02))
        # A part of the published network and of its parameter count, but never added to the tokens.
        self.positions = nn.Parameter(position_table(grids[0], width), requires_grad=False)
        self.encoder, self.decoder = nn.Sequential(stage(*stages[0])), nn.Sequential()
        for i in levels[1:]:
            self.encoder.extend([Merge(axes, widths[i - 1]), stage(*stages[i])])
        for i in reversed(levels[:-1]):
            self.decoder.extend([Expand(axes, widths[i + 1]), stage(*stages[i])])
        self.head = nn.Sequential(nn.LayerNorm(width, EPSILON), nn.Linear(width, PATCH**axes * channels))
        noise = torch.rand(permutations, math.prod(self.units), generator=torch.Generator().manual_seed(seed))
        self.register_buffer("dealings", self.deal(noise), persistent=False)  # (permutations, *units)
        self.apply(initialise)

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """Error of the hidden pixels; each image has its own random units hidden, in eval mode too."""
        x = resize(x, self.working_size)
        whole, own = whole_batch(len(x))
        hidden = self.hide(self.deal(torch.rand(whole, math.prod(self.units), device=x.device)[own]))
        return {"loss": self.hidden_error(self.predict(self.embed(x), hidden), x, hidden)}

    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean, for each pixel, of the predictions made while it was hidden; unbounded.

        No pixel of a unit has a part in the reconstruction of that unit. All images share the dealings.
        """
        x = resize(x, self.working_size)
        tokens, total = self.embed(x), torch.zeros_like(x)
        for dealing in self.dealings:
            for shown in range(self.groups):
                hidden = self.hide(dealing[None], shown)
                total = total + self.predict(tokens, hidden).mean(1, keepdim=True) * enlarge(hidden, PATCH)[:, None]
        return resize(total / (len(self.dealings) * (self.groups - 1)), self.size)

    def optimizers(self, lr: float) -> list[Optimizer]:
        """AdamW with the decay of the authors' code, on all weights, biases and norms included; or plain Adam."""
        if self.optimizer_name == "adam":
            return super().optimizers(lr)
        trained = [p for p in self.parameters() if p.requires_grad]
        return [AdamW(trained, lr, betas=(0.9, 0.95), weight_decay=0.05, fused=True)]

    def deal(self, noise: Tensor) -> Tensor:
        """Groups of equal size, (n, *units) of 0 to groups - 1, by the ranks of random numbers (n, number of units)."""
        return (noise.argsort(dim=1) % self.groups).unflatten(1, self.units)

    def hide(self, dealing: Tensor, shown: int = 0) -> Tensor:
        """Which tokens are hidden while one group is shown: bool (n, *grid)."""
        return enlarge(dealing != shown, self.unit // PATCH)

    def embed(self, x: Tensor) -> Tensor:
        """Images (b, 1, *working_size) to tokens (b, *grid, width)."""
        x = self.embedding(x.expand(-1, self.channels, *self.working_size))
        return self.embedding_norm(x.movedim(1, -1))

    def predict(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """Images (b, channels, *working_size) of the tokens that are not hidden; hidden is bool (b or 1, *grid)."""
        x = torch.where(hidden[..., None], self.mask_token, tokens)
        x = self.head(self.decoder(self.encoder(x)))  # (b, *grid, pixels of a token * channels)
        return join(x.unflatten(-1, (-1, self.channels)), PATCH).movedim(-1, 1)

    def hidden_error(self, prediction: Tensor, x: Tensor, hidden: Tensor) -> Tensor:
        """Mean absolute or squared error over the hidden pixels and the channels."""
        difference = (prediction - x) * enlarge(hidden, PATCH)[:, None]
        error = difference.abs() if self.loss_name == "l1" else difference.square()
        return error.mean() * (self.groups / (self.groups - 1))  # as many are hidden in every image


def stage(grid: Sequence[int], channels: int, heads: int, window: int, rates: Sequence[float]) -> nn.Sequential:
    """Blocks of one width, windows being shifted in every second one; rates are those of stochastic depth."""
    shifts = [window // 2 * (i % 2) for i in range(len(rates))]
    return nn.Sequential(*[Block(grid, channels, heads, window, *pair) for pair in zip(shifts, rates, strict=True)])


class Block(nn.Module):
    """Attention within (shifted) windows, then a perceptron for each token; tokens (b, *grid, channels)."""

    def __init__(self, grid: Sequence[int], channels: int, heads: int, window: int, shift: int, rate: float):
        super().__init__()
        if channels % heads:
            raise ValueError(f"A Swin MAE cannot share {channels} channels among {heads} heads: change width or heads.")
        self.axes, self.window, self.shift = tuple(range(1, len(grid) + 1)), window, shift
        self.attention_norm = nn.LayerNorm(channels, EPSILON)
        self.attention = WindowAttention(channels, heads, (window,) * len(grid), qkv_bias=True)
        self.perceptron_norm = nn.LayerNorm(channels, EPSILON)
        self.perceptron = MLPBlock(channels, 4 * channels)
        self.drop = StochasticDepth(rate)
        self.register_buffer("mask", attention_mask(grid, window, shift) if shift else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        x = x + self.drop(self.attend(self.attention_norm(x)))
        return x + self.drop(self.perceptron(self.perceptron_norm(x)))

    def attend(self, x: Tensor) -> Tensor:
        """Roll the grid back by the shift, attend within its windows, roll it forth."""
        shifts = [self.shift] * len(self.axes)
        if self.shift:
            x = x.roll([-shift for shift in shifts], self.axes)
        windows = split(x, self.window)  # (b, *grid / window, window**n, channels)
        x = self.attention(windows.flatten(0, len(self.axes)), self.mask)
        x = join(x.view_as(windows), self.window)
        return x.roll(shifts, self.axes) if self.shift else x


class StochasticDepth(nn.Module):
    """In training, nothing of a branch for some images at random, and more of it for the others."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """What the branch adds to each image (b, ...); its mean over the draws is x."""
        if self.rate == 0 or not self.training:
            return x
        whole, own = whole_batch(len(x))
        kept = x.new_empty(whole, *[1] * (x.ndim - 1)).bernoulli_(1 - self.rate)[own]
        return x * (kept / (1 - self.rate))


class Merge(nn.Module):
    """Halve the grid and double the channels."""

    def __init__(self, axes: int, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(2**axes * channels, EPSILON)
        self.reduction = nn.Linear(2**axes * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, *grid, c) to (b, *grid / 2, 2 c)."""
        return self.reduction(self.norm(split(x, 2).flatten(-2)))


class Expand(nn.Module):
    """Double the grid and halve the channels: the reverse of ``Merge``."""

    def __init__(self, axes: int, channels: int):
        super().__init__()
        self.expansion = nn.Linear(channels, 2**axes * channels // 2, bias=False)
        self.norm = nn.LayerNorm(channels // 2, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(b, *grid, c) to (b, *grid * 2, c / 2)."""
        return self.norm(join(self.expansion(x).unflatten(-1, (-1, *self.norm.normalized_shape)), 2))


def split(x: Tensor, side: int) -> Tensor:
    """Cut a grid into blocks: (b, *grid, c) to (b, *grid / side, side**n, c)."""
    n = x.ndim - 2
    for axis in range(n):
        x = x.unflatten(1 + 2 * axis, (-1, side))  # b, g1, s1, g2, s2, ..., c
    order = [0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1]
    return x.permute(order).flatten(n + 1, 2 * n)


def join(x: Tensor, side: int) -> Tensor:
    """Put blocks together again, the inverse of ``split``: (b, *grid / side, side**n, c) to (b, *grid, c)."""
    n = x.ndim - 3
    x = x.unflatten(n + 1, (side,) * n)  # b, g1, g2, ..., s1, s2, ..., c
    x = x.permute([0, *(axis for i in range(1, n + 1) for axis in (i, n + i)), 2 * n + 1])
    for axis in range(n):
        x = x.flatten(axis + 1, axis + 2)
    return x


def enlarge(mask: Tensor, factor: int) -> Tensor:
    """Repeat the values of (n, *grid) along each axis of the grid."""
    for axis in range(1, mask.ndim):
        mask = mask.repeat_interleave(factor, axis)
    return mask


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Images (b, 1, *any) at another size, by linear interpolation, antialiased in 2-D."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    two = len(size) == 2
    return F.interpolate(x, size=tuple(size), mode="bilinear" if two else "trilinear", antialias=two)


def attention_mask(grid: Sequence[int], window: int, shift: int) -> Tensor:
    """What keeps apart tokens that share a shifted window only because the roll brought them together.

    Returns (windows, window**n, window**n), to be added to the attention's logits: 0, or -100 between tokens of
    which the roll took one across an edge of the image and the other not.
    """
    rolled = torch.meshgrid(*[torch.arange(side) >= side - shift for side in grid], indexing="ij")
    edges = split(torch.stack(rolled, -1)[None], window).flatten(0, len(grid))  # (windows, window**n, n)
    return (edges[:, :, None] != edges[:, None]).any(-1) * -100.0


def position_table(grid: Sequence[int], channels: int) -> Tensor:
    """Sines and cosines of each token's coordinates, (1, tokens, channels); channels a multiple of 2 n."""
    count = channels // (2 * len(grid))
    coordinates = torch.cartesian_prod(*[torch.arange(float(side)) for side in grid])  # (tokens, n)
    angles = coordinates[..., None] * 10000 ** -(torch.arange(count) / count)
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)[None]


def initialise(part: nn.Module) -> None:
    """Xavier-uniform weights and zero biases of linear layers; torch and MONAI do the rest as published."""
    if isinstance(part, nn.Linear):
        nn.init.xavier_uniform_(part.weight)
        if part.bias is not None:
            nn.init.zeros_(part.bias)


def cut(size: tuple[int, ...], unit: int, groups: int) -> tuple[int, ...]:
    """Units along each axis; a ValueError unless units are of whole tokens and fill the image and equal groups."""
    units = tuple(side // max(unit, 1) for side in size)
    whole = unit >= PATCH and unit % PATCH == 0 and not any(side % unit for side in size)
    if not whole or groups < 2 or math.prod(units) % groups:
        raise ValueError(
            f"A Swin MAE cannot deal out images of {size} (samples.size, or the model's side) in units of {unit} "
            f"pixels to {groups} groups of equal size: unit must be a multiple of {PATCH} that divides each side, "
            "groups a divisor of the number of units."
        )
    return units


def choose_window(size: tuple[int, ...], factor: int, window: int | None) -> int:
    """The window asked for or the largest that divides all grids, else a ValueError; factor: pixels of a last token."""
    common = 0 if any(side % factor for side in size) else math.gcd(*size) // factor
    fitting = [w for w in range(2, common + 1) if common % w == 0]
    chosen = max([w for w in fitting if w <= LARGEST_WINDOW], default=0) if window is None else window
    if chosen not in fitting:
        wanted = "a whole number of windows" if window is None else f"windows of {window} tokens"
        raise ValueError(
            f"A Swin MAE cannot cut images of {size} into {wanted}: one window, at least 2, must divide each "
            f"side / {factor} (as 4 does at 128 and 7 at 224), so change samples.size, or the model's side or window."
        )
    return chosen


def check_choice(name: str, value: int | str, choices: Sequence) -> None:
    """Refuse a value that is not offered."""
    if value not in choices:
        raise ValueError(f"A Swin MAE has no {name} {value!r}: choose from {choices}.")
