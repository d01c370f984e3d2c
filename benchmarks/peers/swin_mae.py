"""Swin MAE, written from the facts as plainly as its parts are usually written, to be held against brainuad's.

It does as the published code is said to do: masks are dealt out image by image in NumPy, and what a shifted window may
attend to is worked out anew in each pass. 2-D. Its weights have the names that brainuad's have.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON, PATCH, UNIT, GROUPS = 1e-6, 4, 16, 4


class WindowAttention(nn.Module):
    """Attention among the tokens of a window, with a bias for each offset between two of them."""

    def __init__(self, channels: int, heads: int, window: int):
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        rows, columns = (axis.flatten() for axis in torch.meshgrid(*[torch.arange(window)] * 2, indexing="ij"))
        offsets = ((axis[:, None] - axis[None] + window - 1) for axis in (rows, columns))
        down, right = offsets
        self.register_buffer("relative_position_index", down * (2 * window - 1) + right)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (windows, n, channels); mask (windows of an image, n, n) is added to the logits."""
        count, n, channels = x.shape
        q, k, v = self.qkv(x).view(count, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = (q * self.scale) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)].view(n, n, -1)
        logits = logits + bias.permute(2, 0, 1)[None]
        if mask is not None:
            logits = logits.view(-1, len(mask), self.heads, n, n) + mask[None, :, None]
            logits = logits.view(-1, self.heads, n, n)
        x = (logits.softmax(-1) @ v).transpose(1, 2).reshape(count, n, channels)
        return self.proj(x)


