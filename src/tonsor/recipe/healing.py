"""The stage between pruning and fine-tuning: what the masks took is made up for, without labels."""

from dataclasses import asdict
from functools import partial

from tonsor import prune
from tonsor.recipe.context import Run
from tonsor.recipe.pruning import calibration
from tonsor.recipe.stages import Made


def heal(run: Run) -> Made:
    """Refit the dense weights on the masks of the prune stage, layer by layer.

    Args:
        run: The run, with `[heal]` in its recipe.

    Returns:
        What was read and written, with a record for each weight.
    """
    section = run.recipe.heal
    assert section is not None, "the stage is only run where its section is"
    before = run.last_trained("prune")
    model = run.model_after(before)
    batches = calibration(run, run.data, section, "heal")
    repair = partial(prune.refit, damping=section.damping)
    records = prune.heal(model, run.masks(), batches, repair=repair, target=section.target)
    for record in records:
        run.tell({"event": "note", "text": str(record)})
    path = run.save_model("heal", model)
    return Made([run.weights_file(before), run.masks_file()], [path], {"heal": [asdict(r) for r in records]})
