"""The states of a model that no stage makes: layers that use their zeros, and 8 bits in ONNX Runtime."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tonsor.export import OnnxModel, to_onnx_int8
from tonsor.modes import call, evaluating, rows
from tonsor.pack import SparseLayer, Swapped, swap_sparse_
from tonsor.recipe.context import Run
from tonsor.recipe.pruning import calibration
from tonsor.recipe.schema import Export
from tonsor.recipe.stages import last_model, small_model
from tonsor.report import size, weight_bytes

SKIPPING = ("csr", "kernel")  # the ways that multiply with nonzeros alone
NOTHING = "sparse: no layer is faster sparse, so this is the model it is made from"


@dataclass(frozen=True)
class State:
    """Hold one state of a model.

    Args:
        model: It.
        file: What it is loaded from.
        made: How it came about, in words.
        known: Figures that cannot be counted from outside.

    Example:
        >>> State(nn.Identity(), Path("a"), "as trained").known
        {}
    """

    model: nn.Module
    file: Path
    made: str
    known: Mapping[str, Any] = field(default_factory=dict)


def sparse_state(run: Run, batches: Sequence[int]) -> tuple[State, list[dict[str, Any]], list[str]]:
    """Put layers that use their zeros into the last model of a run, where that is faster here.

    Args:
        run: The run, its stages done.
        batches: Numbers of samples to be fast at.

    Returns:
        The state, a row for each layer, and notes.

    Raises:
        ValueError: If nothing in the model can be replaced.
    """
    model, file = last_model(run)
    example = run.example()
    plain, dense_bytes = size(model, example), weight_bytes(model)
    swapped = swap_sparse_(model, example, batches=batches)
    layers = [m for m in model.modules() if isinstance(m, SparseLayer)]
    notes = [*(f"sparse: {note}" for note in swapped.notes), *([] if layers else [NOTHING])]
    held = weight_bytes(model) + sum(layer.bytes for layer in layers)
    known = {
        **plain,
        "macs": plain["macs"] - _skipped(model, example, max(batches)),
        "weight_bytes": held if layers else dense_bytes,
    }
    return State(model, file, _counted(swapped), known), list(_told(swapped)), notes


def _counted(swapped: Swapped) -> str:
    """Return how many layers use their zeros, in words."""
    number, tried = sum(choice.swapped for choice in swapped.choices), len(swapped.choices)
    return f"{number} of {tried + len(swapped.left)} layers swapped for ones that use their zeros"


def _told(swapped: Swapped) -> Iterator[dict[str, Any]]:
    """Yield a row for each layer: whether it was swapped, and why."""
    for choice in swapped.choices:
        told = choice.told.removeprefix(f"{choice.name}, density {choice.density:.3f}: ")
        yield {"name": choice.name, "density": choice.density, "swapped": choice.swapped, "why": told}
    for name, why in swapped.left.items():
        yield {"name": name, "density": None, "swapped": False, "why": why}


def _skipped(model: nn.Module, example: Any, batch: int) -> int:
    """Return the multiplications with zeros that a sample of a batch is spared."""
    spared: list[float] = []

    def see(layer: Any, _: Any, out: torch.Tensor) -> None:
        columns = out.numel() // layer.shape[0]
        if layer.way(columns) in SKIPPING:
            spared.append(columns * (layer.shape.numel() - layer.rows.values.numel()))

    layers = [m for m in model.modules() if isinstance(m, SparseLayer)]
    handles = [layer.register_forward_hook(see) for layer in layers]
    try:
        with evaluating(model):
            call(model, rows(example, batch))
    finally:
        for handle in handles:
            handle.remove()
    return round(sum(spared) / batch)


def int8_state(run: Run, path: Path, *, threads: int) -> State:
    """Quantise the small model to 8 bits, and run it in ONNX Runtime.

    The ranges of its activations come from training data. How far its outputs are from the model's is no
    obstacle: what that costs in accuracy is measured.

    Args:
        run: The run, its stages done.
        path: Where the ONNX file shall stand.
        threads: Of ONNX Runtime.

    Raises:
        ValueError: If the model cannot be exported.
        ModuleNotFoundError: If onnx, onnxruntime or onnxscript is missing.
    """
    model, _ = small_model(run)
    example = run.example()
    samples = [inputs for inputs, _ in calibration(run, run.data, Export(), "compare")]
    to_onnx_int8(model, example, path, calibration=samples, tolerance=math.inf)
    known = {**_numbers(path), "macs": size(model, example)["macs"], "activation_bytes": None}
    made = "weights and activations in 8 bits, by ONNX Runtime, from the model before packing"
    return State(OnnxModel(path, threads=threads), path, made, known)


def _numbers(path: Path) -> dict[str, int]:
    """Count what an ONNX file holds as weights, in whole numbers or not; scales and scalars are none."""
    import onnx

    graph = onnx.load(str(path)).graph
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scaling = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    scales = {name for node in scaling for name in node.input[1:]}
    zeros = {node.input[0]: _zero(node, held) for node in scaling if node.input[0] in held}
    weights = {name: array - zeros[name] for name, array in held.items() if name in zeros}
    weights |= {
        n: a for n, a in held.items() if a.ndim and n not in {*zeros, *scales} and a.dtype.kind == "f"
    }
    return {
        "parameters": sum(int(array.size) for array in weights.values()),
        "nonzeros": sum(int((array != 0).sum()) for array in weights.values()),
        "weight_bytes": sum(int(array.nbytes) for array in held.values()),
    }


def _zero(node: Any, held: Mapping[str, Any]) -> Any:
    """Return what stands for zero in a quantised weight, ready to be taken off it."""
    names = [name for name in node.input[2:] if name]
    if not names:
        return 0
    zero, array = held[names[0]].astype("int64"), held[node.input[0]]
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return (
        zero.reshape([-1 if side == axis % array.ndim else 1 for side in range(array.ndim)])
        if zero.ndim
        else zero
    )
