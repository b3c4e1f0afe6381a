"""Try a plan on a copy: as the module is, with its numbers corrected, with its graph in place of its code."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.shrink.attributes import correct_, corrected
from tonsor.shrink.copies import twin
from tonsor.shrink.forward import GraphForward
from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.kept import Kept, kept_of
from tonsor.shrink.plan import Plan
from tonsor.shrink.proof import Proof, Unequal
from tonsor.shrink.reference import reference
from tonsor.shrink.rewrite import rewritten
from tonsor.shrink.trace import MODEL_ERRORS, Trace, trace_of


@dataclass(frozen=True)
class Trial:
    """Say how a sliced model computes what the masked one does.

    Args:
        difference: The largest difference, as a share of the largest output.
        attributes: By module the numbers that are corrected.
        graph: The rewritten graph where the module's own code cannot run, and who its inputs are.
        reason: Why the code cannot run.
        narrowed: The operations whose statistics were taken over the channels that stay in the model it
            was compared with.

    Example:
        >>> Trial(0.0).graph is None
        True
    """

    difference: float
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    graph: tuple[torch.fx.GraphModule, Trace] | None = None
    reason: str = ""
    narrowed: tuple[str, ...] = ()

    def finish_(self, model: nn.Module) -> None:
        """Do to a sliced model what the copy needed beyond slicing."""
        correct_(model, self.attributes)
        if self.graph is not None:
            module, trace = self.graph
            object.__setattr__(model, "forward", GraphForward(model, module, trace).forward)


def tried(proof: Proof, plan: Plan, groups: ChannelGroups, *, quick: bool = False) -> Trial:
    """Return what makes a sliced copy equal to the masked model, or to its `reference`.

    Args:
        proof: Of the model with zeros, which is only run and copied.
        plan: What is sliced and folded.
        groups: The groups it came from.
        quick: Do not look for a graph of any batch size, nor for the fewest numbers.

    Raises:
        Unequal: If nothing makes them equal: says what is wrong with the copy as it is.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> from tonsor.shrink.decide import Decision
        >>> from tonsor.shrink.plan import plan_for
        >>> model = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1))
        >>> groups = channel_groups(model, torch.ones(1, 1))
        >>> plan = plan_for(groups, [], Decision(groups.roots < 0, {}, ()), model)
        >>> tried(Proof(model, groups.trace.example), plan, groups).reason
        ''
    """
    small = twin(proof.masked, own=plan.folds)
    plan.apply_(small)
    judge, kept = proof, None
    narrowed: tuple[str, ...] = ()
    if groups.trace.freedom.width:
        kept = kept_of(groups, plan.decision.gone)
        wide, narrowed = reference(proof.masked, groups.trace, kept)
        judge = Proof(wide, groups.trace.example) if narrowed else proof
    try:
        return Trial(judge.of(small), narrowed=narrowed)
    except Unequal as finding:
        first = finding
    kept = kept or kept_of(groups, plan.decision.gone)
    for trial in _ways(proof.masked, small, groups, kept, "" if quick else str(first)):
        proved = _proved(judge, small, replace(trial, narrowed=narrowed))
        if proved is not None:
            return proved if quick else _least(judge, small, proved)
    raise first


def _proved(proof: Proof, small: nn.Module, trial: Trial) -> Trial | None:
    """Return what was tried with its difference if it makes a copy equal."""
    again = twin(small)
    trial.finish_(again)
    try:
        return replace(trial, difference=proof.of(again))
    except Unequal:
        return None


def _least(proof: Proof, small: nn.Module, trial: Trial) -> Trial:
    """Leave attributes alone that equal a size by chance: those without which the copy is equal too."""
    for name in sorted({name for own in trial.attributes.values() for name in own}):
        rest = {
            path: {other: value for other, value in own.items() if other != name}
            for path, own in trial.attributes.items()
        }
        fewer = {path: own for path, own in rest.items() if own}
        if fewer:
            trial = _proved(proof, small, replace(trial, attributes=fewer)) or trial
    return trial


def _ways(
    masked: nn.Module, small: nn.Module, groups: ChannelGroups, kept: Kept, reason: str
) -> Iterator[Trial]:
    """Yield what can be done: numbers corrected, the graph for any batch size, the graph as it is."""
    trace = groups.trace
    _, changes = rewritten(trace.graph, kept, trace.graph) or (None, [])
    attributes, later = (corrected(small, changes, last=last) for last in (False, True))
    if attributes:
        yield Trial(0.0, attributes)
    if later != attributes:
        yield Trial(0.0, later)
    numbers = sorted({f"{change.old} in '{change.paths[0]}'" for change in changes})
    named = f"; numbers that are sizes there: {', '.join(numbers[:6])}" if numbers else ""
    free = _for_any_batch(masked, groups) if reason else None
    for own in (free, trace):
        graph = None if own is None else rewritten(own.graph, kept, trace.graph)
        if own is not None and graph is not None:
            yield Trial(0.0, {}, (graph[0], own), reason + named)


def gone_from(groups: ChannelGroups, slices: Mapping[str, Mapping[int, Tensor]]) -> Tensor:
    """Return which labels are gone when these indices stay.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> groups = channel_groups(nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1)), torch.ones(1, 1))
        >>> gone_from(groups, {"0.weight": {0: torch.tensor([0, 2])}}).nonzero().tolist()
        [[2]]
    """
    gone = torch.zeros(len(groups.roots), dtype=torch.bool)
    for group in groups.groups.values():
        for part in group.slices:
            stays = slices.get(part.parameter, {}).get(part.dim)
            if stays is not None:
                gone[group.roots[~torch.isin(part.index[:, 0], stays)]] = True
    return gone


def graph_of(model: nn.Module, groups: ChannelGroups, gone: Tensor) -> Trial:
    """Return the rewritten graph of a model that is not sliced yet.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> model = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1))
        >>> groups = channel_groups(model, torch.ones(1, 1))
        >>> graph_of(model, groups, gone_from(groups, {})).graph is None
        False
    """
    kept = kept_of(groups, gone)
    for own in (_for_any_batch(model, groups), groups.trace):
        graph = None if own is None else rewritten(own.graph, kept, groups.trace.graph)
        if own is not None and graph is not None:
            return Trial(0.0, {}, (graph[0], own))
    return Trial(0.0)


def _for_any_batch(model: nn.Module, groups: ChannelGroups) -> Trace | None:
    """Return the graph with the batch size left open, if the model allows it."""
    from torch.utils._pytree import tree_leaves, tree_map_only

    args, kwargs = groups.trace.example
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if any(tensor.ndim and len(tensor) == 1 for tensor in tensors):
        args, kwargs = tree_map_only(Tensor, _doubled, (args, kwargs))
    try:
        return trace_of(model, args, kwargs, batch=True)
    except (ValueError, *MODEL_ERRORS):
        return None


def _doubled(tensor: Tensor) -> Tensor:
    """Return a tensor with its one row twice."""
    return torch.cat([tensor, tensor]) if tensor.ndim and len(tensor) == 1 else tensor
