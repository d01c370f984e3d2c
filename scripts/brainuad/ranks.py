"""Several processes, one a GPU, that train one model together as one process would on the same batches.

Each takes its share of every batch; gradients are averaged right after ``backward``, weighted by the shares, so that
steps with several objectives and optimisers need nothing of their own. Three things are local to a share: what a model
draws at random itself, the statistics of live batch normalisation, and the order in which sums are rounded.
"""

from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

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

    def share(self, length: int) -> slice:
        """The part of a batch of so many images that is this process's."""
        return slice(length * self.rank // self.count, length * (self.rank + 1) // self.count)

    def average_gradients(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        """Replace gradients by their mean over all processes.

        Args:
            parameters: those whose gradients a backward pass has just made.
            weight: this process's share of the batch; all weights sum to 1.
        """
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) * weight
        torch.distributed.all_reduce(flat)
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view(gradient.shape))

    def average_statistics(self, detector: nn.Module) -> None:
        """Give all processes the mean of the running statistics that live batch normalisation keeps."""
        if self.count == 1:
            return
        for norm in detector.modules():
            if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats:
                for statistic in (norm.running_mean, norm.running_var):
                    torch.distributed.all_reduce(statistic)
                    statistic /= self.count

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
        """The names of the process that has most: one whose share was empty so far knows none."""
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
