"""One pass of pruning: masks that move while the model trains on, or rounds of pruning and training."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from tonsor.files import read_tensors
from tonsor.prune import (
    Budget,
    Masks,
    SoftPruner,
    apply_masks_,
    collect,
    find_masks,
    find_sparsity,
    needs,
)
from tonsor.recipe import build
from tonsor.recipe.batches import Batches, mix, place
from tonsor.recipe.binding import Mistakes, tunable
from tonsor.recipe.build import Cut
from tonsor.recipe.context import Run
from tonsor.recipe.coupled import Coupled
from tonsor.recipe.driving import Finding, driver, gathering
from tonsor.recipe.fit import Fit
from tonsor.recipe.job import Job, sparsity
from tonsor.recipe.manners import is_in_rounds
from tonsor.recipe.retraining import recalibrate, teacher
from tonsor.recipe.schema import Export, Heal, Pack, PrunePass
from tonsor.recipe.selection import prunable
from tonsor.schedule import exponential
from tonsor.shrink import channel_groups

Data = Mapping[str, Dataset[Any]]


def one_pass(
    run: Run, model: nn.Module, data: Data, number: int, masks: Mapping[str, Tensor]
) -> tuple[Masks, dict[str, Fit]]:
    """Prune to the sparsity of one pass, within the masks of the passes before.

    Args:
        run: The run.
        model: The model, trained on and masked in place.
        data: Data sets by name.
        number: Which pass of the recipe.
        masks: Masks so far.

    Returns:
        The masks after the pass, all that hold, and its trainings by label.
    """
    section, label = run.recipe.prune[number], f"prune.{number}"
    cut, finding, aim = _prepared(run, model, data, number, masks)
    if is_in_rounds(section):
        return _in_rounds(run, model, data, number, finding)
    batches = Batches(data["train"], batch_size=section.batch_size, seed=0, size=run.crew.size)
    pruner = driver(section, cut, finding, section.epochs * len(batches))
    methods, taught = build.methods(section, label, Mistakes()), teacher(run, section)
    job = Job(label, section, methods, model, data, masks=masks, pruner=pruner, teacher=taught)
    fit = _fitted(run, job, number)
    if isinstance(pruner, SoftPruner):
        pruner.hold()
    found = {**masks, **pruner.masks}
    if cut.budget:
        # Solved for again, because the weights, and with them what goes, have changed meanwhile.
        found = finding.masks(aim(pruner.masks), pruner.masks)
    elif section.regrow is None and pruner.asked < finding.sparsity:
        # The ramp had no step to end at (no epochs, say): this is the one stroke that prunes.
        found = finding.masks(finding.sparsity, pruner.masks)
    apply_masks_(dict(model.named_parameters(remove_duplicate=False)), found)
    recalibrate(run, section, label, model)
    return found, {label: fit}


def _prepared(
    run: Run, model: nn.Module, data: Data, number: int, masks: Mapping[str, Tensor]
) -> tuple[Cut, Finding, Callable[[Mapping[str, Tensor]], float]]:
    """Return the rules of a pass, what masks are found by, and what tells how far to go within masks."""
    section, label = run.recipe.prune[number], f"prune.{number}"
    cut = build.cut(section, label, Mistakes())
    weights = prunable(model, section.include, section.exclude)
    samples = calibration(run, data, section, label)
    loss, names = build.methods(section, label, Mistakes()).loss, needs(cut.importance)
    calibrate = partial(collect, model, samples, names=names, weights=weights, loss=loss)
    pattern = cut.pattern
    if isinstance(pattern, Coupled):
        pattern = pattern.of(channel_groups(model, samples[0][0]))
    parts: dict[str, Any] = {"importance": cut.importance, "pattern": pattern, "scope": cut.scope}
    budget = _with_positions(cut.budget, run, model, data, weights)

    def aim(within: Mapping[str, Tensor]) -> float:
        """Return the sparsity that the section names, or the one that meets its budget now."""
        if budget is None:
            return section.sparsity or 0.0
        stats = calibrate() if names else None
        return find_sparsity(weights, budget, stats=stats, within=within, **parts)

    final = aim({name: mask for name, mask in masks.items() if name in weights})
    cut = replace(cut, schedule=partial(cut.schedule, final=final)) if budget else cut
    source = gathering(section, cut, weights, calibrate)
    return cut, Finding(weights, partial(find_masks, **parts), source, masks, final), aim


def _in_rounds(
    run: Run, model: nn.Module, data: Data, number: int, finding: Finding
) -> tuple[Masks, dict[str, Fit]]:
    """Prune an equal share of what is left, take the weights back, train; as often as the pass says."""
    section = run.recipe.prune[number]
    masks: Masks = dict(finding.before)
    own = {name: mask for name, mask in masks.items() if name in finding.weights}
    ramp = partial(exponential, initial=sparsity(own), final=finding.sparsity, stop=section.rounds)
    fits = {}
    for turn in range(section.rounds):
        label = f"prune.{number}" if section.rounds == 1 else f"prune.{number}.{turn}"
        masks = finding.masks(ramp(turn + 1), masks)
        _take_back(run, model, section, label)
        apply_masks_(dict(model.named_parameters(remove_duplicate=False)), masks)
        methods = build.methods(section, f"prune.{number}", Mistakes())
        job = Job(label, section, methods, model, data, masks=masks, teacher=teacher(run, section))
        fits[label] = _fitted(run, job, number)
        recalibrate(run, section, label, model)
    return masks, fits


def _fitted(run: Run, job: Job, number: int) -> Fit:
    """Train as a job says, with checkpoints of its own."""
    turn = job.label.removeprefix(f"prune.{number}").replace(".", "-")
    fit = Fit(run, job, run.folder.file("prune", f"checkpoints-{number}{turn}"))
    fit.run()
    return fit


def _take_back(run: Run, model: nn.Module, section: PrunePass, label: str) -> None:
    """Give the model the weights that its training shall begin with."""
    if section.rewind == "random":
        model.load_state_dict(run.fresh_model(label).state_dict())
    elif section.rewind == "weights" and section.rewind_to == 0:
        model.load_state_dict(run.fresh_model().state_dict())
    elif section.rewind == "weights":
        model.load_state_dict(read_tensors(run.kept_file(section.rewind_to))[0])


def _with_positions(
    budget: Budget | None, run: Run, model: nn.Module, data: Data, weights: Mapping[str, Tensor]
) -> Budget | None:
    """Return the budget, told how often one sample uses each weight, where its cost asks for that."""
    if budget is None or "positions" not in tunable(budget.cost):
        return budget
    inputs, targets = Batches(data["train"], batch_size=1, seed=0)(0)
    sample = [(place(inputs, run.device), place(targets, run.device))]
    found = collect(model, sample, names=["positions"], weights=weights)
    positions = {name: of["positions"] for name, of in found.items()}
    return replace(budget, cost=partial(budget.cost, positions=positions))


def calibration(
    run: Run, data: Data, section: PrunePass | Heal | Pack | Export, label: str
) -> list[tuple[Any, Any]]:
    """Return the batches for statistics, repair and rounding: the same on every worker, so that masks are.

    Args:
        run: The run.
        data: Data sets by name.
        section: Says how many batches, and of what size.
        label: The stage's place in the recipe; another one gets other batches.
    """
    seed = mix(run.recipe.seed, label, "calibration")
    batches = Batches(data["train"], batch_size=section.batch_size, seed=seed)
    taken = [batches(step) for step in range(section.calibration)]
    return [(place(inputs, run.device), place(targets, run.device)) for inputs, targets in taken]
