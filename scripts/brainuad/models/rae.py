"""Reversed autoencoder (RAE): an introspective variational autoencoder with a 128-number bottleneck.

Bercea et al., Generalizing Unsupervised Anomaly Detection: Towards Unbiased Pathology Screening, MIDL 2023. It
is Soft-IntroVAE (Daniel and Tamar, CVPR 2021) with a sigmoid at the end and one more term for the encoder: an
image and its reconstruction, encoded, shall look alike at every level ("reversed" embedding similarity).
Encoder and decoder have an objective and an optimiser each and learn in turn, encoder first.

Batch normalisation is frozen by default because it was in the published training code, where each layer is
but a scale and a shift of its channels.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam, Optimizer

from brainuad.models.detector import Detector
from brainuad.shares import normal_like

__all__ = ["RAE"]

SLOPE = 0.2  # of the leaky rectifiers
NOISE_SEED = 0  # of the draws that ``reconstruct`` averages


class Code(NamedTuple):
    """What the encoder makes of images.

    Attributes:
        mean: of the normal distribution of z, (b, latent).
        logvar: logarithm of its variance, (b, latent).
        levels: features after each pooling, (b, channels[i], *size / 2^(i + 1)).
    """

    mean: Tensor
    logvar: Tensor
    levels: list[Tensor]

    def sample(self) -> Tensor:
        """A random z of each image, (b, latent)."""
        return self.mean + normal_like(self.mean) * torch.exp(0.5 * self.logvar)

    def kl(self) -> Tensor:
        """Divergence from the standard normal distribution, nats per image, (b,)."""
        return -0.5 * (1 + self.logvar - self.mean.square() - self.logvar.exp()).sum(dim=1)


class Block(nn.Module):
    """Residual block: two bias-free convolutions with batch normalisation, and a skip."""

    def __init__(self, dims: int, inputs: int, outputs: int, project: bool = False):
        super().__init__()
        convolution, norm = getattr(nn, f"Conv{dims}d"), getattr(nn, f"BatchNorm{dims}d")
        self.body = nn.Sequential(
            convolution(inputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
            nn.LeakyReLU(SLOPE, inplace=True),
            convolution(outputs, outputs, 3, padding=1, bias=False),
            norm(outputs),
        )
        project = project or inputs != outputs
        self.skip = convolution(inputs, outputs, 1, bias=False) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(b, inputs, *s) to (b, outputs, *s)."""
        return F.leaky_relu(self.body(x) + self.skip(x), SLOPE, inplace=True)


class Encoder(nn.Module):
    """Images to the distribution of z; each level halves the sides."""

    def __init__(self, dims: int, channels: Sequence[int], code_size: Sequence[int], latent: int, project: bool):
        super().__init__()
        stem = nn.Sequential(
            getattr(nn, f"Conv{dims}d")(1, channels[0], 5, padding=2, bias=False),
            getattr(nn, f"BatchNorm{dims}d")(channels[0]),
            nn.LeakyReLU(SLOPE, inplace=True),
        )
        blocks = [Block(dims, inputs, outputs, project) for inputs, outputs in pairwise(channels)]
        self.levels = nn.ModuleList([stem, *blocks])
        self.pool = getattr(nn, f"AvgPool{dims}d")(2)
        self.last = Block(dims, channels[-1], channels[-1])
        self.head = nn.Linear(channels[-1] * math.prod(code_size), 2 * latent)

    def forward(self, x: Tensor) -> Code:
        """Encode (b, 1, *size); the result has the precision of x also under autocast, for the losses' sake."""
        features, levels = x, []
        for level in self.levels:
            features = self.pool(level(features))
            levels.append(features.to(x.dtype))
        mean, logvar = self.head(self.last(features).flatten(1)).to(x.dtype).chunk(2, dim=1)
        return Code(mean, logvar, levels)


class Decoder(nn.Module):
    """z to images, the way back; each level but the last doubles the sides."""

    def __init__(self, dims: int, channels: Sequence[int], code_size: Sequence[int], latent: int, project: bool):
        super().__init__()
        self.shape = (channels[-1], *code_size)
        self.head = nn.Linear(latent, math.prod(self.shape))
        blocks = [Block(dims, inputs, outputs, project) for inputs, outputs in pairwise(channels[::-1])]
        self.levels = nn.ModuleList([Block(dims, channels[-1], channels[-1]), *blocks])
        self.last = Block(dims, channels[0], channels[0])
        self.output = getattr(nn, f"Conv{dims}d")(channels[0], 1, 5, padding=2)

    def forward(self, z: Tensor) -> Tensor:
        """Decode (b, latent) to images (b, 1, *size) within (0, 1), in the precision of z."""
        features = F.relu(self.head(z)).unflatten(1, self.shape)
        for level in self.levels:
            features = F.interpolate(level(features), scale_factor=2, mode="nearest")
        return torch.sigmoid(self.output(self.last(features)).to(z.dtype))


