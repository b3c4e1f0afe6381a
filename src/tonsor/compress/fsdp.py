"""Compress the gradients of a model under FSDP2's `fully_shard`."""

from typing import Any, NamedTuple, cast, final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from tonsor.compress.comm import Comm
from tonsor.compress.ddp import plain
from tonsor.compress.protocol import Compressor


def compress_fsdp(model: nn.Module, compressor: Compressor, /) -> Comm:
    """Let a compressor average the gradients of a fully sharded model, in the place of its reduce-scatter.

    FSDP2 hands over whole gradients, a group of parameters at a time, and takes back this worker's shard
    of their mean. The compressor averages the whole gradients as it does under DDP, by parameter name, and
    the shard is cut from the mean; so every rule works, and gives the mean it would give under DDP. A rule
    that sends nearly everything, as `dense`, sends up to twice what a plain reduce-scatter does: compressing
    pays from two times on. A residual has the size of a whole gradient on every worker; it is not sharded.
    Where the model is sharded within groups that are replicas of each other, the gradients are compressed
    within a group, and between groups FSDP averages the shards as they are.

    To be called once, on all workers, when all of `fully_shard` is done and before the first forward.
    Parameters that a backward does not reach take part with gradients of zeros.

    Args:
        model: The root on which `fully_shard` was called last.
        compressor: The rule; its state is saved and loaded by whoever made it.

    Returns:
        The channel of this model, which counts bytes and time (`comm.traffic()`).

    Raises:
        ValueError: If the model is no FSDP2 model, or its parts are sharded over different workers. From
            `backward`, if a gradient divide factor has been set.

    Example:
        >>> from torch.distributed.fsdp import fully_shard
        >>> from tonsor.compress import ErrorFeedback, TopK
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> mesh = dist.device_mesh.init_device_mesh("cpu", (1,))
        >>> model = fully_shard(torch.nn.Linear(8, 8), mesh=mesh)
        >>> comm = compress_fsdp(model, ErrorFeedback(TopK()))
        >>> model(torch.ones(1, 8)).sum().backward()
        >>> comm.bytes_sent                   # one worker alone sends nothing
        0
        >>> dist.destroy_process_group()
    """
    if not isinstance(model, FSDPModule):
        raise ValueError(
            f"compress_fsdp: got a {type(model).__name__}, expected a model under "
            "torch.distributed.fsdp.fully_shard; for DistributedDataParallel call compress_ddp"
        )
    names = {id(parameter): plain(name) for name, parameter in model.named_parameters()}
    wrapped = [(module, _groups(module)) for module in model.modules() if isinstance(module, FSDPModule)]
    workers = [group._reduce_scatter_process_group for _, groups in wrapped for group in groups]
    if any(dist.get_process_group_ranks(g) != dist.get_process_group_ranks(workers[0]) for g in workers):
        raise ValueError(
            "compress_fsdp: parts of the model are sharded over different workers; call it on each part alone"
        )
    comm = Comm(workers[0])
    for module, groups in wrapped:
        pieces = [_Piece(names[id(p.sharded_param)], p) for group in groups for p in group.fsdp_params]
        module.set_custom_reduce_scatter(cast(Any, _Scatter(compressor, comm, pieces)))
    model.set_reduce_scatter_unused_params(True)  # so that a message always holds the same parameters
    return comm


def _groups(module: FSDPModule) -> list[Any]:
    """Return the groups of parameters of a module; torch 2.13 has no public name for them."""
    return list(module._get_fsdp_state()._fsdp_param_groups)


class _Piece(NamedTuple):
    """A parameter as a part of the message of its group."""

    name: str
    parameter: Any  # torch's FSDPParam

    def whole(self, rows: Tensor) -> Tensor:
        """Return the gradient, shaped as the parameter, from its shards as rows."""
        dim, shape = self.parameter.fsdp_placement.dim, self.parameter._orig_size
        shards = rows.reshape(rows.shape[0], *self._shard(rows.shape[0]))
        if dim == 0:
            return shards.flatten(0, 1)[: shape[0]]
        return torch.cat(shards.unbind(0), dim)

    def cut(self, mean: Tensor, rank: int, size: int) -> Tensor:
        """Return a worker's shard of a gradient, flat; what is missing at the end is zero."""
        shard = self._shard(size)
        own = mean.narrow(*self._place(mean, rank, size)).reshape(-1)
        return nn.functional.pad(own, (0, shard.numel() - own.numel()))

    def _place(self, mean: Tensor, rank: int, size: int) -> tuple[int, int, int]:
        """Return along which dimension, from where and how far a shard reaches."""
        dim = self.parameter.fsdp_placement.dim
        length = self._shard(size)[dim]
        begin = min(rank * length, mean.shape[dim])
        return dim, begin, min(length, mean.shape[dim] - begin)

    def _shard(self, size: int) -> torch.Size:
        """Return the shape of a shard with its padding."""
        shape, dim = list(self.parameter._orig_size), self.parameter.fsdp_placement.dim
        shape[dim] = -(-shape[dim] // size)
        return torch.Size(shape)

    def length(self, size: int) -> int:
        """Return how many elements a shard has with its padding."""
        return self._shard(size).numel()


@final
class _Scatter:
    """What FSDP2 calls in the place of a reduce-scatter (its protocol `ReduceScatter`)."""

    def __init__(self, compressor: Compressor, comm: Comm, pieces: list[_Piece]) -> None:
        self.compressor = compressor
        self.comm = comm
        self.pieces = pieces
        self.steps = 0

    def allocate(self, size: Any, *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return new memory."""
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,  # ReduceOp, or one of its members
        async_op: bool = False,
    ) -> None:
        """Write this worker's shard of the mean, or sum, of the input."""
        size, rank = group.size(), group.rank()
        pieces = [piece for piece in self.pieces if piece.parameter.sharded_param.requires_grad]
        lengths = [piece.length(size) for piece in pieces]
        self._check(op, sum(lengths) * size, input_tensor.numel())
        rows = input_tensor.view(size, -1).split_with_sizes(lengths, 1)
        grads = {piece.name: piece.whole(row) for piece, row in zip(pieces, rows, strict=True)}
        with torch.no_grad(), self.comm.meter.bucket(list(grads.values())):
            mean = self.compressor(grads, self.comm).mean
            torch.cat([piece.cut(mean[piece.name], rank, size) for piece in pieces], out=output_tensor)
            if op == dist.ReduceOp.SUM:
                output_tensor.mul_(size)
        self.steps += 1
        self.comm.meter.steps = max(self.comm.meter.steps, self.steps)

    def _check(self, op: Any, expected: int, got: int) -> None:
        """Refuse what cannot be told apart."""
        if op not in (dist.ReduceOp.AVG, dist.ReduceOp.SUM):
            raise ValueError(
                "compress_fsdp: set_gradient_divide_factor is not supported; scale the loss instead"
            )
        if got != expected:
            names = ", ".join(piece.name for piece in self.pieces[:3])
            raise ValueError(
                f"compress_fsdp: the group of {names} has {got} gradients where {expected} were expected; "
                "freeze parameters before fully_shard, and leave set_reduce_scatter_unused_params on"
            )
