"""The stage that makes the small model few bytes; and files packed and unpacked without a recipe."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from tonsor import pack as room
from tonsor.files import read_json
from tonsor.recipe import build
from tonsor.recipe.batches import Batches, mix, place
from tonsor.recipe.binding import Mistakes, bind_rule
from tonsor.recipe.context import Run
from tonsor.recipe.evaluate import evaluate
from tonsor.recipe.packed_files import PLAN, plan_text
from tonsor.recipe.pruning import calibration
from tonsor.recipe.retraining import teacher
from tonsor.recipe.schema import Pack, Retraining
from tonsor.recipe.sharing import share_layerwise_
from tonsor.recipe.stages import Made, small_model
from tonsor.recipe.tables import TABLES
from tonsor.tensors import fingerprint

BITS = 4  # of a weight, where neither bits nor a budget is given


def pack(run: Run) -> Made:
    """Let the weights of the small model share values, train those, and write the packed file.

    Args:
        run: The run, with `[pack]` in its recipe.

    Returns:
        What was read and written, with a row for each tensor.
    """
    section = run.recipe.pack
    assert section is not None, "the stage is only run where its section is"
    model, source = small_model(run)
    sharing = bind_rule(TABLES["sharing"], section.sharing, "pack.sharing", Mistakes())
    bits = _bits(run, section, model, sharing)
    shared = _shared(run, section, model, bits, sharing or room.kmeans)
    shared = _trained(run, section, model, shared)
    about: dict[str, Any] = {"model": run.recipe.model.model_dump()}
    if "shrink" in run.stages:
        about[PLAN] = plan_text(read_json(source.with_suffix(".json"))["plan"])
    packed = room.pack(
        model, shared=shared, coding=room.Coding(positions=tuple(section.positions)), about=about
    )
    path = run.packed_file()
    size = room.save(packed, path)
    if fingerprint(room.unpack(room.load(path))) != fingerprint(model.state_dict()):
        raise ValueError(f"{path}: what is unpacked from it is not what was packed")
    factor = packed.unpacked_bytes / size
    run.tell({"event": "note", "text": f"{path}: {size:,} bytes, {factor:.1f} times smaller than unpacked"})
    told = {"bytes": size, "unpacked_bytes": packed.unpacked_bytes, "tensors": room.listing(packed)}
    return Made([source], [path], {"pack": told})


def _bits(run: Run, section: Pack, model: nn.Module, sharing: Any) -> room.Bits:
    """Return the bits that the section names, or those that keep its budget."""
    if section.max_bytes is None and section.max_rise is None:
        return BITS if section.bits is None else section.bits
    methods = build.methods(run.recipe.train, "train", Mistakes())
    data = run.data.get("valid", run.data["train"])

    def measure(tensors: Mapping[str, Tensor]) -> float:
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(dict(tensors), strict=False)
        try:
            return evaluate(model, data, loss=methods.loss, metric=methods.metric)["loss"]
        finally:
            model.load_state_dict(before)

    most = None if section.max_rise is None else measure({}) + section.max_rise
    chosen = room.find_bits(
        model, max_bytes=section.max_bytes, max_loss=most, measure=measure, sharing=sharing
    )
    found = ", ".join(f"{name} {count}" for name, count in chosen.bits.items())
    run.tell({"event": "note", "text": f"pack: bits found: {found}; validation loss {chosen.loss:.4f}"})
    return chosen.bits


def _shared(
    run: Run, section: Pack, model: nn.Module, bits: room.Bits, sharing: room.Sharing
) -> dict[str, room.Shared]:
    """Let weights share the nearest values, or those that calibration chooses."""
    if not section.calibration:
        return room.share(model, bits=bits, sharing=sharing)
    batches = calibration(run, run.data, section, "pack")
    return share_layerwise_(model, batches, bits=bits, sharing=sharing)


def _trained(
    run: Run, section: Pack, model: nn.Module, shared: Mapping[str, room.Shared]
) -> dict[str, room.Shared]:
    """Train the shared values as the section says."""
    methods = build.methods(run.recipe.train, "train", Mistakes())
    taught = teacher(run, Retraining(distill=section.distill)) if section.distill else None
    named = section.distill
    blend = bind_rule(TABLES["distill"], named, "pack.distill", Mistakes()) if named else None
    batches = Batches(run.data["train"], batch_size=section.batch_size, seed=mix(run.recipe.seed, "pack"))
    steps = section.epochs * len(batches)

    def given() -> Iterator[tuple[Any, Any]]:
        for step in range(steps):
            inputs, targets = (place(part, run.device) for part in batches(step))
            yield inputs, (targets, taught(inputs) if taught else None)

    def loss(outputs: Tensor, both: tuple[Tensor, Tensor | None]) -> Tensor:
        found = methods.loss(outputs, both[0])
        blended: Tensor = blend(found, outputs, both[1]) if blend else found
        return blended

    return room.finetune_(model, shared, given(), loss, lr=section.lr, steps=steps)
