"""The scope that prunes every tensor until the loss rises alike."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from tonsor.prune.allocation import same_rise
from tonsor.prune.select import check_sparsity, keep_highest
from tonsor.spelling import unknown


def same_sensitivity(
    units: Mapping[str, Tensor],
    sparsity: float,
    /,
    *,
    curves: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> dict[str, Tensor]:
    r"""Prune each tensor until it alone raises the loss as much as any other: :math:`\Delta_l(s_l) = \tau`.

    :math:`\tau` is such that the tensors together lose the sparsity; inside a tensor its units compete. So a
    schedule that rises removes first where it hurts least, and no unit comes back.

    Args:
        units: Scores by name, of any shape.
        sparsity: Fraction removed of all units together, in [0, 1), met to half a unit a tensor.
        curves: For each name pairs of sparsity and rise of the loss, from (0, 0) upwards: the `curves` of a
            `Sensitivity`; more names are welcome. Without it all tensors count as equally sensitive, and
            lose the same fraction.

    Returns:
        One boolean for each unit, true where it stays.

    Raises:
        ValueError: If `sparsity` lies outside [0, 1), or a tensor has no curve.

    Example:
        >>> import torch
        >>> curves = {"a": [(0.0, 0.0), (0.5, 0.5)], "b": [(0.0, 0.0), (0.5, 0.0)]}
        >>> units = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([8.0, 9.0])}
        >>> same_sensitivity(units, 0.25, curves=curves)
        {'a': tensor([True, True]), 'b': tensor([False,  True])}

    References:
        Li et al., 2017, "Pruning Filters for Efficient ConvNets", section 3.2,
        https://arxiv.org/abs/1608.08710
    """
    check_sparsity("same_sensitivity", sparsity)
    if curves is None:
        return {name: keep_highest([unit], sparsity)[0] for name, unit in units.items()}
    for name in units:
        if name not in curves:
            raise ValueError(f"prune.same_sensitivity: in curves: {unknown('weight', name, curves)}")
    sizes = {name: unit.numel() for name, unit in units.items()}
    shares = same_rise({name: curves[name] for name in units}, sizes, sparsity)
    return {name: keep_highest([unit], shares[name])[0] for name, unit in units.items()}
