"""A training step of the VQ-VAE: brainuad's training against MONAI's network and Adam, as in MONAI's tutorial."""

from collections.abc import Iterator

import torch
from monai.networks.nets import VQVAE
from side_by_side import Row, main, ratio
from steps import Training, alternate_steps, batch_size, noise, use_of_machine
from torch import Tensor
from torch.nn import functional as F

from brainuad.models import create

BATCH = batch_size(study=32, processor=8)
SIDE, LR, ROUNDS = 128, 5e-4, 5
PEER = "MONAI `VQVAE` and `Adam`"


def network(channels: int = 256) -> VQVAE:
    """The tutorial's."""
    return VQVAE(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        channels=(channels, channels),
        num_res_channels=(channels, channels),
        num_res_layers=2,
        downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
        upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
        num_embeddings=16,
        embedding_dim=64,
    )


def measure(batch: int = BATCH, side: int = SIDE, channels: int = 256, rounds: int = ROUNDS) -> Iterator[Row]:
    """The ratio, and whether both learn the same."""
    torch.manual_seed(0)
    detector = create("vqvae.VQVAE", (side, side), {"channels": [channels, channels]})
    theirs = network(channels)
    theirs.load_state_dict(detector.network.state_dict())
    training = Training(detector, noise(batch, side), LR)
    theirs.to(training.x.device).train()
    optimizer = torch.optim.Adam(theirs.parameters(), LR)

    def peer() -> tuple[Tensor]:
        optimizer.zero_grad(set_to_none=True)
        reconstruction, quantisation = theirs(training.x)
        loss = F.l1_loss(reconstruction, training.x) + quantisation
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    goal = f"VQ-VAE, training step, {batch} images of {side} × {side}"
    (own, slow), same, operations = alternate_steps(training, ["loss"], peer, against=PEER, rounds=rounds)
    yield ratio(goal, PEER, 1.1, slow, own, "a batch of the study has 32")
    yield same
    yield from use_of_machine(operations, training, peer, own)


if __name__ == "__main__":
    main(measure)
