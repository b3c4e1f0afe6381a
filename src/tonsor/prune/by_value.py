"""Scopes that look at how large the scores of a tensor are beside one another."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from tonsor.prune.scopes import across
from tonsor.prune.select import check_sparsity


def lamp(units: Mapping[str, Tensor], sparsity: float, /) -> dict[str, Tensor]:
    r"""Let all units compete by their share of what is left: :math:`s_u^2 / \sum_{v:\, s_v \ge s_u} s_v^2`.

    The sum goes over the units of the same tensor that are not below. Within a tensor the order stays, and
    its highest unit has share 1, so no tensor is emptied while others have more than one unit. The paper's
    scores are magnitudes; any that are not negative will do. Negative ones go first, the lowest before the
    others.

    Args:
        units: Scores by name, of any shape.
        sparsity: Fraction removed of all units together, in [0, 1); exactly round(sparsity * units) go.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1).

    Example:
        >>> units = {"small": torch.tensor([1.0, 2.0]), "large": torch.tensor([30.0, 10.0])}
        >>> lamp(units, 0.5)                        # shares 1/5 and 1, 1 and 1/10
        {'small': tensor([False,  True]), 'large': tensor([ True, False])}

    References:
        Lee et al., 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning",
        https://arxiv.org/abs/2010.07611
    """
    check_sparsity("lamp", sparsity)
    return across({name: _shares(unit) for name, unit in units.items()}, sparsity)


def _shares(unit: Tensor) -> Tensor:
    """Return the shares of one tensor, summed in float64; negative scores stay as they are."""
    if not unit.numel():
        return unit
    flat = unit.reshape(-1).double()
    order = flat.argsort(stable=True)
    rising = flat[order]
    highest = rising[-1:]
    squares = (rising.clamp(min=0) / highest.where(highest > 0, 1)).square()
    above = squares.flip(0).cumsum(0).flip(0)
    shares = (squares / above.where(above > 0, 1)).where(rising >= 0, rising)
    found = torch.empty_like(flat).scatter(0, order, shares)
    return found.view(unit.shape).to(torch.promote_types(unit.dtype, torch.float32))


def owl(
    units: Mapping[str, Tensor],
    sparsity: float,
    /,
    *,
    spread: float = 0.08,
    multiple: float = 5.0,
    block: str = "",
) -> dict[str, Tensor]:
    r"""Take less of the tensors that have more outliers, then let the units of each output compete.

    A tensor's outliers are the scores above `multiple` times its mean; D is their share. Its sparsity is
    :math:`S - \lambda\,(D - \bar D) / \max |D - \bar D|`, so that all lie within :math:`\lambda` of their
    mean S, to the unit. (The authors' program lets lowest and highest lie :math:`2 \lambda` apart instead.)
    Near 0 and 1 the spread shrinks to what is left, :math:`\min(\lambda, S, 1 - S)`.

    Args:
        units: Scores by name, of shape `(out, ...)`, best those of `wanda`. What an earlier pass removed
            counts as a score of 0.
        sparsity: Fraction removed of all units together, in [0, 1); exactly round(sparsity * units) go, and
            those of one tensor evenly from its outputs, to the unit.
        spread: How far a tensor's sparsity may lie from the mean, the paper's lambda, in [0, 0.5].
        multiple: How many times the mean an outlier exceeds, the paper's M; above 0. Usual are 5 to 10.
        block: A regular expression: tensors in whose names it finds the same text are one layer, and lose
            alike; `'layers[.][0-9]+'` gives the paper's layers, whole transformer blocks.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1), `spread` outside [0, 0.5], or `multiple` is not
            above 0.

    Example:
        >>> units = {"even": torch.ones(1, 10), "odd": torch.tensor([[99.0] + [1.0] * 9])}
        >>> keep = owl(units, 0.5, spread=0.2)
        >>> int(keep["even"].sum()), int(keep["odd"].sum())
        (3, 7)

    References:
        Yin et al., 2024, "Outlier Weighed Layerwise Sparsity (OWL)", https://arxiv.org/abs/2310.05175
    """
    check_sparsity("owl", sparsity)
    if not 0 <= spread <= 0.5 or not multiple > 0:
        raise ValueError(
            "prune.owl: spread must lie in [0, 0.5] and multiple above 0;"
            f" got spread={spread}, multiple={multiple}"
        )
    layers = {name: _layer(name, block) for name in units}
    leans = _leans(units, layers, multiple)
    return across({name: _turns(unit, leans[layers[name]], spread) for name, unit in units.items()}, sparsity)


def _layer(name: str, block: str) -> str:
    """Return the name of the layer that a tensor belongs to."""
    found = re.search(block, name)
    return found.group() if found and found.group() else name


def _leans(units: Mapping[str, Tensor], layers: Mapping[str, str], multiple: float) -> dict[str, Tensor]:
    """Return how far the share of outliers of each layer lies from the mean, from -1 to 1."""
    members: dict[str, list[Tensor]] = {}
    for name, unit in units.items():
        members.setdefault(layers[name], []).append(unit)
    sizes = [max(1, sum(unit.numel() for unit in of)) for of in members.values()]
    shares = [_outliers(of, multiple) / size for of, size in zip(members.values(), sizes, strict=True)]
    if not shares:
        return {}
    device = shares[0].device
    share = torch.stack([s.to(device) for s in shares])
    weighted = [s * (size / sum(sizes)) for s, size in zip(share.unbind(), sizes, strict=True)]
    lean = share - torch.stack(weighted).sum()
    furthest = lean.abs().max()
    lean = (lean / furthest.where(furthest > 1e-12, 1)).where(furthest > 1e-12, 0)  # 1e-12: all alike
    return dict(zip(members, lean.unbind(), strict=True))


def _outliers(members: list[Tensor], multiple: float) -> Tensor:
    """Return how many scores of a layer exceed a multiple of their mean; removed ones count as 0."""
    device = members[0].device
    sums = [unit.clamp(min=0).sum(dtype=torch.float64).to(device) for unit in members]
    mean = torch.stack(sums).sum() / max(1, sum(unit.numel() for unit in members))
    counts = [
        (unit > multiple * mean.to(unit.device)).sum(dtype=torch.float64).to(device) for unit in members
    ]
    return torch.stack(counts).sum()


def _turns(unit: Tensor, lean: Tensor, spread: float) -> Tensor:
    """Return the mean sparsity at which each unit goes: the lowest of each output first, outputs in turn."""
    rows = unit.flatten(1) if unit.ndim > 1 else unit.reshape(1, -1)
    order = rows.argsort(dim=-1, stable=True)
    ranks = torch.arange(rows.shape[-1], device=unit.device).expand_as(order)
    rank = torch.empty_like(order).scatter(-1, order, ranks)
    turn = rank * rows.shape[0] + torch.arange(rows.shape[0], device=unit.device).view(-1, 1)
    share = (turn.double() + 0.5) / max(
        1, unit.numel()
    )  # the tensor's own sparsity at which it rounds to one more
    lean = lean.to(unit.device)
    low = share / (1 - lean).clamp(min=1e-12)
    middle = share + spread * lean
    high = (share + lean) / (1 + lean).clamp(min=1e-12)
    when = low.where(share < spread * (1 - lean), middle.where(share <= 1 - spread * (1 + lean), high))
    return when.view(unit.shape).where(unit > -torch.inf, -torch.inf)
