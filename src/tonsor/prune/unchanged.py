"""Run a model and leave it as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def unchanged(model: nn.Module, /) -> Iterator[None]:
    """Put the model into eval mode for a while; afterwards, or after an error, everything is as before.

    Kept are each module's training flag, the buffers (running statistics), which parameters require a
    gradient, and torch's random state on the CPU and on the CUDA devices of the model. Parameters and
    their `.grad` are not guarded.

    Args:
        model: Any module.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
        >>> with unchanged(model):
        ...     model.training
        False
        >>> model.training
        True
    """
    flags = {module: module.training for module in model.modules()}
    wants = {parameter: parameter.requires_grad for parameter in model.parameters()}
    buffers = [
        (module, name, buffer, buffer.detach().clone(), buffer._version)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    with torch.random.fork_rng(_cuda_devices(model)):
        try:
            for module in flags:  # one by one, because an exported graph refuses eval()
                module.training = False
            yield
        finally:
            for module, is_training in flags.items():
                module.training = is_training
            for parameter, is_wanted in wants.items():
                parameter.requires_grad_(is_wanted)
            for module, name, buffer, before, version in buffers:
                _restore(buffer, before, version)
                setattr(module, name, buffer)


def _cuda_devices(model: nn.Module) -> list[torch.device]:
    """Return the CUDA devices that hold a part of the model."""
    tensors = [*model.parameters(), *model.buffers()]
    return list({tensor.device for tensor in tensors if tensor.is_cuda})


@torch.no_grad()
def _restore(buffer: Tensor, before: Tensor, version: int) -> None:
    """Write the old content back, unless nothing was written; batch norm writes past the version counter."""
    if buffer._version != version or not torch.equal(buffer, before):
        buffer.copy_(before)
