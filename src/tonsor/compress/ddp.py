"""Compress the gradients of a DistributedDataParallel model."""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress.comm import Comm
from tonsor.compress.line import Line
from tonsor.compress.protocol import Compressor

WRAPPINGS = ("_orig_mod.", "_checkpoint_wrapped_module.")  # what others put into a parameter's name


def compress_ddp(
    model: DistributedDataParallel,
    compressor: Compressor,
    /,
    *,
    group: dist.ProcessGroup | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Comm:
    """Let a compressor average the gradients of the model, while backward goes on.

    Every bucket is handed to one thread, which works through them in the order they came and talks over a
    process group of its own, so that messages can neither overtake each other nor meet those of others.
    Gradients are keyed by their parameter's name in `model.module`. To be called once, on all workers of
    the model, before the first backward. Inside `no_sync` nothing is sent; the gradients accumulated there
    are compressed with the first backward outside.

    A model under `join` may run out of data on some workers: for them gradients of zeros are averaged,
    and by torch's design the divisor stays the number of all workers, whatever
    `divide_by_initial_world_size` says. An error in the compressor is raised by `backward`, on this worker
    with its own text and on the others with the reason this one gave; and ever after, because the workers
    are then out of step.

    Args:
        model: The wrapped model; its gradients are dense. `torch.compile(model)` is taken too.
        compressor: The rule; its state is saved and loaded by whoever made it.
        group: The model's workers, in a group that nothing else uses. None: one is made, which takes
            all processes of the job.
        scaler: The scaler of the loss, where there is one. The rule then sees gradients without the
            scale, so that what it remembers keeps its meaning when the scale changes.

    Returns:
        The channel of this model, which counts bytes and time (`comm.traffic()`). What DDP itself sends,
        as the buffers of the forward pass, does not go through it.

    Raises:
        ValueError: If the model is no DDP model, averages its gradients in a way of its own, or lives on a
            part of the processes while a group has to be made. From `backward`, if a gradient is sparse.

    Example:
        >>> from tonsor.compress import ErrorFeedback, PowerSGD
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = DistributedDataParallel(torch.nn.Linear(8, 8))
        >>> comm = compress_ddp(model, ErrorFeedback(PowerSGD(rank=2)))
        >>> model(torch.ones(1, 8)).sum().backward()
        >>> comm.bytes_sent                   # one worker alone sends nothing
        0
        >>> comm.traffic().bytes_dense        # 72 gradients of 4 bytes
        288
        >>> dist.destroy_process_group()
    """
    inner = _checked(model)
    if group is None:
        if inner.process_group.size() < dist.get_world_size():
            raise ValueError(
                f"compress_ddp: the model lives on {inner.process_group.size()} of {dist.get_world_size()} "
                "processes, and only all of them together can make a group; pass group=dist.new_group(ranks)"
            )
        group = dist.new_group(backend=dist.get_backend(inner.process_group))
    names = {id(parameter): plain(name) for name, parameter in inner.module.named_parameters()}
    line = Line(compressor, Comm(group), names, scaler, inner.process_group)
    inner.register_comm_hook(line, Line.put)
    return line.comm


def plain(name: str, /) -> str:
    """Return a parameter's name without what compiling and checkpointing put into it.

    Args:
        name: As `named_parameters` gives it.

    Example:
        >>> plain("_orig_mod.encoder._checkpoint_wrapped_module.weight")
        'encoder.weight'
    """
    for wrapping in WRAPPINGS:
        name = name.replace(wrapping, "")
    return name


def _checked(model: nn.Module) -> Any:
    """Return the DDP model itself, or say why it cannot be compressed."""
    inner = getattr(model, "_orig_mod", model)  # of torch.compile
    if not isinstance(inner, DistributedDataParallel):
        raise ValueError(
            f"compress_ddp: got a {type(inner).__name__}, expected a DistributedDataParallel; "
            "wrap the model first, or call compress_fsdp for a model under fully_shard"
        )
    if inner.mixed_precision is not None:
        raise ValueError(
            "compress_ddp: a model with mixed_precision averages its gradients in a way of its own; "
            "use torch.autocast instead"
        )
    if inner._use_python_reducer:
        raise ValueError(
            "compress_ddp: torch._dynamo.config.optimize_ddp is 'python_reducer', which compiles the "
            "averaging itself; set it to True before the model is wrapped"
        )
    return inner
