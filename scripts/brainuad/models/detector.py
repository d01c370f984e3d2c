"""The contract between the workflow and its models."""

from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

__all__ = ["Detector"]


class Detector(nn.Module):
    """What the workflow asks of a model.

    A model learns healthy anatomy from images (b, 1, *size) with values in [0, 1] and 0 outside the brain,
    *size having two or three axes, and turns any such image into its pseudo-healthy counterpart. It must
    state ``tiny``, ``loss`` and ``reconstruct``; the rest are defaults to override. It does no I/O, asks for
    no device (new tensors are made where ``x`` is) and prints nothing.

    Several processes may share a batch, each with some of its images, and must learn what one would: the terms of a
    loss are means over images, and what ``loss`` or ``step`` draws for them, or sums, goes through ``brainuad.shares``.

    Attributes:
        tiny: constructor arguments of the smallest instance that works on images of 32 x 32 and of 16 x 16 x
            16: tests and the miniature study meet every model in it.
        requires: class (``file.Class``) of the trained model that this one builds on, or None. Such a class
            takes ``upstream`` as its second argument.
        tied: parameters that trained weights hold good for only as they were, though no shape shows it.
        recipe: set by ``brainuad.models.create``: what builds this model again.
        needs_perceptual: whether ``loss`` measures a perceptual distance.
        condenses: whether the model has a ``condense``.
    """

    tiny: ClassVar[dict]
    requires: ClassVar[str | None] = None
    tied: ClassVar[tuple[str, ...]] = ()
    recipe: dict
    needs_perceptual: bool = False
    condenses: ClassVar[bool] = False

    def __init__(self, size: Sequence[int], upstream: "Detector | None" = None):
        """Keep the image size and freeze the upstream.

        Args:
            size: pixels along each axis of an image; its length decides between 2-D and 3-D.
            upstream: a trained model of its own copy. It becomes a part of this one's state dict, is never
                trained and stays in eval mode.

        Raises:
            ValueError: size has neither two nor three axes, or an axis without pixels.
        """
        super().__init__()
        if len(size) not in (2, 3):
            raise ValueError(f"Images of size {tuple(size)} have {len(size)} axes: samples.size must list 2 or 3.")
        self.size = tuple(int(side) for side in size)
        if min(self.size) < 1:
            raise ValueError(f"Images of size {self.size} do not exist: every side has 1 pixel or more.")
        self.upstream = upstream.requires_grad_(False).eval() if upstream is not None else None

    def train(self, mode: bool = True) -> "Detector":
        """Switch between train and eval mode; an upstream stays in eval mode."""
        super().train(mode)
        if self.upstream is not None:
            self.upstream.eval()
        return self

    def loss(self, x: Tensor) -> dict[str, Tensor]:
        """Scalar terms of one batch.

        Args:
            x: images (b, 1, *size).

        Returns:
            ``loss``, which training minimises, and any parts of it worth logging. In eval mode, where it
            gives the validation loss, it may draw random numbers; they are seeded alike every time.
        """
        raise NotImplementedError

    def reconstruct(self, x: Tensor) -> Tensor:
        """The healthy counterpart of x, (b, 1, *size), not necessarily within [0, 1].

        In eval mode it is the same each time and for an image on its own or with others in a batch.
        """
        raise NotImplementedError

    def perceptual(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean perceptual distance of two batches (b, 1, *size), a scalar with gradients.

        It is no part of the model: training puts ``PerceptualDistance.mean`` in its place where ``needs_perceptual``.
        """
        raise ValueError(
            f"This {type(self).__name__} measures a perceptual distance: set its `perceptual` to "
            "PerceptualDistance(trunk, smoothing=0).mean first."
        )

    def score(self, x: Tensor, reconstruction: Tensor, perceptual: Tensor) -> Tensor:
        """Anomaly map: the residual weighted by the perceptual distance, |x - reconstruction| * perceptual.

        Args:
            x: images (b, 1, *size) in [0, 1].
            reconstruction: their healthy counterparts, clamped to [0, 1].
            perceptual: smoothed perceptual distance of the two, >= 0.

        Returns:
            (b, 1, *size), >= 0, larger where more anomalous. Comparable within a model, not between models.
        """
        return (x - reconstruction).abs() * perceptual

    def optimizers(self, lr: float) -> list[Optimizer]:
        """The optimisers that ``step`` gets, in this order; here one Adam over all trainable parameters.

        The training loop scales the rate of each parameter group by its schedule; ``lr`` is its peak.
        """
        return [Adam([p for p in self.parameters() if p.requires_grad], lr, fused=True)]

    def step(self, x: Tensor, optimizers: list[Optimizer], backward: Callable) -> dict[str, Tensor]:
        """One update of the weights by one batch; the default minimises ``loss``.

        Args:
            x: images (b, 1, *size).
            optimizers: those of ``optimizers``.
            backward: to be called in place of ``loss.backward()``: it scales the loss where half precision
                needs that. It passes on ``inputs=`` and ``retain_graph=``, so a model with two objectives
                writes ``backward(first, inputs=first_parameters, retain_graph=True)``, steps the first optimiser,
                and then does the same for the second. The gradients it makes are averaged over all GPUs, so
                ``zero_grad`` comes before each.

        Returns:
            Scalar terms to log; those of ``loss(x)`` are among them. The whole step runs under autocast, which
            keeps half-precision copies of the weights: a model that runs forward again after an optimiser's step
            calls ``torch.clear_autocast_cache()`` in between.
        """
        terms = self.loss(x)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        backward(terms["loss"])
        for optimizer in optimizers:
            optimizer.step()
        return terms

    def condense(self, x: Tensor) -> Tensor:
        """All that ``step`` needs of images, where a part of the model that does not learn sees them first.

        Training asks for it once if it never moves an image, and gives ``step`` the result in their place.

        Returns:
            (b, 1, ...), integers, by which ``step`` knows that these are no images.
        """
        raise NotImplementedError

    def fit(self, images: Iterable[np.ndarray]) -> None:
        """Learn without gradients; called once, in place of epochs, on models without trainable parameters.

        Args:
            images: batches (b, 1, *size), float32, each healthy training image once.
        """

    def adopt(self, weights: dict[str, Tensor]) -> None:
        """Take over a state dict of the library that this model's network comes from.

        Raises:
            ValueError: no library has this model.
            RuntimeError: the names or shapes do not fit.
        """
        raise ValueError(f"{type(self).__name__} has no weights of another library to take over.")
