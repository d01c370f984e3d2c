"""Several processes, one a GPU, that train one model together as one process would on the same batches.

Each takes its share of every batch. A loss is a mean over images, so it is weighted by the share before ``backward``
and gradients are summed right after it: steps with several objectives and optimisers need nothing of their own. What
models draw is shared by ``shares``, live batch normalisation is made to look at the whole batch here, and all that is
left to differ is the order in which sums are rounded.
"""

from collections.abc import Iterable
from functools import partial

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from brainuad.shares import Share, total, whole_batch

__all__ = ["Ranks"]


class Ranks:
    """The place of this process among those that train together; alone, all methods leave things as they are.

    Attributes:
        rank: number of this process from 0.
        count: processes in all.
        writes: whether this is the one that writes files.
    """

    def __init__(self, fabric: Fabric):
        self.rank, self.count = fabric.global_rank, fabric.world_size
        self.device = fabric.device
        self.writes = self.rank == 0
        # Requests to stop travel beside the GPUs, which would otherwise have to be waited for at every step.
        self.control = torch.distributed.new_group(backend="gloo") if self.count > 1 else None

    def share(self, length: int) -> Share:
        """The part of a batch of so many images that is this process's; all of it where some would have none."""
        if length < self.count:
            return Share(length, 0, length, copies=self.count)
        return Share(length, length * self.rank // self.count, length * (self.rank + 1) // self.count)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients, which a backward pass has just made of these parameters, by their sum over all processes.

        Gradients of the weighted losses of the shares become those of the loss of the batch.
        """
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        torch.distributed.all_reduce(flat)
        for gradient, whole in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(whole.view(gradient.shape))

    def share_norms(self, detector: nn.Module) -> None:
        """Have live batch normalisation measure the whole batch. torch's ``SyncBatchNorm`` does so on GPUs only."""
        for norm in detector.modules() if self.count > 1 else ():
            if isinstance(norm, _BatchNorm):
                norm.forward = partial(normalise, norm)

    def total(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sum each of the running sums over all processes."""
        if self.count == 1:
            return dict(sums)
        names = self.agree_on_names(sums)
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        values = torch.stack([sums.get(name, zero) for name in names]) if names else zero[None]
        torch.distributed.all_reduce(values)
        return dict(zip(names, values.unbind(), strict=False))

    def agree_on_names(self, sums: dict[str, Tensor]) -> list[str]:
        """The names of the process that has most: one that has just resumed knows none."""
        known: list[list[str]] = [[] for _ in range(self.count)]
        torch.distributed.all_gather_object(known, list(sums), group=self.control)
        return max(known, key=len)

    def largest(self, value: int) -> int:
        """The largest of the values that the processes hold."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX, group=self.control)
        return int(tensor)


def normalise(norm: _BatchNorm, x: Tensor) -> Tensor:
    """What a layer of batch normalisation makes of a share x (b, channels, *size) of a batch."""
    if not norm.training:
        return type(norm).forward(norm, x)
    axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
    count = whole_batch(len(x))[0] * x[0, 0].numel()
    values = x.to(norm.running_mean)  # of half precision sums would be worth little
    mean = total(values.sum(axes)) / count
    centred = values - mean.view(shape)
    variance = total(centred.square().sum(axes)) / count
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1), norm.momentum)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    return (centred * scale.view(shape) + norm.bias.view(shape)).to(x.dtype)
