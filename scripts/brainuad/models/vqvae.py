"""VQ-VAE: an autoencoder whose latent image is spelt in a small codebook.

van den Oord et al., Neural Discrete Representation Learning, NeurIPS 2017; in the configuration of MONAI's
tutorial on anomaly detection with transformers (after Pinaya et al., Medical Image Analysis 2022): two levels
of 256 channels, two residual units each, 16 codes of 64 channels moved by exponential averages with a decay
of 0.5. A decay of 0.99 would leave the codes that the first batch does not use dead for good.
"""

from collections.abc import Sequence
from typing import ClassVar

import torch
from monai.networks.nets import VQVAE as VQVAENetwork
from torch import Tensor
from torch.nn import functional as F

from brainuad.models.detector import Detector

__all__ = ["VQVAE"]


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

        Raises:
            ValueError: a side cannot be halved that often (MONAI would return a smaller image without a
                word).
        """
        super().__init__(size)
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

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """L1 of the reconstruction plus the commitment term; the codebook has no loss, averages move it."""
        reconstruction, commitment = self.forward(x)
        l1 = F.l1_loss(reconstruction, x)
        return {"loss": l1 + commitment, "reconstruction": l1, "commitment": commitment}

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
