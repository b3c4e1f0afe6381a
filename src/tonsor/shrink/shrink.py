"""Remove what is zero from a model, in place and with a proof."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tonsor.modes import evaluating
from tonsor.sharded import is_sharded
from tonsor.shrink.copies import masked_copy
from tonsor.shrink.cut import slice_state
from tonsor.shrink.decide import decide
from tonsor.shrink.followed import Average, averages, check_average, follow_
from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.plan import Plan, plan_for
from tonsor.shrink.proof import Proof, Unequal
from tonsor.shrink.shrunk import Shrunk, told
from tonsor.shrink.survey import Reading, survey
from tonsor.shrink.trace import MODEL_ERRORS, named_tensors
from tonsor.shrink.trial import Trial, tried
from tonsor.spelling import unknown
from tonsor.tensors import apply_masks_, distinct


def shrink_(
    model: nn.Module,
    groups: ChannelGroups,
    masks: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    ema: Average | Sequence[Average] | None = None,
) -> Shrunk:
    r"""Remove the units of a model that do nothing, in place, and prove that nothing else changed.

    A unit goes if nobody reads it, or if it is constant and the bias of who reads it can take the
    constant: :math:`b \leftarrow b + W_{:,j}\,c_j`. It is constant if no element of it can change with
    the model's input, which is followed through the graph along the weights that are not zero. What is
    found is done to a copy first; masked and sliced copy must give the same outputs on the example and
    on two random inputs, within 1e-5 of the largest output in float32 and 1e-10 in float64. Only then is
    the model touched.

    Parameters stay the same objects, with their gradients, flags and ties. One unit of each group
    stays. Where a bias takes a constant and there is none, the module gets one.

    Where a size is a number in a module, as `num_heads`, the attribute is corrected. Where the number
    stands in the code itself, as in `view(-1, 400)`, the model's own graph is written anew with the sizes
    that are left, and the model's `forward` runs it from then on: the model stays the same object, trains
    and exports, and takes arguments as the example had them, of any batch size where the code allows it.
    The report says so, and names the number (`rewritten`).

    With groups that may lose width (`channel_groups`, `width`), the masked copy takes each mean, variance and
    norm over such channels over those that stay; the report names them (`narrowed`).

    A group of which not even that can be made equal keeps its units, and the report says why
    (`kept_back`); where no other group loses any, the shrink is refused.

    Args:
        model: The module, changed in place.
        groups: Its groups, from `channel_groups`.
        masks: Masks by parameter name, true where the weight stays; zeros are written. `None` takes the
            zeros that are there.
        optimizer: Its state of each sliced parameter is sliced alike, and new biases are added to it.
            Schedulers and gradient scalers go on with it.
        ema: Averages of the weights, masked and sliced alike, in place: an `AveragedModel`, a copy of the
            model, tensors by parameter name, or several of these.

    Returns:
        What was removed, what could not be, and the largest difference.

    Raises:
        ValueError: If groups, masks or averages are another model's, if the model is wrapped or sharded,
            if the optimizer's state cannot be sliced, or if the sliced model does not run or differs. The
            model is then as it was, bit for bit.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        >>> groups = channel_groups(model, torch.ones(1, 4))
        >>> dead = {"2.weight": torch.tensor([[True, False, True]] * 2)}   # nobody reads unit 1
        >>> shrunk = shrink_(model, groups, dead)
        >>> shrunk.removed, shrunk.before, shrunk.after
        ({'0.weight': [1]}, 23, 16)
        >>> model[0]
        Linear(in_features=4, out_features=2, bias=True)
    """
    masks = dict(masks or {})
    _check(model, groups, masks)
    followers = averages(ema)
    for average in followers:
        check_average(average, model)
    masked = _copied(model, masks)
    with evaluating(masked):
        readings = survey(masked, groups)
    plan = plan_for(groups, readings, decide(groups, readings), masked)
    trial, plan = _proved(masked, plan, groups, readings) if plan.decision.removed else (Trial(0.0), plan)
    state = slice_state(optimizer, named_tensors(model), plan.slices) if optimizer else {}
    before = _count(model)
    for average in followers:
        follow_(average, masked, groups, plan, masks)
        if isinstance(average, nn.Module):
            trial.finish_(average)
    apply_masks_(named_tensors(model), masks)
    fresh = plan.apply_(model)
    trial.finish_(model)
    if optimizer is not None:
        _carry_state_(optimizer, state, model, fresh)
    return told(groups, plan, trial, before, _count(model))


def _check(model: nn.Module, groups: ChannelGroups, masks: Mapping[str, Tensor]) -> None:
    """Refuse groups and masks that are another model's, and a model that is not there as a whole."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "shrink.shrink_: DistributedDataParallel has buffers of the old sizes; shrink its `.module` on "
            "every worker, drop the wrapper and wrap the module anew. Optimizer and scheduler stay"
        )
    tensors = named_tensors(model)
    for name, shape in groups.trace.shapes.items():
        got = tuple(tensors[name].shape) if name in tensors else None
        if got is not None and is_sharded(tensors[name]):
            raise ValueError(
                f"shrink.shrink_: '{name}' is sharded over processes; shrink the whole model, then shard it"
            )
        if got != shape:
            raise ValueError(
                f"shrink.shrink_: the groups were found in a model whose '{name}' has shape {shape}; "
                f"here it is {got}. Call channel_groups on this model"
            )
    for name, mask in masks.items():
        if name not in tensors:
            raise ValueError(f"shrink.shrink_: masks: {unknown('parameter', name, tensors)}")
        if mask.shape != tensors[name].shape or mask.dtype != torch.bool:
            raise ValueError(
                f"shrink.shrink_: the mask of '{name}' must be boolean of shape "
                f"{tuple(tensors[name].shape)}; got {mask.dtype} of shape {tuple(mask.shape)}"
            )


