"""The stages of a run: each reads the files of the ones before and writes its own."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tonsor import pack
from tonsor.export import FORMATS
from tonsor.files import read_json, write_json, write_tensors
from tonsor.recipe import build, manners
from tonsor.recipe.binding import Mistakes, bind_rule, tunable
from tonsor.recipe.context import Run
from tonsor.recipe.evidence import gather
from tonsor.recipe.fit import Fit
from tonsor.recipe.job import Job
from tonsor.recipe.pruning import calibration, one_pass
from tonsor.recipe.reporting import write_report
from tonsor.recipe.retraining import recalibrate, teacher
from tonsor.recipe.schema import Training
from tonsor.shrink import channel_groups, load, save, shrink_
from tonsor.tensors import fingerprint

HISTORY = "history.json"
ENDINGS = {"onnx_int8": "int8.onnx", "torch_export": "pt2"}  # of a format's file, where not its name


@dataclass(frozen=True)
class Made:
    """Say what a stage read and wrote, for its receipt."""

    inputs: list[Path]
    outputs: list[Path]
    facts: dict[str, Any] = field(default_factory=dict)


def train(run: Run) -> Made:
    """Train the dense model from its seed, and keep the steps that pruning goes back to."""
    made = _trained(run, "train", run.recipe.train, run.fresh_model(), [])
    if run.crew.is_first:
        made.outputs.extend(run.kept_file(step) for step in run.kept_steps())
    return made


def finetune(run: Run) -> Made:
    """Train on with the masks held, from the weights of the stage before."""
    assert run.recipe.finetune is not None, "the stage is only run where its section is"
    before = run.last_trained("finetune")
    inputs = [run.weights_file(before)] + ([run.masks_file()] if run.recipe.prune else [])
    if run.recipe.finetune.distill is not None and before != "train":
        inputs.append(run.weights_file("train"))  # the teacher
    return _trained(run, "finetune", run.recipe.finetune, run.model_after(before), inputs)


def _trained(run: Run, stage: str, section: Training, model: nn.Module, inputs: list[Path]) -> Made:
    """Run one training and write its weights and history."""
    methods = build.methods(section, stage, Mistakes())
    masks = run.masks() if stage == "finetune" else {}
    folder = run.folder.file(stage, "checkpoints")
    keep = {step: run.kept_file(step) for step in run.kept_steps()} if stage == "train" else {}
    taught = teacher(run, section)
    job = Job(stage, section, methods, model, run.data, masks=masks, keep=keep, teacher=taught)
    fit = Fit(run, job, folder)
    if stage == "train":
        manners.check_kept(run.recipe.prune, fit.steps)
    fit.run()
    recalibrate(run, section, stage, model)
    return _write(run, stage, model, {stage: fit}, inputs)


def _write(run: Run, stage: str, model: nn.Module, fits: Mapping[str, Fit], inputs: list[Path]) -> Made:
    """Write weights and history, after making sure that all workers hold the same."""
    digest = run.crew.check_replicas(model.state_dict())
    if not run.crew.is_first:
        return Made([], [])
    history = run.folder.file(stage, HISTORY)
    columns = {
        name: {"steps": fit.history.columns(), "valid": fit.evaluations.columns()}
        for name, fit in fits.items()
    }
    write_json(history, columns)
    return Made(inputs, [run.save_model(stage, model), history], {"weights": digest})


def prune(run: Run) -> Made:
    """Run every pass of pruning, one after the other, each within the masks of the one before."""
    before = run.last_trained("prune")
    model, data = run.model_after(before), run.data
    masks: dict[str, Tensor] = {}
    fits: dict[str, Fit] = {}
    for number in range(len(run.recipe.prune)):
        masks, fits_of_pass = one_pass(run, model, data, number, masks)
        fits.update(fits_of_pass)
    kept = [run.kept_file(step) for step in run.kept_steps()]
    made = _write(run, "prune", model, fits, [run.weights_file(before), *kept])
    if run.crew.is_first:
        write_tensors(run.masks_file(), masks, about={"true": "the weight stays"})
        made.outputs.append(run.masks_file())
    return made


def shrink(run: Run) -> Made:
    """Remove what the masks left without effect, and prove that the model still does the same."""
    before = run.last_trained("shrink")
    model = run.model_after(before)
    example = run.example()
    shrunk = shrink_(model, channel_groups(model, example), run.masks())
    path = run.weights_file("shrink")
    save(model, path, plan=shrunk.plan, about={"model": run.recipe.model.model_dump()})
    told = asdict(shrunk)
    del told["plan"]  # it lies beside the weights
    return Made([run.weights_file(before)], [path, path.with_suffix(".json")], {"shrink": told})


def export(run: Run) -> Made:
    """Write the small model, as it was packed, in every format asked for, each reloaded and compared."""
    assert run.recipe.export is not None, "the stage is only run where its section is"
    model, source = last_model(run)
    outputs, told = [], []
    for number, named in enumerate(run.recipe.export.formats):
        write = bind_rule(FORMATS, named, f"export.formats.{number}", Mistakes())
        assert write is not None, "the recipe was checked"
        ending = ENDINGS.get(named.rule, named.rule)
        path = run.folder.file("export", f"{run.recipe.name}.{ending}")
        exported = write(model, run.example(), path, **_calibration(run, named.rule))
        told.append(asdict(exported))
        outputs += [path, _rebuildable(run, model, path)] if named.rule == "safetensors" else [path]
        run.tell({"event": "note", "text": f"{path}: {exported.bytes:,} bytes, compared after reloading"})
    return Made([source], outputs, {"export": told})


def _calibration(run: Run, rule: str) -> dict[str, Any]:
    """Return batches of training inputs for a format that looks at some."""
    assert run.recipe.export is not None, "the stage is only run where its section is"
    if "calibration" not in tunable(FORMATS[rule]):
        return {}
    return {"calibration": [inputs for inputs, _ in calibration(run, run.data, run.recipe.export, "export")]}


def _rebuildable(run: Run, model: nn.Module, path: Path) -> Path:
    """Put the JSON beside the weights with which `tonsor.shrink.load` rebuilds the model, and try it."""
    sizes = run.weights_file("shrink").with_suffix(".json")
    plan = read_json(sizes)["plan"] if "shrink" in run.stages else None
    save(model, path, plan=plan, about={"model": run.recipe.model.model_dump()})
    if fingerprint(load(run.fresh_model(), path).state_dict()) != fingerprint(model.state_dict()):
        raise ValueError(f"{path}: the model rebuilt from it is not the one that was written")
    return path.with_suffix(".json")


def small_model(run: Run) -> tuple[nn.Module, Path]:
    """Return the smallest model there is, and the file it came from."""
    if "shrink" in run.stages:
        path = run.weights_file("shrink")
        return load(run.fresh_model(), path), path
    last = run.last_trained()
    return run.model_after(last), run.weights_file(last)


def last_model(run: Run) -> tuple[nn.Module, Path]:
    """Return the small model with the values that were packed, where they were, and the file it came from."""
    model, path = small_model(run)
    if "pack" in run.stages:
        path = run.packed_file()
        model.load_state_dict(pack.unpack(pack.load(path)))
    return model, path


def states_of(run: Run) -> dict[str, tuple[nn.Module, Path]]:
    """Return the model in each of its states, and the file it comes from.

    Args:
        run: The run, its stages done.

    Returns:
        "dense", and as far as the recipe makes them "masked", "shrunk" and "packed".
    """
    last = run.last_trained()
    found = {"dense": (run.model_after("train"), run.weights_file("train"))}
    if last != "train":
        found["masked"] = run.model_after(last), run.weights_file(last)
    if "shrink" in run.stages:
        found["shrunk"] = small_model(run)
    if "pack" in run.stages:
        found["packed"] = last_model(run)
    return found


def report(run: Run) -> Made:
    """Measure the models against one another and write the page."""
    states = states_of(run)
    models = {name: model for name, (model, _) in states.items()}
    sizes = {name: path.stat().st_size for name, (_, path) in states.items()}
    files = [path for _, path in states.values()]
    return Made(files, write_report(run.folder.path, gather(run, models, sizes)))
