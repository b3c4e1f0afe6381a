"""Masks that regrow: some elements go, as many come back, and each weight stays as sparse as it was."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from tonsor.prune.by_gradient import gradient
from tonsor.prune.by_weight import magnitude, random
from tonsor.prune.protocol import Importance, Masks, Stats
from tonsor.prune.select import check_sparsity, keep_highest
from tonsor.prune.statistics import NAME, arguments


@torch.no_grad()
def regrow(
    weights: Mapping[str, Tensor],
    fraction: float,
    /,
    *,
    stats: Stats | None = None,
    within: Mapping[str, Tensor] | None = None,
    step: int = 0,
    rules: tuple[Importance, Importance] = (magnitude, random),
    among: Mapping[str, Tensor] | None = None,
) -> Masks:
    r"""Drop the lowest elements of each weight and grow as many of the highest by a second importance.

    Of the :math:`n` elements that stay, the :math:`k = \text{round}(f n)` of lowest score go. Then the k
    of highest score come back among all that are now removed; one that has just gone may, and then it was
    never away. A weight without a mask is dense and stays so. Nothing is changed by the call: what comes
    back has the weight 0 if the masks were applied before.

    Args:
        weights: Weights by name, shape `(out, in, ...)`.
        fraction: Fraction of what stays that moves, in [0, 1); more explores faster and disturbs more.
        stats: Statistics by weight and name, for the two importances.
        within: The masks that hold; they are moved, not narrowed.
        step: Number of the step; another step is another draw for an importance that is random.
        rules: What scores for dropping, and what scores for growing.
        among: Masks of what may grow; everything if not given. It must hold what stays now.

    Returns:
        Boolean masks by name, with as many elements as `within` in each.

    Raises:
        ValueError: If the fraction is out of its range, a statistic is missing, or scores are not finite.

    Example:
        >>> from tonsor.prune import magnitude
        >>> w = {"w": torch.tensor([4.0, 1.0, 0.0, 0.0])}
        >>> wanted = lambda weight, gradient, /: gradient.abs()
        >>> regrow(w, 0.5, within={"w": torch.tensor([True, True, False, False])},
        ...     stats={"w": {"gradient": torch.tensor([0.0, 0.0, 0.1, -3.0])}}, rules=(magnitude, wanted))
        {'w': tensor([ True, False, False,  True])}

    References:
        Mocanu et al., 2018, "Scalable Training of Artificial Neural Networks with Adaptive Sparse
        Connectivity", https://arxiv.org/abs/1707.04780
        Evci et al., 2020, "Rigging the Lottery: Making All Tickets Winners", https://arxiv.org/abs/1911.11134
    """
    check_sparsity("regrow", fraction)
    held = {name: mask.to(weights[name].device) for name, mask in (within or {}).items() if name in weights}
    chosen = {name: weights[name] for name in held}
    of_step = {name: f"{name} {step}" for name in held}
    drop = _scores(chosen, stats or {}, rules[0], {name: name for name in held})
    grow = _scores(chosen, stats or {}, rules[1], of_step)
    for name, mask in (among or {}).items():
        if name in held:
            grow[name] = grow[name].where(mask.to(grow[name].device), -torch.inf)
    moved = {name: _moved(mask, drop[name], grow[name], fraction) for name, mask in held.items()}
    return {name: moved.get(name, torch.ones_like(w, dtype=torch.bool)) for name, w in weights.items()}


def _scores(
    weights: Mapping[str, Tensor], stats: Stats, importance: Importance, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the scores of every weight, all finite; the importance is told the names as they are given."""
    scores = {}
    for name, weight in weights.items():
        known = {NAME: names[name], **stats.get(name, {})}
        lacking = [statistic for statistic in arguments(importance) if statistic not in known]
        if lacking:
            raise ValueError(
                f"prune.regrow: an importance needs '{lacking[0]}' of weight '{name}'; let a watch or collect"
                " give it (RigL: collect=DenseGradient(parameters))"
            )
        scores[name] = importance(weight.detach(), *(known[statistic] for statistic in arguments(importance)))
        if not scores[name].isfinite().all():
            raise ValueError(
                f"prune.regrow: weight '{name}' got a score that is infinite or not a number; look at the"
                " weight and its statistics"
            )
    return scores


