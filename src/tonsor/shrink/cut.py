"""Slice a model in place: parameters, gradients, buffers, sizes that modules remember, optimizer state."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tonsor.shrink.trace import forget_, named_tensors

Kept: TypeAlias = Mapping[int, Tensor]  # by dimension the indices that stay


def cut_(
    model: nn.Module, slices: Mapping[str, Kept], biases: Mapping[str, Tensor | None]
) -> dict[str, nn.Parameter]:
    """Slice parameters and buffers, keep the objects, and give modules the biases they lack.

    Args:
        model: The module, changed in place.
        slices: What stays, by name and dimension.
        biases: For each module that gets a bias its values; `None` means zeros.

    Returns:
        The new biases by their modules' names.

    Example:
        >>> model = nn.Linear(2, 3, bias=False)
        >>> new = cut_(model, {"weight": {0: torch.tensor([0, 2])}}, {"": None})
        >>> model
        Linear(in_features=2, out_features=2, bias=True)
    """
    tensors = named_tensors(model)
    touched = {id(tensors[name]) for name in slices}
    for name, kept in slices.items():
        tensor, grad = tensors[name], tensors[name].grad
        replace_(tensor, sliced(tensor.detach(), kept))
        tensor.grad = None if grad is None else sliced(grad, kept)
    for module in model.modules():
        own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if any(id(tensor) in touched for tensor in own):
            _refit_(module)
    forget_(model)
    return {name: _give_bias_(model.get_submodule(name), biases[name]) for name in biases}


def sliced(tensor: Tensor, kept: Kept) -> Tensor:
    """Return what stays of a tensor, in its own memory and in the same memory format.

    Example:
        >>> sliced(torch.tensor([[1, 2], [3, 4]]), {1: torch.tensor([1])})
        tensor([[2],
                [4]])
    """
    small = tensor.coalesce() if tensor.is_sparse else tensor
    for dim, index in kept.items():
        small = small.index_select(dim, index.to(tensor.device))
    if small.is_sparse:
        return small
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    small = small.contiguous(memory_format=torch.channels_last) if last else small.contiguous()
    return small.clone() if small is tensor else small


def slice_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor], slices: Mapping[str, Kept]
) -> dict[Tensor, dict[str, Tensor]]:
    """Return the optimizer's state tensors of the sliced parameters, sliced as these will be.

    Args:
        optimizer: It is not changed.
        parameters: The parameters, not yet sliced, by name.
        slices: What stays, by name and dimension.

    Raises:
        ValueError: If a state tensor is not shaped like its parameter.

    Example:
        >>> w = nn.Parameter(torch.ones(2)); w.grad = torch.tensor([1.0, 2.0])
        >>> optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9); optimizer.step()
        >>> list(slice_state(optimizer, {"w": w}, {"w": {0: torch.tensor([1])}}).values())
        [{'momentum_buffer': tensor([2.])}]
    """
    found: dict[Tensor, dict[str, Tensor]] = {}
    for name, kept in slices.items():
        parameter = parameters[name]
        for key, tensor in optimizer.state.get(parameter, {}).items():
            if not isinstance(tensor, Tensor) or tensor.numel() <= 1:
                continue
            fits = tensor.ndim == parameter.ndim and all(
                size in (1, whole) for size, whole in zip(tensor.shape, parameter.shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"shrink.shrink_: the optimizer's '{key}' of '{name}' has shape "
                    f"{tuple(tensor.shape)} and cannot be sliced as {tuple(parameter.shape)} is; "
                    "shrink without the optimizer and build a new one"
                )
            own = {dim: index for dim, index in kept.items() if tensor.shape[dim] > 1}
            found.setdefault(parameter, {})[key] = sliced(tensor, own)
    return found


def replace_(tensor: Tensor, small: Tensor) -> None:
    """Give a parameter or buffer other data of another shape; the object stays what it is.

    Its gradient is dropped. The detour over another type makes autograd forget the old shape, which a
    loss that is still alive would otherwise keep.

    Example:
        >>> w = nn.Parameter(torch.ones(3))
        >>> replace_(w, torch.ones(2)); w.shape
        torch.Size([2])
    """
    tensor.grad = None
    other = torch.float64 if tensor.dtype == torch.float32 else torch.float32
    if tensor.requires_grad:
        tensor.data = torch.empty(0, dtype=other, device=tensor.device)
    tensor.data = small


def _give_bias_(module: nn.Module, values: Tensor | None) -> nn.Parameter:
    """Give a module a bias: these values, or zeros."""
    weight: Any = module.weight
    size = weight.shape[0]
    values = torch.zeros(size) if values is None else values
    bias = nn.Parameter(values.to(weight.device, weight.dtype), requires_grad=weight.requires_grad)
    module.register_parameter("bias", bias)
    return bias


def _refit_(module: nn.Module) -> None:
    """Correct the sizes that a module remembers, from the shapes of its tensors."""
    for kind, names in SIZES.items():
        if isinstance(module, kind):
            weight: Any = module.weight
            for dim, name in enumerate(names):
                setattr(module, name, weight.shape[dim])
    if isinstance(module, _ConvNd):
        _refit_conv_(module)
    elif isinstance(module, _NormBase):
        held = module.running_mean if module.weight is None else module.weight
        module.num_features = held.shape[0] if held is not None else module.num_features
    else:
        _refit_norm_(module)


def _refit_norm_(module: nn.Module) -> None:
    """Correct a normalisation or a recurrent layer."""
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = tuple(module.weight.shape)
    elif isinstance(module, nn.GroupNorm):
        each = module.num_channels // module.num_groups
        module.num_channels = module.weight.shape[0]
        module.num_groups = max(1, module.num_channels // each)
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        suffix = "_l0" if isinstance(module, nn.RNNBase) else ""
        module.input_size = getattr(module, f"weight_ih{suffix}").shape[1]
        module.hidden_size = getattr(module, f"weight_hh{suffix}").shape[1]


def _refit_conv_(module: _ConvNd) -> None:
    """Correct a convolution; a depthwise one has as many groups as channels."""
    first, second = module.weight.shape[:2]
    if module.groups > 1 and module.groups == module.in_channels:
        filters = module.out_channels // module.in_channels
        transposed = isinstance(module, _ConvTransposeNd)
        module.groups = module.in_channels = first if transposed else first // filters
    inside, outside = second * module.groups, first
    if isinstance(module, _ConvTransposeNd):
        inside, outside = first, second * module.groups
    module.in_channels, module.out_channels = inside, outside


# The attributes that are the sizes of the weight's dimensions.
SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features", "in_features"),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
    nn.EmbeddingBag: ("num_embeddings", "embedding_dim"),
    nn.PReLU: ("num_parameters",),
}
