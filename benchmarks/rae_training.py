"""A training step of the RAE: passes that both updates share made once, against every pass made anew."""

import copy
from collections.abc import Iterator

import torch
from peers.rae import Naive
from side_by_side import Row, main, ratio
from steps import Training, alternate_steps, batch_size, noise, use_of_machine

from brainuad.models import create

BATCH = batch_size(study=8, processor=4)
SIDE, LR, ROUNDS = 128, 2e-4, 5
PEER = "plain step, in the order of the published code"


def measure(batch: int = BATCH, side: int = SIDE, rounds: int = ROUNDS, params: dict | None = None) -> Iterator[Row]:
    """The ratio with and without the term weighted 1e-8, and whether both learn the same."""
    torch.manual_seed(0)
    model = create("rae.RAE", (side, side), params or {})
    without = copy.deepcopy(model)
    without.reconstruct_term = 0.0
    naive, images = Naive(model.train(), LR), noise(batch, side)
    training, lighter = Training(model, images, LR), Training(without, images, LR)
    for part in (naive.encoder, naive.decoder):
        part.to(training.x.device)

    def peer() -> tuple[float, float]:
        return naive.step(training.x)

    names = ["encoder", "decoder"]
    (own, theirs, light), same, operations = alternate_steps(
        training, names, peer, lighter.step, against=PEER, rounds=rounds, updates=2
    )
    goal = f"RAE, training step, {batch} images of {side} × {side}"
    yield ratio(goal, PEER, 1.25, theirs, own, "a batch of the study has 8")
    yield same
    yield from use_of_machine(operations, training, peer, own)
    yield ratio(f"{goal}, without the term weighted 1e-8", PEER, 1.5, theirs, light, "the peer keeps it")


if __name__ == "__main__":
    main(measure)