def _copied(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a masked copy of the model to try things on."""
    try:
        return masked_copy(model, masks)
    except MODEL_ERRORS as error:
        raise ValueError(
            f"shrink.shrink_: {type(model).__name__} cannot be copied, and nothing is done without a "
            f"trial on a copy: {error}"
        ) from error


def _proved(
    masked: nn.Module, plan: Plan, groups: ChannelGroups, readings: Sequence[Reading]
) -> tuple[Trial, Plan]:
    """Try the plan on a copy and compare; leave out the groups that are to blame if it fails."""
    proof = Proof(masked, groups.trace.example)
    try:
        return tried(proof, plan, groups), plan
    except Unequal as finding:
        blamed = [
            name
            for name in plan.decision.removed
            if _fails(
                proof, plan_for(groups, readings, decide(groups, readings, only={name}), masked), groups
            )
        ]
        rest = set(plan.decision.removed) - set(blamed)
        if blamed and rest:
            less = plan_for(groups, readings, decide(groups, readings, only=rest), masked)
            if less.decision.removed and not _fails(proof, less, groups):
                return tried(proof, less, groups), less.without(plan.decision.removed, blamed, str(finding))
        listed = "; ".join(
            f"'{name}' ({groups.groups[name].describe()})" for name in blamed or plan.decision.removed
        )
        raise ValueError(
            f"shrink.shrink_: {finding}. The model is left as it was. Groups to blame: {listed}. "
            "Keep all their units and try again"
        ) from finding


def _fails(proof: Proof, plan: Plan, groups: ChannelGroups) -> bool:
    """Say whether nothing makes a plan's copy equal."""
    try:
        tried(proof, plan, groups, quick=True)
    except Unequal:
        return True
    return False


def _carry_state_(
    optimizer: torch.optim.Optimizer,
    state: Mapping[Tensor, Mapping[str, Tensor]],
    model: nn.Module,
    fresh: Mapping[str, nn.Parameter],
) -> None:
    """Put the sliced state into the optimizer; a new bias joins its weight's settings."""
    for parameter, tensors in state.items():
        optimizer.state[parameter].update(tensors)
    for path, bias in fresh.items():
        weight = model.get_submodule(path).weight
        for settings in optimizer.param_groups:
            if any(parameter is weight for parameter in settings["params"]):
                settings["params"].append(bias)


def _count(model: nn.Module) -> int:
    """Return how many parameters a model has, tied ones once."""
    return sum(parameter.numel() for parameter in distinct(model.parameters()))
