"""A model whose steps take their time, which the tests put among the models of a copy of the repository."""

import time
from typing import ClassVar

import torch

from brainuad.models.detector import Detector


class Patient(Detector):
    """An image learned step by step; a step may sleep, take memory, or fail, without a change of what is learned."""

    tiny: ClassVar[dict] = {}

    def __init__(self, size, seconds: float = 0.0, fail: bool = False, megabytes: int = 0):
        super().__init__(size)
        self.seconds, self.fail, self.megabytes = seconds, fail, megabytes
        self.image = torch.nn.Parameter(torch.zeros(1, 1, *size))

    def loss(self, x):
        """L1."""
        if self.fail:
            raise ArithmeticError("this loss cannot be computed")
        taken = b"x" * (1_000_000 * self.megabytes)
        time.sleep(self.seconds if self.training else 0.0)
        del taken
        return {"loss": (self.image - x).abs().mean()}

    def reconstruct(self, x):
        """The same image for any x."""
        return self.image.expand_as(x)
