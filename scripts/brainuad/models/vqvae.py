"""VQ-VAE: an autoencoder whose latent image is spelt in a small codebook.

van den Oord et al., Neural Discrete Representation Learning, NeurIPS 2017; in the configuration of MONAI's
tutorial on anomaly detection with transformers (after Pinaya et al., Medical Image Analysis 2022): two levels
of 256 channels, two residual units each, 16 codes of 64 channels moved by exponential averages with a decay
of 0.5. A decay of 0.99 would leave the codes that the first batch does not use dead for good.

Beyond the paper, and off by default: a perceptual term (LPIPS) and an adversarial one (a patch discriminator with
least squares), which turn it into the VQGAN of Esser et al., CVPR 2021, weighted as in MONAI's tutorial on that.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from monai.networks.nets import VQVAE as VQVAENetwork
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from brainuad.models.detector import Detector
from brainuad.shares import total

__all__ = ["VQVAE"]

VERDICT_SLOPE = 0.05  # of negative verdicts, in MONAI's least-squares loss


class VQVAE(Detector):
    """MONAI's VQ-VAE behind the ``Detector`` contract; state-dict keys under ``network`` are MONAI's own."""

    tiny: ClassVar[dict] = {"channels": (8, 8), "residual_units": 1, "codes": 8, "code_channels": 4}

    def __init__(
        self,
        size: Sequence[int],
        channels: Sequence[int] = (256, 256),
        residual_units: int = 2,
        codes: int = 16,
        code_channels: int = 64,
        decay: float = 0.5,
        commitment: float = 0.25,
        perceptual_term: float = 0.0,
        adversarial_term: float = 0.0,
        discriminator_channels: int = 64,
        discriminator_levels: int = 3,
        discriminator_rate: float = 5.0,
    ):
        """Build the network; each level halves the sides.

        Args:
            size: pixels along each axis, multiples of 2 to the number of levels.
            channels: of each level and of its residual units.
            residual_units: per level.
            codes: size of the codebook.
            code_channels: length of a code.
            decay: of the exponential averages that move the codebook, in train mode only.
            commitment: weight of the squared distance of a latent pixel to its code.
            perceptual_term: weight of the LPIPS distance of image and reconstruction; MONAI's tutorial takes 0.001.
            adversarial_term: weight of a patch discriminator's verdict; MONAI's tutorial takes 0.01.
            discriminator_channels: of the discriminator's first level; it exists with an ``adversarial_term`` only.
            discriminator_levels: how often the discriminator halves the sides; each level doubles its channels.
            discriminator_rate: learning rate of the discriminator, as a multiple of the model's.

        Raises:
            ValueError: a side cannot be halved that often (MONAI would return a smaller image without a
                word), or a term is negative.
        """
        super().__init__(size)
        if min(perceptual_term, adversarial_term) < 0:
            raise ValueError("A VQ-VAE's perceptual_term and adversarial_term are 0 or more: correct its params.")
        factor = 2 ** len(channels)
        if any(side % factor for side in self.size):
            raise ValueError(
                f"A VQ-VAE of {len(channels)} levels needs images with sides divisible by {factor}, "
                f"not {self.size}: change samples.size."
            )
        self.latent_size = tuple(side // factor for side in self.size)
        self.codes = codes
        self.network = VQVAENetwork(
            spatial_dims=len(self.size),
            in_channels=1,
            out_channels=1,
            channels=tuple(channels),
            num_res_layers=residual_units,
            num_res_channels=tuple(channels),
            downsample_parameters=((2, 4, 1, 1),) * len(channels),  # stride, kernel, dilation, padding
            upsample_parameters=((2, 4, 1, 1, 0),) * len(channels),  # ... and output padding
            num_embeddings=codes,
            embedding_dim=code_channels,
            commitment_cost=commitment,
            decay=decay,
        )
        self.network.quantizer.quantizer.distributed_synchronization = sum_over_batch
        self.perceptual_term, self.adversarial_term = perceptual_term, adversarial_term
        self.needs_perceptual = perceptual_term > 0
        self.discriminator_rate = discriminator_rate
        self.discriminator = None
        if adversarial_term > 0:
            self.discriminator = patch_discriminator(self.size, discriminator_channels, discriminator_levels)

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """L1 of the reconstruction plus the commitment term; the codebook has no loss, averages move it.

        Returns:
            ``loss`` and its unweighted parts, among them ``perceptual`` and ``adversarial`` if these have a weight.
        """
        return self.generator_loss(x, *self.forward(x))

    def generator_loss(self, x: Tensor, reconstruction: Tensor, commitment: Tensor) -> dict[str, Tensor]:
        """The terms of ``loss`` for a reconstruction of x."""
        l1 = F.l1_loss(reconstruction, x)
        terms = {"loss": l1 + commitment, "reconstruction": l1, "commitment": commitment}
        if self.perceptual_term:
            terms["perceptual"] = self.perceptual(x, reconstruction)
            terms["loss"] = terms["loss"] + self.perceptual_term * terms["perceptual"]
        if self.discriminator is not None:
            terms["adversarial"] = verdict(self.discriminator, reconstruction, real=True)
            terms["loss"] = terms["loss"] + self.adversarial_term * terms["adversarial"]
        return terms

    def discriminator_loss(self, x: Tensor, reconstruction: Tensor) -> Tensor:
        """How far the discriminator is from calling x real and a reconstruction, cut off from its graph, false."""
        false = verdict(self.discriminator, reconstruction.detach(), real=False)
        return (false + verdict(self.discriminator, x, real=True)) / 2

    def optimizers(self, lr: float) -> list[Optimizer]:
        """Adam for the autoencoder and, if there is one, Adam for the discriminator."""
        if self.discriminator is None:
            return super().optimizers(lr)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        discriminator = Adam(self.discriminator.parameters(), self.discriminator_rate * lr, fused=True)
        return [Adam(trained, lr, fused=True), discriminator]

    def step(self, x: Tensor, optimizers: list[Optimizer], backward: Callable) -> dict[str, Tensor]:
        """One update of the autoencoder, then one of the discriminator by the same reconstruction."""
        if self.discriminator is None:
            return super().step(x, optimizers, backward)
        reconstruction, commitment = self.forward(x)
        terms = self.generator_loss(x, reconstruction, commitment)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        optimizers[0].zero_grad(set_to_none=True)
        backward(terms["loss"], inputs=trained)
        optimizers[0].step()

        terms["discriminator"] = self.discriminator_loss(x, reconstruction)
        optimizers[1].zero_grad(set_to_none=True)
        # The weight scales the gradients as in the tutorial; Adam divides by their size, so it hardly matters.
        backward(self.adversarial_term * terms["discriminator"], inputs=list(self.discriminator.parameters()))
        optimizers[1].step()
        return {name: value.detach() for name, value in terms.items()}

    def reconstruct(self, x: Tensor) -> Tensor:
        """Image after the passage through the codebook; unbounded."""
        return self.forward(x)[0]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction (b, 1, *size) and commitment term (scalar)."""
        z = self.network.encode(x)  # (b, code_channels, *latent_size)
        # The averages that move the codebook need full precision, of which MONAI keeps only a part under
        # autocast.
        with torch.autocast(x.device.type, enabled=False):
            commitment, quantized = self.network.quantizer(z.float())
        return self.network.decode(quantized), commitment

    def encode(self, x: Tensor) -> Tensor:
        """Index of the nearest code of each latent pixel, (b, *latent_size), int64.

        Never moves the codebook, whereas MONAI's ``index_quantize`` does so in train mode.
        """
        return self.network.quantizer.quantizer.quantize(self.network.encode(x))[2]

    def decode(self, indices: Tensor) -> Tensor:
        """Image (b, 1, *size) that a latent image of code indices (b, *latent_size) stands for."""
        return self.network.decode_samples(indices)

    def adopt(self, weights: dict[str, Tensor]) -> None:
        """Take over a state dict of MONAI's or monai-generative's ``VQVAE``: their names are the same."""
        self.network.load_state_dict(weights)


def sum_over_batch(*sums: Tensor) -> None:
    """Put sums over the whole batch in place of sums over a share, for the averages that move the codebook.

    MONAI's own method adds up all processes, also where each of them holds the same images.
    """
    for value in sums:
        value.copy_(total(value))


def patch_discriminator(size: Sequence[int], channels: int, levels: int) -> nn.Module:
    """MONAI's patch discriminator: images (b, 1, *size) to one verdict for each overlapping patch.

    Raises:
        ValueError: nothing would be left of an image.
    """
    if min(size) < 3 * 2**levels:  # two convolutions of kernel 4 and stride 1 follow the levels
        raise ValueError(
            f"A discriminator of {levels} levels leaves nothing of images of {tuple(size)}: lower the model's "
            "discriminator_levels."
        )
    return PatchDiscriminator(spatial_dims=len(size), channels=channels, in_channels=1, num_layers_d=levels)


def verdict(discriminator: nn.Module, images: Tensor, real: bool) -> Tensor:
    """Mean squared distance of the discriminator's verdicts from 1 (real) or 0, after MONAI's leaky rectifier."""
    verdicts = F.leaky_relu(discriminator(images)[-1].float(), VERDICT_SLOPE)
    return (verdicts - float(real)).square().mean()
