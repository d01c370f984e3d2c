"""A training step of the Swin MAE: brainuad's training against a plain one, written from the facts."""

from collections.abc import Iterator

import torch
from peers.swin_mae import like
from side_by_side import Row, main, ratio
from steps import Training, alternate_steps, batch_size, noise, use_of_machine
from torch import Tensor

from brainuad.models import create

BATCH = batch_size(study=32, processor=8)
SIDE, LR, ROUNDS = 128, 1e-3, 11
PEER = "plain network and `AdamW`"


def measure(batch: int = BATCH, side: int = SIDE, rounds: int = ROUNDS, params: dict | None = None) -> Iterator[Row]:
    """The ratio, and whether both learn the same."""
    torch.manual_seed(0)
    model = create("swin_mae.SwinMAE", (side, side), params or {})
    plain = like(model)
    training = Training(model, noise(batch, side), LR)
    plain.to(training.x.device).train()
    optimizer = torch.optim.AdamW(plain.parameters(), LR, betas=(0.9, 0.95), weight_decay=0.05)

    def peer() -> tuple[Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loss = plain.loss(training.x)
        loss.backward()
        optimizer.step()
        return (loss.detach(),)

    goal = f"Swin MAE, training step, {batch} images of {side} × {side}"
    (own, theirs), same, operations = alternate_steps(training, ["loss"], peer, against=PEER, rounds=rounds)
    yield ratio(goal, PEER, 1.05, theirs, own, "a batch of the study has 32")
    yield same
    yield from use_of_machine(operations, training, peer, own)


if __name__ == "__main__":
    main(measure)
