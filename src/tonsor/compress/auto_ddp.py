"""Compress a DistributedDataParallel model as measurements of the run itself say."""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress.auto import Auto
from tonsor.compress.comm import Comm
from tonsor.compress.ddp import compress_ddp, plain


def auto(
    model: DistributedDataParallel,
    /,
    *,
    group: dist.ProcessGroup | None = None,
    scaler: torch.amp.GradScaler | None = None,
    **settings: Any,
) -> tuple[Auto, Comm]:
    """Compress the gradients of the model only where that was measured to be faster.

    To be called once, on all workers, before the first backward. See `Auto` for what is measured and when,
    and `compress_ddp` for everything about the model and the group. Where nothing is compressed, buckets
    are averaged as DDP itself does it, with no copy. What is compressed runs with error feedback, and no norm
    is bounded before it.

    Args:
        model: The wrapped model; its gradients are dense.
        group: The model's workers, in a group that nothing else uses. None: one is made.
        scaler: The scaler of the loss, where there is one.
        settings: Those of `Auto`, as `tell=print` or `error=0.5`.

    Returns:
        The rule, whose `table()` says what was chosen and why and whose state is to be saved; and the
        channel, which counts the bytes sent.

    Raises:
        ValueError: If a setting is out of its range, or the model cannot be compressed.

    Example:
        >>> import torch
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> model = DistributedDataParallel(torch.nn.Linear(8, 8))
        >>> rule, comm = auto(model, tell=print)
        >>> model(torch.ones(1, 8)).sum().backward()
        >>> rule.why
        'one worker sends nothing'
        >>> dist.destroy_process_group()
    """
    rule = Auto(**settings)
    for name, parameter in model.module.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(partial(_arrived, rule, plain(name)))
    return rule, compress_ddp(model, rule, group=group, scaler=scaler)


def _arrived(rule: Auto, name: str, _: Tensor) -> None:
    """Tell the rule that a gradient is there."""
    rule.arrived(name)