class Perceptron(nn.Module):
    """Two layers around a GELU."""

    def __init__(self, channels: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Token by token."""
        return self.linear2(F.gelu(self.linear1(x)))


class Block(nn.Module):
    """Attention within windows, shifted in every second block, and a perceptron; tokens (b, h, w, channels)."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, rate: float):
        super().__init__()
        self.window, self.shift, self.rate = window, shift, rate
        self.attention_norm, self.perceptron_norm = (nn.LayerNorm(channels, EPSILON) for _ in range(2))
        self.attention, self.perceptron = WindowAttention(channels, heads, window), Perceptron(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens to tokens."""
        b, h, w, channels = x.shape
        y, mask = self.attention_norm(x), None
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
            mask = self.mask(h, w).to(x.device)
        y = self.attention(windows(y, self.window), mask)
        y = y.view(b, h // self.window, w // self.window, self.window, self.window, channels)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, channels)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + self.drop(y)
        return x + self.drop(self.perceptron(self.perceptron_norm(x)))

    def mask(self, h: int, w: int) -> Tensor:
        """-100 between tokens of a shifted window that lie on different sides of an edge of the image."""
        regions, number = torch.zeros(1, h, w, 1), 0
        cuts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for rows in cuts:
            for columns in cuts:
                regions[:, rows, columns] = number
                number += 1
        regions = windows(regions, self.window)[..., 0]
        return (regions[:, :, None] != regions[:, None]).float() * -100

    def drop(self, x: Tensor) -> Tensor:
        """Stochastic depth."""
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.rate)
        return x * (kept / (1 - self.rate))


class Merge(nn.Module):
    """Halve the grid and double the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels, EPSILON)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, c) to (b, h / 2, w / 2, 2 c)."""
        corners = [x[:, 0::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 0::2], x[:, 1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class Expand(nn.Module):
    """Double the grid and halve the channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.expansion = nn.Linear(channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(channels // 2, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(b, h, w, c) to (b, 2 h, 2 w, c / 2)."""
        b, h, w, channels = x.shape
        x = self.expansion(x).view(b, h, w, 2, 2, channels // 2).permute(0, 1, 3, 2, 4, 5)
        return self.norm(x.reshape(b, 2 * h, 2 * w, channels // 2))


class SwinMAE(nn.Module):
    """The network, its loss and the reconstruction by many random masks."""

    def __init__(
        self,
        width: int = 96,
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 4,
        stochastic_depth: float = 0.1,
        unit: int = UNIT,
    ):
        super().__init__()
        self.unit = unit
        rates = torch.linspace(0, stochastic_depth, 2 * len(heads)).view(-1, 2).tolist()

        def stage(level: int) -> nn.Sequential:
            shape = (width * 2**level, heads[level], window)
            return nn.Sequential(Block(*shape, 0, rates[level][0]), Block(*shape, window // 2, rates[level][1]))

        self.embedding, self.embedding_norm = nn.Conv2d(1, width, PATCH, PATCH), nn.LayerNorm(width, EPSILON)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.encoder, self.decoder = nn.Sequential(stage(0)), nn.Sequential()
        for level in range(1, len(heads)):
            self.encoder.extend([Merge(width * 2 ** (level - 1)), stage(level)])
        for level in reversed(range(len(heads) - 1)):
            self.decoder.extend([Expand(width * 2 ** (level + 1)), stage(level)])
        self.head = nn.Sequential(nn.LayerNorm(width, EPSILON), nn.Linear(width, PATCH**2))

    def random_mask(self, x: Tensor) -> Tensor:
        """Which tokens are hidden, bool (b, h, w): three of four units, image by image."""
        units = x.shape[-1] // self.unit
        noise, masks = torch.rand(len(x), units**2, device=x.device), []
        for row in noise.cpu().numpy():
            hidden = (row.argsort() % GROUPS != 0).reshape(units, units)
            masks.append(hidden.repeat(self.unit // PATCH, 0).repeat(self.unit // PATCH, 1))
        return torch.stack([torch.from_numpy(mask) for mask in masks]).to(x.device)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Pixels of each token, (b, h * w, 16)."""
        tokens = self.embedding_norm(self.embedding(x).permute(0, 2, 3, 1)).clone()
        tokens[hidden] = self.mask_token
        return self.head(self.decoder(self.encoder(tokens))).flatten(1, 2)

    def loss(self, x: Tensor) -> Tensor:
        """Mean absolute error of the hidden tokens."""
        hidden = self.random_mask(x)
        error = (self(x, hidden) - patches(x)).abs().mean(-1)
        hidden = hidden.flatten(1).float()
        return (error * hidden).sum() / hidden.sum()

    def reconstruct(self, x: Tensor, masks: int = 30) -> Tensor:
        """Mean of the predictions made while a pixel was hidden, over random masks; no number where it never was."""
        predictions = []
        for _ in range(masks):
            hidden = self.random_mask(x)
            prediction = self(x, hidden).masked_fill(~hidden.flatten(1)[..., None], torch.nan)
            predictions.append(images(prediction, x.shape[-1]))
        return torch.stack(predictions).nanmean(0)


def windows(x: Tensor, side: int) -> Tensor:
    """Cut (b, h, w, c) into windows (b * windows, side * side, c)."""
    b, h, w, channels = x.shape
    x = x.view(b, h // side, side, w // side, side, channels).permute(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, side * side, channels)


def patches(x: Tensor) -> Tensor:
    """Images (b, 1, h, w) to the pixels of each token, (b, tokens, 16)."""
    b, _, h, w = x.shape
    x = x.view(b, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 1, 3, 2, 4)
    return x.reshape(b, -1, PATCH**2)


def images(x: Tensor, side: int) -> Tensor:
    """The inverse of ``patches``, for square images."""
    grid = side // PATCH
    x = x.view(-1, grid, grid, PATCH, PATCH).permute(0, 1, 3, 2, 4)
    return x.reshape(-1, 1, side, side)


def like(model: nn.Module) -> SwinMAE:
    """A network with the sizes and the weights of brainuad's."""
    blocks = [part for part in model.encoder.modules() if hasattr(part, "shift")]
    heads = [block.attention.num_heads for block in blocks[::2]]
    plain = SwinMAE(len(model.mask_token), heads, model.window, blocks[-1].drop.rate, model.unit)
    weights = {name: value for name, value in model.state_dict().items() if name != "positions"}
    plain.load_state_dict(weights)
    return plain.to(model.mask_token.device).train(model.training)
