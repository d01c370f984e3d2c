"""Diffusion: noise is laid over an image until lesions drown in it, and taken away by a network that knows health.

Wyatt, Leach, Schmon and Willcocks, AnoDDPM: Anomaly Detection with Denoising Diffusion Probabilistic Models using
Simplex Noise, CVPR Workshops 2022, written from the published facts, with MONAI's network. A model of Ho, Jain and
Abbeel, Denoising Diffusion Probabilistic Models, NeurIPS 2020: 1000 levels of noise with variances that rise linearly
from 1e-4 to 0.02, the network predicts the noise, mean squared error. An image goes to level 250 and back.

Two departures. The way back is that of Song, Meng and Ermon, Denoising Diffusion Implicit Models, ICLR 2021, in few
jumps and without further noise; ``eta=1, jumps=250`` is the published way. And what the paper calls simplex noise, of
coarse and fine scales, is here a pyramid of interpolated Gaussian noise with its octaves: ``noise="pyramid"``.

Levels are counted from 1; level 0 is the clean image. Within, images are in [-1, 1].
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import DDPMScheduler
from torch import Tensor

from brainuad.models.detector import Detector
from brainuad.models.noise import pyramid
from brainuad.shares import whole_batch

__all__ = ["Diffusion"]


class Diffusion(Detector):
    """Partial diffusion and denoising: 90,856,321 parameters."""

    tiny: ClassVar[dict] = {"channels": (8, 16), "attention": (False, True), "residual_units": 1, "jumps": 2}

    def __init__(
        self,
        size: Sequence[int],
        channels: Sequence[int] = (128, 128, 256, 384, 512),
        attention: Sequence[bool] = (False, False, False, True, True),
        heads: int = 2,
        residual_units: int = 2,
        levels: int = 1000,
        noise: str = "gaussian",
        octaves: int = 6,
        persistence: float = 0.8,
        period: int = 64,
        level: int = 250,
        jumps: int = 10,
        eta: float = 0.0,
        seed: int = 0,
    ):
        """Build network and schedule.

        Args:
            size: pixels along each axis, multiples of 2 to the number of channels but one.
            channels: of each level of the network; each but the last halves the sides. The default is the paper's
                for 128 pixels.
            attention: whether a level of the network has attention; by default where sides of 128 have become 16 and 8.
            heads: of the attention.
            residual_units: per level of the network.
            levels: of noise, in training.
            noise: ``gaussian``, independent pixels, or ``pyramid``, scales from ``period`` pixels down.
            octaves: scales of the pyramid, each of half the period of the one before.
            persistence: amplitude of a scale, as a share of that of the one before.
            period: pixels between the nodes of the coarsest scale.
            level: of noise that ``reconstruct`` goes to.
            jumps: in which it goes back to the image, each of about as many levels.
            eta: share of the noise of DDPM's way back that is added between jumps; 0 adds none.
            seed: of the noise that ``reconstruct`` lays over every image.

        Raises:
            ValueError: a side cannot be halved that often, or a parameter has no meaning.
        """
        super().__init__(size)
        check(self.size, channels, attention, heads)
        if noise not in ("gaussian", "pyramid"):
            raise ValueError(f"A diffusion model has gaussian or pyramid noise, not {noise!r}: correct its params.")
        if not 0 <= level <= levels or jumps < 1:
            raise ValueError(
                f"A diffusion model of {levels} levels goes to level {level} in {jumps} jumps: correct its params."
            )
        self.levels, self.level, self.jumps, self.eta, self.seed = levels, level, jumps, eta, seed
        self.noise_name, self.octaves, self.persistence, self.period = noise, octaves, persistence, period
        self.network = DiffusionModelUNet(
            spatial_dims=len(self.size),
            in_channels=1,
            out_channels=1,
            channels=tuple(channels),
            attention_levels=tuple(attention),
            num_res_blocks=residual_units,
            num_head_channels=tuple(number // heads for number in channels),
            norm_num_groups=math.gcd(32, *channels),
        )
        # Share of the image's variance that is left at each level: 1 at level 0.
        kept = torch.cat([torch.ones(1), DDPMScheduler(levels, "linear_beta").alphas_cumprod])
        self.register_buffer("kept", kept, persistent=False)

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """Squared error of the predicted noise, at a random level for each image, in eval mode too.

        The levels of a batch are spread evenly from a random start (Kingma et al., Variational Diffusion Models,
        NeurIPS 2021): each is uniform as in the paper, and the loss of few images depends less on luck.
        """
        whole, own = whole_batch(len(x))
        spread = (torch.rand(()) + torch.arange(whole)[own] / whole) % 1  # (b,) in [0, 1)
        level = (1 + (spread * self.levels).long().clamp(max=self.levels - 1)).to(x.device)
        noise = self.draw(whole, device=x.device)[own]
        predicted = self.network(self.diffuse(2 * x - 1, noise, level), timesteps=level - 1)
        return {"loss": (predicted.to(noise) - noise).square().mean()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """x after its way to ``level`` and back, in [0, 1]; x itself at level 0.

        All images get the same noise, drawn anew from ``seed``: a reconstruction does not depend on the batch.
        """
        if self.level == 0:
            return x.clone()
        generator = torch.Generator().manual_seed(self.seed)
        z = self.diffuse(2 * x - 1, self.draw(1, generator).to(x), torch.tensor([self.level], device=x.device))
        for level, lower in pairwise(self.path()):
            z = self.jump(z, level, lower, generator)
        return (z + 1) / 2

    def path(self) -> list[int]:
        """Levels of the way back, from ``level`` to 0."""
        return sorted({round(self.level * i / self.jumps) for i in range(self.jumps + 1)}, reverse=True)

    def diffuse(self, z: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Images (b, 1, *size) in [-1, 1] at levels (b,) or (1,) of noise."""
        kept = self.kept[level].view(-1, *[1] * (z.ndim - 1))
        return kept.sqrt() * z + (1 - kept).sqrt() * noise

    def jump(self, z: Tensor, level: int, lower: int, generator: torch.Generator) -> Tensor:
        """From a level to a lower one: formula (12) of DDIM, the predicted image being clamped to [-1, 1].

        MONAI's DDIMScheduler is not used: the levels it asks the network about are not those that its steps lead to.
        """
        noise = self.network(z, timesteps=torch.full((len(z),), level - 1, device=z.device))
        kept, next_kept = self.kept[level], self.kept[lower]
        clean = ((z - (1 - kept).sqrt() * noise) / kept.sqrt()).clamp(-1, 1)
        if self.eta == 0 or lower == 0:
            return next_kept.sqrt() * clean + (1 - next_kept).sqrt() * noise
        variance = self.eta**2 * (1 - next_kept) / (1 - kept) * (1 - kept / next_kept)
        z = next_kept.sqrt() * clean + (1 - next_kept - variance).sqrt() * noise
        return z + variance.sqrt() * self.draw(1, generator).to(z)

    def draw(self, count: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
        """Noise (count, 1, *size) of variance 1; with a generator, which is the CPU's, on the CPU."""
        if self.noise_name == "gaussian":
            return torch.randn(count, 1, *self.size, generator=generator, device=device)
        return pyramid(count, self.size, self.octaves, self.persistence, self.period, generator, device)

    def adopt(self, weights: dict[str, Tensor]) -> None:
        """Take over a state dict of MONAI's ``DiffusionModelUNet``."""
        self.network.load_state_dict(weights)


def check(size: Sequence[int], channels: Sequence[int], attention: Sequence[bool], heads: int) -> None:
    """Refuse a network that cannot be built."""
    if len(channels) == 0 or len(channels) != len(attention):
        raise ValueError("A diffusion model needs as many numbers in channels as in attention: correct its params.")
    if heads < 1 or any(number % heads for number in channels):
        raise ValueError(f"A diffusion model cannot share {tuple(channels)} channels among {heads} heads.")
    factor = 2 ** (len(channels) - 1)
    if any(side % factor for side in size):
        raise ValueError(
            f"A diffusion model of {len(channels)} levels needs images with sides divisible by {factor}, "
            f"not {tuple(size)}: change samples.size or the model's channels."
        )
