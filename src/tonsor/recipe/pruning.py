"""One pass of pruning: masks that move while the model trains on, or rounds of pruning and training."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from tonsor.files import read_tensors
from tonsor.prune import Masks, SoftPruner, apply_masks_, collect, find_masks, needs
from tonsor.recipe import build
from tonsor.recipe.batches import Batches, mix, place
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.context import Run
from tonsor.recipe.driving import Finding, driver, gathering
from tonsor.recipe.fit import Fit
from tonsor.recipe.job import Job, sparsity
from tonsor.recipe.manners import is_in_rounds
from tonsor.recipe.schema import PrunePass
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
    cut = build.cut(section, label, Mistakes())
    weights = prunable(model, section.include, section.exclude)
    samples = _calibration(run, data, section, label)
    loss = build.methods(section, label, Mistakes()).loss
    calibrate = partial(collect, model, samples, names=needs(cut.importance), weights=weights, loss=loss)
    pattern = cut.pattern or channel_groups(model, samples[0][0])
    find = partial(find_masks, importance=cut.importance, pattern=pattern, scope=cut.scope)
    finding = Finding(weights, find, gathering(section, cut, weights, calibrate), masks)
    if is_in_rounds(section):
        return _in_rounds(run, model, data, number, finding)
    batches = Batches(data["train"], batch_size=section.batch_size, seed=0, size=run.crew.size)
    pruner = driver(section, cut, finding, section.epochs * len(batches))
    methods = build.methods(section, label, Mistakes())
    fit = _fitted(run, Job(label, section, methods, model, data, masks=masks, pruner=pruner), number)
    if isinstance(pruner, SoftPruner):
        pruner.hold()
    found = {**masks, **pruner.masks}
    if section.regrow is None and pruner.asked < section.sparsity:
        # The ramp had no step to end at (no epochs, say): this is the one stroke that prunes.
        found = finding.masks(section.sparsity, pruner.masks)
    apply_masks_(dict(model.named_parameters(remove_duplicate=False)), found)
    return found, {label: fit}


def _in_rounds(
    run: Run, model: nn.Module, data: Data, number: int, finding: Finding
) -> tuple[Masks, dict[str, Fit]]:
    """Prune an equal share of what is left, take the weights back, train; as often as the pass says."""
    section = run.recipe.prune[number]
    masks: Masks = dict(finding.before)
    own = {name: mask for name, mask in masks.items() if name in finding.weights}
    ramp = partial(exponential, initial=sparsity(own), final=section.sparsity, stop=section.rounds)
    fits = {}
    for turn in range(section.rounds):
        label = f"prune.{number}" if section.rounds == 1 else f"prune.{number}.{turn}"
        masks = finding.masks(ramp(turn + 1), masks)
        _take_back(run, model, section, label)
        apply_masks_(dict(model.named_parameters(remove_duplicate=False)), masks)
        methods = build.methods(section, f"prune.{number}", Mistakes())
        fits[label] = _fitted(run, Job(label, section, methods, model, data, masks=masks), number)
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


def _calibration(run: Run, data: Data, section: PrunePass, label: str) -> list[tuple[Any, Any]]:
    """Return the batches for the statistics: the same on every worker, so that the masks are."""
    seed = mix(run.recipe.seed, label, "calibration")
    batches = Batches(data["train"], batch_size=section.batch_size, seed=seed)
    taken = [batches(step) for step in range(section.calibration)]
    return [(place(inputs, run.device), place(targets, run.device)) for inputs, targets in taken]