def _moved(alive: Tensor, drop: Tensor, grow: Tensor, fraction: float) -> Tensor:
    """Return which elements of one weight stay after k have gone and k have come."""
    total, count = alive.numel(), int(alive.sum())
    moving = round(fraction * count)
    if moving == 0:
        return alive
    stay = _highest(drop.where(alive, -torch.inf), count - moving, total)
    return stay | _highest(grow.where(~stay, -torch.inf), moving, total)


def _highest(scores: Tensor, count: int, total: int) -> Tensor:
    """Return the highest elements, just so many."""
    return keep_highest([scores], (total - count) / total)[0] if count else torch.zeros_like(scores).bool()


def sparse_evolution(
    weights: Mapping[str, Tensor],
    fraction: float,
    /,
    *,
    stats: Stats | None = None,
    within: Mapping[str, Tensor] | None = None,
    step: int = 0,
    seed: int = 0,
    among: Mapping[str, Tensor] | None = None,
) -> Masks:
    """Drop the smallest weights and grow as many at random: SET, Sparse Evolutionary Training.

    The paper moves `fraction` = 0.3 after each epoch, to the end. The draw depends on seed, name and step
    alone, so that all ranks, and a resumed run, grow the same. See `regrow` for the other arguments.

    Args:
        weights: Weights by name.
        fraction: Fraction of what stays that moves, in [0, 1).
        stats: Not needed.
        within: The masks that hold.
        step: Number of the step.
        seed: Another seed is another draw.
        among: Masks of what may grow; everything if not given.

    Returns:
        Boolean masks by name, with as many elements as `within` in each.

    Example:
        >>> w = {"w": torch.tensor([4.0, 1.0, 0.0, 0.0])}
        >>> masks = {"w": torch.tensor([True, True, False, False])}
        >>> [sparse_evolution(w, 0.5, within=masks, step=step)["w"].int().tolist() for step in (1, 7, 12)]
        [[1, 0, 0, 1], [1, 1, 0, 0], [1, 0, 1, 0]]

    References:
        Mocanu et al., 2018, "Scalable Training of Artificial Neural Networks with Adaptive Sparse
        Connectivity", https://arxiv.org/abs/1707.04780
    """
    rules = (magnitude, partial(random, seed=seed))
    return regrow(weights, fraction, stats=stats, within=within, step=step, rules=rules, among=among)


def rigl(
    weights: Mapping[str, Tensor],
    fraction: float,
    /,
    *,
    stats: Stats | None = None,
    within: Mapping[str, Tensor] | None = None,
    step: int = 0,
    among: Mapping[str, Tensor] | None = None,
) -> Masks:
    r"""Drop the smallest weights and grow those of largest gradient: RigL, the rigged lottery.

    The paper moves :math:`f(t) = \frac{\alpha}{2}(1 + \cos(\pi t / T_{end}))` every 100 steps, with
    alpha = 0.3 and T_end at 75 % of the training: the schedule `cosine` from 0.3 to 0. The gradient is the
    one of the step, of removed weights too: let a `DenseGradient` watch. See `regrow` for the arguments.

    Args:
        weights: Weights by name.
        fraction: Fraction of what stays that moves, in [0, 1).
        stats: By weight, the `gradient`.
        within: The masks that hold.
        step: Not needed.
        among: Masks of what may grow; everything if not given.

    Returns:
        Boolean masks by name, with as many elements as `within` in each.

    Example:
        >>> from tonsor.prune import DenseGradient, Pruner
        >>> from tonsor.schedule import cosine
        >>> w = torch.tensor([4.0, 1.0, 0.0, 0.0], requires_grad=True)
        >>> pruner = Pruner({"w": w}, rigl, regrow=True, every=1,
        ...     schedule=partial(cosine, initial=0.5, final=0.0, stop=75),
        ...     within={"w": torch.tensor([True, True, False, False])}, collect=DenseGradient({"w": w}))
        >>> (w * torch.tensor([0.0, 0.0, 0.1, -3.0])).sum().backward()
        >>> pruner.observe(); pruner.step(); pruner.masks
        {'w': tensor([ True, False, False,  True])}

    References:
        Evci et al., 2020, "Rigging the Lottery: Making All Tickets Winners", https://arxiv.org/abs/1911.11134
    """
    rules = (magnitude, gradient)
    return regrow(weights, fraction, stats=stats, within=within, step=step, rules=rules, among=among)
