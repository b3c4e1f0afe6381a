"""Weights that share values, each column's error made up for by the columns that follow."""

from dataclasses import replace

import torch
from torch import Tensor

from tonsor.pack.by_kmeans import kmeans
from tonsor.pack.shared import Shared, Sharing, runs_of


@torch.no_grad()
def gptq(
    weight: Tensor,
    gram: Tensor,
    /,
    *,
    bits: int = 4,
    sharing: Sharing = kmeans,
    damping: float = 0.01,
    block: int = 128,
) -> Shared:
    r"""Share values so that what the layer gives changes little, rather than the weight itself.

    The table is that of `sharing`. Codes are chosen column by column, the inputs with the largest squares
    first: each weight takes the nearest value, and with :math:`H^{-1} = U^\top U`, U upper triangular, what
    it lost is pushed to the columns that follow,

    .. math:: w_{i,j+1:} \leftarrow w_{i,j+1:} - (w_{ij} - T_c) \, U_{j,j+1:} / U_{jj}

    Weights that are zero stay zero, and others may become so.

    Args:
        weight: Shape `(out, in/groups, ...)`, finite.
        gram: :math:`H = E[x x^\top]` of what each output reads, shape `(K, K)`, K being the elements of one
            output; `(G, K, K)` for a convolution in G groups: the statistic `input_gram` of
            `tonsor.prune.collect`.
        bits: Of a code, in [2, 8].
        sharing: A rule of `SHARINGS`, with its other settings bound.
        damping: Added to H's diagonal, over its mean; more pushes less.
        block: Columns whose errors are passed on at once; changes the speed alone.

    Returns:
        The codes and the table.

    Raises:
        ValueError: If the gram's shape does not fit, or it is not positive definite after damping.

    Example:
        >>> from tonsor.pack import uniform
        >>> weight, gram = torch.tensor([[1.2, 1.7, 2.0]]), torch.tensor([[2.0, 1, 0], [1, 1, 0], [0, 0, 1]])
        >>> gptq(weight, gram, bits=2, sharing=uniform, damping=0.0).values()   # 1.7 gives the 0.8 back
        tensor([[2., 0., 2.]])

    References:
        Frantar et al., 2023, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
        Transformers", https://arxiv.org/abs/2210.17323
    """
    first = sharing(weight, bits=bits)
    grams = gram.double() if gram.ndim == 3 else gram.double().unsqueeze(0)
    per_row = weight[0].numel()
    if grams.shape[1:] != (per_row, per_row) or weight.shape[0] % len(grams):
        raise ValueError(
            f"pack.gptq: for a weight {tuple(weight.shape)} the gram must be ({per_row}, {per_row}), "
            f"or (G, {per_row}, {per_row}) for G groups; got {tuple(gram.shape)}"
        )
    rows = weight.double().reshape(len(grams), -1, per_row)
    table = first.table().double()[runs_of(weight, first.groups)].view(*rows.shape[:2], -1)
    codes = [_coded(*each, damping, block) for each in zip(rows, table, grams, strict=True)]
    return replace(first, codes=torch.cat(codes).view(weight.shape))


def _coded(rows: Tensor, table: Tensor, gram: Tensor, damping: float, block: int) -> Tensor:
    """Return the codes of rows that read the same inputs."""
    order = gram.diagonal().argsort(descending=True, stable=True)
    upper, rows = _factor(gram[order][:, order], damping), rows[:, order]
    stays, codes = rows != 0, torch.zeros(rows.shape, dtype=torch.uint8, device=rows.device)
    for start in range(0, rows.shape[1], block):
        columns = slice(start, min(start + block, rows.shape[1]))
        codes[:, columns], errors = _sweep(
            rows[:, columns], stays[:, columns], table, upper[columns, columns]
        )
        rows[:, columns.stop :] -= errors @ upper[columns, columns.stop :]
    return codes[:, order.argsort()]


def _sweep(rows: Tensor, stays: Tensor, table: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Go through the columns of one block, in place; return their codes, and what each passes on."""
    values, names = table.sort(dim=1, stable=True)
    middles = (values[:, 1:] + values[:, :-1]) / 2
    codes, errors = torch.zeros_like(stays, dtype=torch.uint8), torch.zeros_like(rows)
    for j in range(rows.shape[1]):
        column = rows[:, j, None].contiguous()
        code = names.gather(1, torch.searchsorted(middles, column)) * stays[:, j, None]
        lost = (column - table.gather(1, code)) / upper[j, j]
        rows[:, j:] -= lost * upper[j, j:]
        codes[:, j], errors[:, j] = code[:, 0].to(torch.uint8), lost[:, 0]
    return codes, errors


def _factor(gram: Tensor, damping: float) -> Tensor:
    """Return the upper triangular U with the inverse of the damped gram being its square."""
    diagonal = gram.diagonal()
    mean = diagonal.mean()
    silent = torch.where(mean > 0, mean, 1.0)  # what an input that is never seen gets instead
    lower, failed = torch.linalg.cholesky_ex(
        gram + torch.diag(torch.where(diagonal > 0, damping * mean, silent))
    )
    if bool(failed):
        raise ValueError(
            f"pack.gptq: the gram is not positive definite; raise damping={damping}, or collect more inputs"
        )
    upper: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
    return upper
