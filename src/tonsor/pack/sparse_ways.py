"""Ways to multiply with a pruned weight: dense, MKL's CSR, the compiled kernel, whole numbers of 8 bits."""

import copy
import warnings
from collections.abc import Callable
from typing import Protocol, final

import torch
from torch import Tensor, nn

from tonsor.pack.sparse_rows import Rows, product_of_columns

TINY = 1e-30  # a row of zeros has a scale too


class Way(Protocol):
    """Multiply with a weight that was made ready.

    Example:
        >>> from tonsor.pack.sparse_rows import rows_of
        >>> way: Way = Dense(rows_of(torch.eye(2)))
        >>> way(torch.tensor([[1.0, 2.0]]), None, turned=False)
        tensor([[1., 2.]])
    """

    def __call__(self, x: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
        """Return `(columns, rows)` of `x`, `(columns, features)`; `turned` lets columns lie side by side."""


@final
class Dense:
    """Multiply with the zeros too, as `nn.Linear` does.

    Args:
        rows: The weight.

    Example:
        >>> from tonsor.pack.sparse_rows import rows_of
        >>> Dense(rows_of(torch.eye(2)))(torch.tensor([[1.0, 2.0]]), None, turned=False)
        tensor([[1., 2.]])
    """

    def __init__(self, rows: Rows) -> None:
        self.weight = rows.dense()

    def __call__(self, x: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
        """Return the product."""
        return nn.functional.linear(x, self.weight, bias)


@final
class Csr:
    r"""Multiply by torch's CSR, which is MKL's: as :math:`W x^T`, since :math:`x W^T` is six times slower.

    Args:
        rows: The weight.

    Example:
        >>> from tonsor.pack.sparse_rows import rows_of
        >>> Csr(rows_of(torch.eye(2)))(torch.tensor([[1.0, 2.0]]), None, turned=False)
        tensor([[1., 2.]])
    """

    def __init__(self, rows: Rows) -> None:
        size = (rows.number, rows.features)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            self.weight = torch.sparse_csr_tensor(
                rows.pointers, rows.columns(), rows.values, size, check_invariants=False
            )

    def __call__(self, x: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
        """Return the product."""
        out = (self.weight @ x.t()).t()
        if bias is not None:
            out = out.add_(bias)
        return out if turned else out.contiguous()

    def __deepcopy__(self, memo: dict[int, object]) -> "Csr":
        """Return a copy; torch copies no sparse tensor in depth."""
        copied = copy.copy(self)
        copied.weight = self.weight.clone()
        return copied


@final
class Kernel:
    """Multiply by the compiled kernel, or in plain torch where there is no compiler.

    Args:
        rows: The weight, float32.

    Example:
        >>> from tonsor.pack.sparse_rows import rows_of
        >>> Kernel(rows_of(torch.eye(2)))(torch.tensor([[1.0, 2.0]]), None, turned=False)
        tensor([[1., 2.]])
    """

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, x: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
        """Return the product."""
        return product_of_columns(self.rows, x, bias, turned=turned)


@final
class Int8:
    r"""Multiply whole numbers of 8 bits: a scale for each row of the weight, and one for each sample.

    .. math:: y = s_x s_w \odot (q_x q_w^T) + b, \quad q = \mathrm{round}(127\, v / \max |v|)

    It changes the outputs by about a hundredth of their size, and it does not use the zeros.

    Args:
        rows: The weight.

    Example:
        >>> from tonsor.pack.sparse_rows import rows_of
        >>> Int8(rows_of(torch.eye(2)))(torch.tensor([[1.0, 2.0]]), None, turned=False)
        tensor([[1.0079, 2.0000]])
    """

    def __init__(self, rows: Rows) -> None:
        weight = rows.whole()
        self.scale = weight.abs().amax(1).clamp_min_(TINY) / 127
        self.weight = (weight / self.scale[:, None]).round_().to(torch.int8).t()

    def __call__(self, x: Tensor, bias: Tensor | None, *, turned: bool) -> Tensor:
        """Return the product."""
        scale = x.abs().amax(1, keepdim=True).clamp_min_(TINY).div_(127)
        whole = torch.round(x / scale).to(torch.int8).contiguous()
        out = torch._int_mm(whole, self.weight).to(x.dtype).mul_(scale).mul_(self.scale)
        return out if bias is None else out.add_(bias)


WAYS: dict[str, Callable[[Rows], Way]] = {
    "dense": Dense,
    "csr": Csr,
    "kernel": Kernel,
    "int8": Int8,
}
EXACT = ("dense", "csr", "kernel")  # equal up to rounding
