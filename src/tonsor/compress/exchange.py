"""Sparse parts of gradients go round, and each worker adds up those of all."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.message import header_bytes, pack_sparse, unpack_sparse
from tonsor.compress.pages import fresh
from tonsor.compress.protocol import Averaged
from tonsor.compress.ragged import gather_ragged
from tonsor.compress.sparse import Layout, Sparse, join, planned, read_sparse, write_sparse


def is_worth(grad: Tensor, count: int, bits: int | None, comm: Comm, /) -> bool:
    r"""Tell whether some elements of a gradient should travel alone, and not the whole gradient.

    A gather brings every worker W - 1 messages, where a ring brings a mean in 2 (W - 1) / W times the
    gradient, however many workers there are. So elements travel alone while W / 2 of their messages
    (or one, if that is more) are smaller than the gradient; beyond it the mean of all is cheaper and exact.
    Gradients of fewer than two dimensions (biases, scales) are few and matter: they are sent in full.

    Args:
        grad: The gradient.
        count: How many of its elements would be sent.
        bits: Bits a value, or None for values as they are.
        comm: The workers.

    Returns:
        True where the elements travel alone; the same on all workers.

    Example:
        >>> is_worth(torch.ones(100, 100), 100, None, Comm())
        True
    """
    return is_cheaper(planned([grad.numel()], [count], grad.dtype, bits), grad, comm)


def is_cheaper(layout: Layout, grad: Tensor, comm: Comm, /) -> bool:
    """Tell whether what lies in a layout should travel in place of a gradient; as `is_worth`.

    Args:
        layout: Of one tensor, which need not be the gradient itself.
        grad: The gradient.
        comm: The workers.

    Returns:
        True where what is in the layout travels; the same on all workers.

    Example:
        >>> is_cheaper(planned([64], [8], torch.float32, 2), torch.ones(8, 8), Comm())
        True
    """
    message = layout.nbytes + header_bytes(layout.numels[0], layout.counts[0])
    return grad.ndim >= 2 and max(comm.size, 2) * message < 2 * grad.nbytes


def is_used(grad: Tensor, /) -> Tensor:
    """Tell whether a gradient is not zero everywhere, without waiting for the device.

    Args:
        grad: Any shape.

    Returns:
        0-dim boolean; false for no elements, true for what is not a number.

    Example:
        >>> is_used(torch.tensor([0.0, 2.0])), is_used(torch.zeros(3))
        (tensor(True), tensor(False))
    """
    if grad.numel() == 0:
        return torch.zeros((), dtype=torch.bool, device=grad.device)
    low, high = grad.aminmax()  # one pass
    return (low != 0) | (high != 0)


def gather_sparse(
    parts: Sequence[Sparse], comm: Comm, /, *, bits: int | None = None, is_ragged: bool = False
) -> list[list[Sparse]]:
    """Return the parts of every worker, by rank.

    On a CPU they travel as one checked message (see `pack_sparse`). On a GPU, where a look at the
    header would mean to wait, header and checksum are left out.

    Args:
        parts: What this worker sends, on one device; as many, and of the same tensors, on all workers.
        comm: The workers.
        bits: Bits a value, or None for values as they are.
        is_ragged: Whether the numbers of elements differ between workers; only on a CPU.

    Returns:
        For each rank its parts, those of this worker too, as they came out of the message.

    Raises:
        ValueError: If a message is damaged, or a worker sends other tensors or settings.

    Example:
        >>> from tonsor.compress.sparse import sparse
        >>> part = sparse(torch.tensor([5.0]), torch.tensor([2]), 8)
        >>> gather_sparse([part], Comm())[0][0].places
        tensor([2])
    """
    if not parts:
        return [[] for _ in range(comm.size)]
    if parts[0].values.device.type != "cpu":
        layouts = [planned(part.numels, part.counts, part.values.dtype, bits) for part in parts]
        bodies = [write_sparse(part, layout) for part, layout in zip(parts, layouts, strict=True)]
        return [list(map(read_sparse, row, layouts)) for row in comm.gather(bodies)]
    message = pack_sparse(parts, bits=bits, is_fitted=is_ragged)
    messages = gather_ragged(message, comm) if is_ragged else [row[0] for row in comm.gather([message])]
    rows = [unpack_sparse(row) for row in messages]
    wanted = [part.numels for part in parts]
    for rank, row in enumerate(rows):
        found = [part.numels for part in row]
        if found != wanted:
            raise ValueError(
                f"compress: worker {rank} sent tensors of {found} elements, this one of {wanted}; "
                "give all workers the same model and the same rule"
            )
    return rows


def average_sparse(
    parts: dict[str, Sparse],
    grads: dict[str, Tensor],
    comm: Comm,
    /,
    *,
    bits: int | None = None,
    is_ragged: bool = False,
) -> Averaged:
    """Return the mean of sparse parts over the workers, added in the order of the ranks.

    Args:
        parts: What this worker sends, by name, one tensor each.
        grads: Gradients by name, at least those; they say shape and type.
        comm: The workers.
        bits: Bits a value, or None for values as they are.
        is_ragged: Whether the numbers of elements differ between workers; only on a CPU.

    Returns:
        The mean, and this worker's part as the others see it; only the names of the parts.

    Example:
        >>> from tonsor.compress.sparse import sparse
        >>> g = {"w": torch.tensor([[1.0, -5.0], [2.0, 3.0]])}
        >>> part = sparse(torch.tensor([-5.0]), torch.tensor([1]), 4)
        >>> average_sparse({"w": part}, g, Comm()).mean["w"][0]
        tensor([ 0., -5.])
    """
    dtypes = dict.fromkeys(grads[name].dtype for name in parts)
    groups = [[name for name in parts if grads[name].dtype == dtype] for dtype in dtypes]
    joined = [join([parts[name] for name in names]) for names in groups]
    rows = gather_sparse(joined, comm, bits=bits, is_ragged=is_ragged)
    mean: dict[str, Tensor] = {}
    sent: dict[str, Tensor] = {}
    for place, names in enumerate(groups):
        likes = [grads[name] for name in names]
        everyone = [_typed(row[place], likes[0].dtype) for row in rows]
        mean.update(zip(names, spread(everyone, likes, comm.size), strict=True))
        sent.update(zip(names, spread([everyone[comm.rank]], likes, 1), strict=True))
    return Averaged(mean, sent)


def spread(parts: Sequence[Sparse], likes: Sequence[Tensor], divisor: int, /) -> list[Tensor]:
    """Return the sum of sparse parts over a divisor, as tensors with zeros elsewhere.

    Args:
        parts: Parts of the same tensors.
        likes: Tensors of their numbers of elements, of one type and device, which give shape, type and
            device of the results; the sum is taken in float32 at least.
        divisor: What each part is divided by before it is added.

    Returns:
        One tensor for each of `likes`.

    Example:
        >>> from tonsor.compress.sparse import sparse
        >>> part = sparse(torch.tensor([5.0]), torch.tensor([2]), 4)
        >>> spread([part, part], [torch.empty(2, 2)], 4)
        [tensor([[0.0000, 0.0000],
                [2.5000, 0.0000]])]
    """
    wide = torch.promote_types(likes[0].dtype, torch.float32)
    numels = [like.numel() for like in likes]
    total = fresh((sum(numels),), wide, likes[0].device, is_zero=True)
    for part in parts:
        total.index_add_(0, part.places, part.values.to(wide) / divisor)
    flats = total.to(likes[0].dtype).split_with_sizes(numels)
    return [flat.view(like.shape) for flat, like in zip(flats, likes, strict=True)]


def _typed(part: Sparse, dtype: torch.dtype) -> Sparse:
    """Return the part with values rounded to the gradient's type: what `sent` can hold is what is sent."""
    return part._replace(values=part.values.to(dtype))
