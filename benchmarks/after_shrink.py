"""What a shrunk model must still do: take a training step, and run as an ONNX file as it runs in torch."""

import copy
import io
import logging
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

# The models that the table must show as ONNX files; the export takes seconds each.
ONNX = frozenset(
    {
        "vgg",
        "residual",
        "mobile",
        "u-net",
        "shuffled",
        "tied",
        "attending",
        "sequenced",
        "ResNeXt",
        "MobileNetV3",
        "DenseNet",
        "EfficientNet",
        "ConvNeXt",
        "Inception",
        "ShuffleNet V2",
        "EDSR",
        "Swin",
        "ViT",
        "Diffusion U-Net",
        "TCN",
        "Graph",
        "ResNet (transformers)",
        "GPT-2 (transformers)",
        "Llama (transformers)",
        "BERT (transformers)",
        "T5 (transformers)",
    }
)
Example = tuple[tuple[Any, ...], Mapping[str, Any]]


def trains(model: nn.Module, example: Example) -> str:
    """Say whether one step of SGD in training mode moves every parameter that has a gradient."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    outputs = [leaf for leaf in tree_leaves(model(*example[0], **example[1])) if _is_float(leaf)]
    sum(leaf.square().sum() for leaf in outputs).backward()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    moved = [not torch.equal(before[n], p) for n, p in model.named_parameters() if n in before]
    finite = all(bool(p.isfinite().all()) for p in model.parameters())
    return "yes" if finite and any(moved) else "no"


def onnx_difference(model: nn.Module, example: Example) -> str:
    """Return how far ONNX Runtime's outputs lie from torch's in float32, as a share of the largest."""
    import onnxruntime

    logging.disable(logging.WARNING)
    model = copy.deepcopy(model).float().eval()
    args, kwargs = tree_map_only(
        Tensor, lambda t: t.float() if _is_float(t) else t, (example[0], dict(example[1]))
    )
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()), torch.no_grad():
        wanted = [leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, Tensor)]
        program = torch.onnx.export(model, args, kwargs=kwargs, dynamo=True)
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    names = [own.name for own in session.get_inputs()]
    got = session.run(None, {name: leaf.numpy() for name, leaf in zip(names, given, strict=True)})
    apart = [
        float((torch.from_numpy(a) - b).abs().max() / b.abs().max()) for a, b in zip(got, wanted, strict=True)
    ]
    return f"{max(apart):.0e}"


def _is_float(leaf: Any) -> bool:
    """Say whether it is a tensor of real numbers."""
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
