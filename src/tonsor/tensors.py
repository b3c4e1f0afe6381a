"""Norms and sums over lists of tensors: fast, exact enough, and never waiting for the device."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import torch
from torch import Tensor

from tonsor.flat import alike
from tonsor.flat import flat_views as flat_views
from tonsor.flat import in_one_run as in_one_run
from tonsor.norms import BLOCK as BLOCK
from tonsor.norms import ROW as ROW
from tonsor.norms import can_look as can_look
from tonsor.norms import joint_norm as joint_norm
from tonsor.sharded import locals_of

ONE_PASS = 1 << 14  # elements from which a second pass over a tensor costs more than a call of its own


def distinct(parameters: Iterable[Tensor], /) -> list[Tensor]:
    """Return the parameters in order, each object once, so that a tied weight counts once.

    Args:
        parameters: Tensors, possibly repeated.

    Returns:
        The first occurrence of each.

    Example:
        >>> w = torch.zeros(2)
        >>> len(distinct([w, torch.zeros(2), w]))
        2
    """
    given = list(parameters)
    if len(set(map(id, given))) == len(given):
        return given
    return list({id(parameter): parameter for parameter in given}.values())


def gradients(parameters: Iterable[Tensor], /) -> list[Tensor]:
    """Return the gradients of the distinct parameters as dense tensors that can be changed in place.

    A parameter without a gradient is left out. A sparse gradient is coalesced first, because two
    entries of one position are one number; its values are returned.

    Args:
        parameters: Leaf tensors; `None` and sparse gradients are welcome.

    Returns:
        One tensor for each gradient, sharing its memory.

    Example:
        >>> w = torch.zeros(2, requires_grad=True)
        >>> w.grad = torch.ones(2)
        >>> gradients([w, torch.zeros(1)])
        [tensor([1., 1.])]
    """
    owners = distinct(parameters)
    grads = list(map(attrgetter("grad"), owners))
    found = [grad for grad in grads if grad is not None]
    if not any(map(attrgetter("is_sparse"), found)) and not any(map(attrgetter("requires_grad"), found)):
        return found
    return [_ready(owner, grad) for owner, grad in zip(owners, grads, strict=True) if grad is not None]


def _ready(owner: Tensor, grad: Tensor) -> Tensor:
    """Return a gradient dense and detached, after its owner got it coalesced."""
    if grad.is_sparse:
        owner.grad = grad = grad.coalesce()
        grad = grad._values()
    return grad.detach()


def unit_norms(tensor: Tensor, /) -> Tensor:
    """Return the 2-norm of each unit, a slice along dimension 0.

    Args:
        tensor: Shape `(out, in, ...)`, at least two dimensions.

    Returns:
        Shape `(out, 1, ...)`, ready to be broadcast.

    Example:
        >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        tensor([[5.],
                [2.]])
    """
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=tuple(range(1, tensor.ndim)), keepdim=True)
    return norms


def scale_(tensors: Sequence[Tensor], factor: Tensor, /) -> None:
    """Multiply every tensor by one factor, in place.

    On the CPU nothing is written where the factor is 1: the pass over the memory is saved.

    Args:
        tensors: Tensors of any shape.
        factor: 0-dim tensor.

    Example:
        >>> t = torch.tensor([2.0, 4.0])
        >>> scale_([t], torch.tensor(0.5)); t
        tensor([1., 2.])
    """
    if can_look(factor) and factor == 1:
        return
    with torch.no_grad():
        for same in alike(flat_views(locals_of(tensors))):
            torch._foreach_mul_(same, factor.to(same[0].device))


def clamp_(tensors: Sequence[Tensor], bound: float, /) -> None:
    """Bring every element into [-bound, bound], in place and in one pass over the memory.

    A complex element has its real and its imaginary part clamped, as optimizers treat it as two numbers.
    What is not a number stays.

    Args:
        tensors: Tensors of any shape.
        bound: The largest magnitude, at least 0.

    Example:
        >>> t = torch.tensor([2.0, -0.5, -3.0])
        >>> clamp_([t], 1.0); t
        tensor([ 1.0000, -0.5000, -1.0000])
    """
    with torch.no_grad():
        for same in alike(flat_views(locals_of(tensors))):
            real = list(map(_real, same)) if same[0].is_complex() else same
            short = [tensor for tensor in real if tensor.numel() < ONE_PASS]
            if short:
                torch._foreach_clamp_min_(short, -bound)
                torch._foreach_clamp_max_(short, bound)
            for tensor in real if len(short) < len(real) else ():
                if tensor.numel() >= ONE_PASS:
                    tensor.clamp_(-bound, bound)


def _real(tensor: Tensor) -> Tensor:
    """Return the memory of a complex tensor as pairs of real numbers."""
    return torch.view_as_real(tensor.conj() if tensor.is_conj() else tensor)


def apply_masks_(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], /) -> None:
    """Set the weights to zero where their mask is false, in place.

    Zeros are written, not multiplied: a weight that is not a number becomes zero as well.

    Args:
        parameters: Weights by name.
        masks: Boolean masks by name, true where the weight stays; a name without a mask is left alone.

    Example:
        >>> w = torch.tensor([1.0, 2.0])
        >>> apply_masks_({"w": w}, {"w": torch.tensor([True, False])}); w
        tensor([1., 0.])
    """
    with torch.no_grad():
        for name, mask in masks.items():
            parameters[name].masked_fill_(~mask, 0)


def fingerprint(tensors: Mapping[str, Tensor], /) -> str:
    """Return the SHA-256 of names, types, shapes and bits: equal where the tensors are, bit for bit.

    Args:
        tensors: Tensors by name, of any shape and type, on any device.

    Returns:
        64 hexadecimal digits; the order of the names does not matter.

    Example:
        >>> zeros, minus = {"w": torch.zeros(2)}, {"w": -torch.zeros(2)}
        >>> fingerprint(zeros) == fingerprint({"w": torch.zeros(2)}) != fingerprint(minus)
        True
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {flat.dtype} {tuple(tensors[name].shape)} ".encode())
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()
