"""Compare the pruned model with the dense one where a mean accuracy does not look."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tonsor.modes import evaluating
from tonsor.recipe.batches import fetch, place
from tonsor.recipe.context import Run
from tonsor.report import calibration_error, class_changes, exemplars, explanations, robustness

CHUNK = 1000  # samples that go through a model at once
EXPLAINED = 128  # samples whose attributions are compared
MOST = 10_000  # test samples that are looked at
SHOWN = 12  # exemplars with a picture
SIDE = 32  # pixels of a picture at most; larger ones are made smaller


def trust(run: Run, models: Mapping[str, nn.Module]) -> dict[str, Any] | None:
    """Measure robustness, attributions, classes and calibration of the pruned model and of the dense one.

    Args:
        run: The run; its recipe's `[report]` says how many samples are made worse and what shape they have.
        models: "dense", and "masked" where there is one.

    Returns:
        The figures, on the test data; `{"why_not": ...}` where model or data do not allow it, and None
        where it is not asked for or nothing was pruned.
    """
    settings = run.recipe.report
    if not settings.trust or "masked" not in models:
        return None
    pair = {"dense": models["dense"], "masked": models["masked"]}
    count = min(MOST, len(run.data["test"]))  # type: ignore[arg-type]  # map-style datasets have a length
    inputs, targets = fetch(run.data["test"], torch.arange(count))
    why_not = _why_not(inputs, targets, settings.image) or _no_classes(pair["dense"], inputs, run.device)
    if why_not:
        run.tell({"event": "note", "text": f"report: trust is not measured: {why_not}"})
        return {"why_not": why_not}
    outputs = {name: _outputs(model, inputs, run.device) for name, model in pair.items()}
    some = slice(0, settings.trust_samples)
    worse = place((inputs[some], targets[some]), run.device)
    lost = exemplars(outputs["dense"], outputs["masked"], targets)
    shape = settings.image or (list(inputs.shape[1:]) if inputs.ndim == 4 else None)
    return {
        "samples": len(targets),
        "robust_samples": len(worse[1]),
        "explained_samples": min(EXPLAINED, len(worse[1])),
        "robustness": robustness(pair, *worse, shape=settings.image, seed=run.recipe.seed),
        "explanations": explanations(pair["dense"], pair["masked"], worse[0][:EXPLAINED]),
        "classes": class_changes(outputs["dense"], outputs["masked"], targets),
        "calibration": {name: calibration_error(of, targets) for name, of in outputs.items()},
        "exemplars": _exemplars(lost, inputs, targets, outputs["masked"], shape),
    }


def _why_not(inputs: Any, targets: Tensor, image: list[int] | None) -> str | None:
    """Return why these data cannot be made worse and explained, or None where they can."""
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        return "the inputs are not one tensor of floats"
    if targets.ndim != 1 or targets.is_floating_point():
        return "the targets are not one class a sample"
    if image is not None and torch.Size(image).numel() != inputs[0].numel():
        return f"report.image = {image} does not fit samples of shape {list(inputs[0].shape)}"
    return None


def _no_classes(model: nn.Module, inputs: Tensor, device: torch.device) -> str | None:
    """Return why the model's outputs are no logits, or None where they are."""
    output = _outputs(model, inputs[:2], device)
    return None if output.ndim == 2 and output.shape[1] > 1 else "the outputs are not one logit a class"


def _outputs(model: nn.Module, inputs: Tensor, device: torch.device) -> Tensor:
    """Return the model's outputs for all inputs, on the CPU."""
    with evaluating(model):
        return torch.cat([model(part.to(device)).cpu() for part in torch.split(inputs, CHUNK)])


def _exemplars(
    lost: list[int], inputs: Tensor, targets: Tensor, outputs: Tensor, shape: list[int] | None
) -> dict[str, Any]:
    """Return the samples that were lost: their places, and the first of them with answer and picture."""
    shown = [
        {
            "index": index,
            "target": int(targets[index]),
            "answer": int(outputs[index].argmax()),
            "picture": None if shape is None else _picture(inputs[index].reshape(shape)),
        }
        for index in lost[:SHOWN]
    ]
    return {"indices": lost, "shown": shown}


def _picture(image: Tensor) -> list[list[int]]:
    """Return an image as rows of grey values from 0 to 255, its darkest and brightest place the ends."""
    grey = image.float().mean(0, keepdim=True)
    most = max(grey.shape[1:])
    if most > SIDE:
        height, width = (max(1, round(side * SIDE / most)) for side in grey.shape[1:])
        grey = functional.adaptive_avg_pool2d(grey, (height, width))
    low, high = grey.min(), grey.max()
    levels = (grey[0] - low) / (high - low).clamp(min=1e-12) * 255
    rows: list[list[int]] = levels.round().int().tolist()
    return rows