class RAE(Detector):
    """The reversed autoencoder: 29,430,785 parameters at 128 x 128."""

    tiny: ClassVar[dict] = {"channels": (8, 8, 16, 16), "latent": 8}

    def __init__(
        self,
        size: Sequence[int],
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        latent: int = 128,
        beta_reconstruction: float = 0.5,
        beta_kl: float = 1.0,
        beta_negative: float = 128.0,
        embedding_term: float = 0.005,
        reconstruct_term: float = 1e-8,
        batch_norm: str = "frozen",
        project_equal: bool = False,
        draws: int = 0,
    ):
        """Build encoder and decoder.

        Args:
            size: pixels along each axis, multiples of 2 to the number of levels.
            channels: of each level.
            latent: numbers that an image is squeezed into.
            beta_reconstruction: weight of the squared error (of its sum over an image).
            beta_kl: weight of the divergence of real images for the encoder, of decoded ones for the decoder.
            beta_negative: weight of the divergence of decoded images for the encoder, which raises it.
            embedding_term: weight of the embedding similarity in the encoder's objective.
            reconstruct_term: weight, for the decoder, of the error in decoding its own encoded images. The
                published 1e-8 lies below rounding; 0 saves its passes, a fifth of the work of a step.
            batch_norm: ``frozen`` normalises by constants, as the published code did; ``live`` by the batch in
                train mode and by running statistics in eval mode, as Soft-IntroVAE does.
            project_equal: put a convolution into the skip also where two levels have the same channels. So
                do the published networks (29,955,073 parameters), by an accident of comparing numbers.
            draws: images decoded from random z that ``reconstruct`` averages; 0 decodes the mean of z.

        Raises:
            ValueError: a side cannot be halved that often, or a parameter has no meaning.
        """
        super().__init__(size)
        self.code_size = check(self.size, channels, batch_norm, draws)
        self.scale = 1 / math.prod(self.size)
        self.beta_reconstruction, self.beta_kl, self.beta_negative = beta_reconstruction, beta_kl, beta_negative
        self.embedding_term, self.reconstruct_term = embedding_term, reconstruct_term
        self.frozen = batch_norm == "frozen"
        shape = (len(self.size), tuple(channels), self.code_size, latent, project_equal)
        self.encoder, self.decoder = Encoder(*shape), Decoder(*shape)
        if self.frozen:
            # Where the published code froze them: its encoder, not its decoder, had met one batch, of zeros.
            for norm in batch_norms(self.encoder):
                norm.running_var.fill_(0.9)
        # One set of draws for every image, so that a reconstruction does not depend on the rest of the batch.
        noise = torch.randn(draws, 1, latent, generator=torch.Generator().manual_seed(NOISE_SEED), device="cpu")
        self.register_buffer("noise", noise, persistent=False)

    def train(self, mode: bool = True) -> "RAE":
        """Switch between train and eval mode; frozen batch normalisation stays in eval mode."""
        super().train(mode)
        if self.frozen:
            for norm in batch_norms(self):
                norm.eval()
        return self

    def reconstruct(self, x: Tensor) -> Tensor:
        """Image (b, 1, *size) within (0, 1) of the mean of z, or the average image of ``draws`` random z."""
        code = self.encoder(x)
        if len(self.noise) == 0:
            return self.decoder(code.mean)
        deviation = torch.exp(0.5 * code.logvar)
        return sum(self.decoder(code.mean + noise * deviation) for noise in self.noise) / len(self.noise)

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """The terms that need no random numbers, at the mean of z; training minimises two others, see ``step``.

        Returns:
            ``loss``, the negative evidence lower bound per pixel of x; its parts ``reconstruction`` (mean
            squared error) and ``kl`` (nats per pixel), unweighted; ``kl_reconstruction``, of the encoded
            reconstruction; ``embedding``, the dissimilarity that ``embedding_loss`` states.
        """
        real = self.encoder(x)
        reconstruction = self.decoder(real.mean)
        encoded = self.encoder(reconstruction)
        return {
            **self.elbo_loss(x, real, reconstruction),
            "kl_reconstruction": self.scale * encoded.kl().mean(),
            "embedding": embedding_loss(real.levels, encoded.levels),
        }

    def elbo_loss(self, x: Tensor, code: Code, reconstruction: Tensor) -> dict[str, Tensor]:
        """Negative evidence lower bound of x per pixel, and its unweighted parts."""
        error = self.scale * squared_error(x, reconstruction).mean()
        kl = self.scale * code.kl().mean()
        return {
            "loss": self.beta_reconstruction * error + self.beta_kl * kl,
            "reconstruction": error,
            "kl": kl,
        }

    def encoder_loss(self, x: Tensor, real: Code, reconstruction: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Objective ``encoder``: a good bound for x, a bad one for whatever the decoder makes, like embeddings.

        Args:
            x: images (b, 1, *size).
            real: code of x.
            reconstruction: decoded sample of ``real``, with its graph: it is the target of its own
                reconstruction, and the encoder moves that target too.
            fake: decoded standard normal numbers.

        Returns:
            ``encoder`` and its parts: those of ``elbo_loss``, ``exp_elbo`` and ``embedding``.
        """
        encoded, encoded_fake = self.encoder(reconstruction.detach()), self.encoder(fake.detach())
        terms = self.elbo_loss(x, real, reconstruction)
        terms["exp_elbo"] = (self.exp_elbo(reconstruction, encoded) + self.exp_elbo(fake, encoded_fake)) / 4
        terms["embedding"] = embedding_loss(real.levels, encoded.levels)
        terms["encoder"] = terms["loss"] + terms["exp_elbo"] + self.embedding_term * terms["embedding"]
        return terms

    def exp_elbo(self, image: Tensor, code: Code) -> Tensor:
        """Mean exponential of twice the bound of decoded images, 1 where the encoder takes them for real."""
        error = squared_error(image, self.decoder(code.sample()))
        bound = -self.scale * (self.beta_reconstruction * error + self.beta_negative * code.kl())
        return torch.exp(2 * bound).mean()

    def decoder_loss(self, x: Tensor, reconstruction: Tensor, fake: Tensor) -> dict[str, Tensor]:
        """Objective ``decoder``: reconstruct x, and decode to images that the encoder takes for real.

        Args:
            x: images (b, 1, *size).
            reconstruction: decoded sample of the code of x, with its graph.
            fake: decoded standard normal numbers, with their graph.

        Returns:
            ``decoder`` and the parts that ``encoder_loss`` lacks: ``kl_reconstruction`` and ``kl_fake``.
        """
        encoded, encoded_fake = self.encoder(reconstruction), self.encoder(fake)
        error = squared_error(x, reconstruction).mean()
        if self.reconstruct_term:
            again = squared_error(reconstruction.detach(), self.decoder(encoded.sample().detach())).mean()
            again = again + squared_error(fake.detach(), self.decoder(encoded_fake.sample().detach())).mean()
            error = error + self.reconstruct_term / 2 * again
        kl, kl_fake = self.scale * encoded.kl().mean(), self.scale * encoded_fake.kl().mean()
        objective = self.scale * self.beta_reconstruction * error + self.beta_kl / 2 * (kl + kl_fake)
        return {"decoder": objective, "kl_reconstruction": kl, "kl_fake": kl_fake}

    def optimizers(self, lr: float) -> list[Optimizer]:
        """Adam for the encoder and Adam for the decoder."""
        return [Adam(part.parameters(), lr, fused=True) for part in (self.encoder, self.decoder)]

    def step(self, x: Tensor, optimizers: list[Optimizer], backward: Callable) -> dict[str, Tensor]:
        """One update of the encoder, then one of the decoder.

        The decoder does not change before its own update, so both objectives share the images it decodes. With
        live batch normalisation, whose running statistics count passes, that gives each shared pass one count.

        Returns:
            The terms of ``loss``, here at a random z, and those of ``encoder_loss`` and ``decoder_loss``.
        """
        real = self.encoder(x)
        z = real.sample()
        reconstruction, fake = self.decoder(z), self.decoder(normal_like(z))

        terms = self.encoder_loss(x, real, reconstruction, fake)
        optimizers[0].zero_grad(set_to_none=True)
        backward(terms["encoder"], inputs=list(self.encoder.parameters()), retain_graph=True)
        optimizers[0].step()
        torch.clear_autocast_cache()  # it holds half-precision copies of the encoder's former weights
        terms = {name: value.detach() for name, value in terms.items()}  # frees what only the encoder needed

        terms |= self.decoder_loss(x, reconstruction, fake)
        optimizers[1].zero_grad(set_to_none=True)
        backward(terms["decoder"], inputs=list(self.decoder.parameters()))
        optimizers[1].step()
        return {name: value.detach() for name, value in terms.items()}


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """Sum over each image of the squared differences of a and b, (b,)."""
    return (a - b).square().flatten(1).sum(dim=1)


def embedding_loss(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Dissimilarity of the features of two batches: half the mean squared error plus 1 - cosine, over all levels.

    The cosine is that of an image's features as one vector. Both sides get gradients.
    """
    loss = a[0].new_zeros(())
    for one, other in zip(a, b, strict=True):
        cosine = F.cosine_similarity(one.flatten(1), other.flatten(1))
        loss = loss + 0.5 * F.mse_loss(one, other) + (1 - cosine).mean()
    return loss


def batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Its layers of batch normalisation."""
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def check(size: Sequence[int], channels: Sequence[int], batch_norm: str, draws: int) -> tuple[int, ...]:
    """Sides of the smallest level, after refusing what cannot be built."""
    if batch_norm not in ("frozen", "live"):
        raise ValueError(f"An RAE has batch_norm frozen or live, not {batch_norm!r}: correct its params.")
    if draws < 0 or len(channels) == 0:
        raise ValueError("An RAE needs at least one level in channels and draws of 0 or more: correct its params.")
    factor = 2 ** len(channels)
    if any(side % factor for side in size):
        raise ValueError(
            f"An RAE of {len(channels)} levels needs images with sides divisible by {factor}, "
            f"not {tuple(size)}: change samples.size or the model's channels."
        )
    return tuple(side // factor for side in size)
