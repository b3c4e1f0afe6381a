"""When do zeros make a layer faster? Dense, sparse and ONNX Runtime in turns, in one run.

One linear layer of 768 x 3072 and small models, batches of 1 and 64, densities from 50 to 5 %:

    OMP_NUM_THREADS=1 python benchmarks/inference.py
"""

import copy
import logging
import random
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from results import markdown, write_section
from torch import Tensor, nn

from tonsor.examples.models import lenet_5, lenet_300_100, mlp
from tonsor.export import to_onnx, to_onnx_int8
from tonsor.pack import SparseLayer, swap_sparse_
from tonsor.shrink import shrink_to

DENSITIES = (0.5, 0.25, 0.1, 0.05)
BATCHES = (1, 64)
ROUNDS = 300
KERNELS = ("kernel", "kernel in place")
WAYS = ("CSR", *KERNELS)
SECONDS = 4.0  # of timed calls a table row
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "Linear 768 x 3072": (lambda: nn.Sequential(nn.Linear(768, 3072)), (768,)),
    "768 x 3072 x 768 (GELU)": (
        lambda: nn.Sequential(nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768)),
        (768,),
    ),
    "LeNet-300-100": (lenet_300_100, (784,)),
    "LeNet-5": (lenet_5, (1, 28, 28)),
    "digits MLP 64-128-64-10": (mlp, (64,)),
}
ABOUT = """Microseconds of one call, one thread: the least over the rounds, the median in brackets. All
engines of a row are called in one process, in an order that is drawn anew each round, on a machine that
others use at the same time: the least is nearer to what an idle machine gives. Weights and their zeros are
random; all outputs are first compared with float64.

- kernel: ours, compiled on demand, with the transposes from and to the layout that torch has; "in place":
  without them, activations lying feature by feature, as between swapped layers that follow one another.
- CSR: `W @ x.T` by MKL.
- int8: weights and activations in whole numbers, dense; torch's with a scale for each row that is found anew
  for each call, ONNX Runtime's with ranges that were found before (`to_onnx_int8`). Outputs differ by about a
  hundredth. It wins for a single sample, and for weak sparsity at any batch.
- chosen: the model after `swap_sparse_`, batches 1 and 64; int8 is not chosen unless it is asked for.
- shrunk: whole channels removed instead, until as few multiplications are left as there are weights in the
  others; where a model is a single layer there is nothing to remove.
- The last columns are medians of the ratios within a round."""


def pruned(model: nn.Module, density: float) -> nn.Module:
    """Return the model with random zeros in its weights."""
    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(torch.rand(parameter.shape, generator=drawn) < density)
    return model.eval()


def forced(model: nn.Module, way: str, *, turned: bool = False) -> nn.Module:
    """Return a copy whose every layer multiplies in one way."""
    copied = copy.deepcopy(model)
    for name, layer in list(copied.named_children()):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            setattr(copied, name, SparseLayer(layer, {1: way}, turned=turned))
    return copied


def session(data: bytes) -> onnxruntime.InferenceSession:
    """Return ONNX Runtime's session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def runtimes(model: nn.Module, x: Tensor) -> dict[str, Callable[[], object]]:
    """Return ONNX Runtime's calls, dense in float32 and in whole numbers."""
    with tempfile.TemporaryDirectory() as folder:
        whole, small = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        example = x[:1].repeat(2, *[1] * (x.ndim - 1))
        to_onnx(model, example, whole)
        to_onnx_int8(model, example, small, calibration=[x])
        sessions = {"ORT": session(whole.read_bytes()), "ORT int8": session(small.read_bytes())}
    name = sessions["ORT"].get_inputs()[0].name
    feed = {name: x.numpy()}

    def run(of: onnxruntime.InferenceSession) -> Callable[[], object]:
        return lambda: of.run(None, feed)

    return {key: run(of) for key, of in sessions.items()}


def calls(model: nn.Module, x: Tensor, density: float) -> dict[str, Callable[[], object]]:
    """Return what is compared, ready to be called."""
    swapped = copy.deepcopy(model)
    swap_sparse_(swapped, x, batches=BATCHES, seconds=0.5)
    ready = {"torch": (model, x), "kernel": (forced(model, "kernel"), x)}
    if x.ndim == 2:
        ready["kernel in place"] = forced(model, "kernel", turned=True), x.t().contiguous().t()
    ready |= {
        "CSR": (forced(model, "csr"), x),
        "torch int8": (forced(model, "int8"), x),
        "chosen": (swapped, x),
    }
    if len(list(model.children())) > 1:
        shrunk = copy.deepcopy(model)
        shrink_to(shrunk, x, macs=density)
        ready["shrunk"] = shrunk, x

    def run(of: nn.Module, given: Tensor) -> Callable[[], object]:
        return lambda: of(given)

    return {key: run(*pair) for key, pair in ready.items()} | runtimes(model, x)


def check(model: nn.Module, x: Tensor, found: dict[str, Callable[[], object]]) -> None:
    """Compare all outputs with float64: a fast wrong answer is no answer."""
    truth = copy.deepcopy(model).double()(x.double())
    for name, call in found.items():
        if name == "shrunk":  # another function, by design
            continue
        out = call()
        got = torch.from_numpy(out[0]) if isinstance(out, list) else out
        error = float((got.double() - truth).norm() / truth.norm())
        assert error < (0.1 if "int8" in name else 1e-5), f"{name} is wrong by {error}"


def timed(found: dict[str, Callable[[], object]]) -> dict[str, np.ndarray]:
    """Return microseconds of each round, in an order that is drawn: neighbours share caches."""
    taken: dict[str, list[float]] = {name: [] for name in found}
    order, stop, rounds, draw = list(found), time.perf_counter() + SECONDS, 0, random.Random(0)
    while rounds < ROUNDS and (rounds < 20 or time.perf_counter() < stop):
        for name in draw.sample(order, len(order)):
            start = time.perf_counter()
            found[name]()
            taken[name].append(1e6 * (time.perf_counter() - start))
        rounds += 1
    return {name: np.array(times[3:]) for name, times in taken.items()}


def cell(times: np.ndarray) -> str:
    """Return the least and the median."""
    return f"{times.min():.0f} ({np.median(times):.0f})"


def break_even(least: dict[float, dict[str, float]], way: str, rival: str) -> str:
    """Return the density at which two times are equal, between the measured ones by a straight line."""
    known = sorted(least)
    gains = [least[density][rival] - least[density][way] for density in known]
    if gains[0] < 0:
        return f"below {known[0]:.0%}"
    if min(gains) >= 0:
        return f"above {known[-1]:.0%}"
    at = next(i for i, gain in enumerate(gains) if gain < 0)
    share = gains[at - 1] / (gains[at - 1] - gains[at])
    return f"{known[at - 1] + share * (known[at] - known[at - 1]):.0%}"


def table(name: str, batch: int) -> tuple[str, dict[float, dict[str, float]]]:
    """Return the rows of a model at one batch, and the least times by density."""
    build, shape = MODELS[name]
    rows, least = [], {}
    for density in DENSITIES:
        torch.manual_seed(0)
        model, x = pruned(build(), density), torch.randn(batch, *shape)
        found = calls(model, x, density)
        check(model, x, found)
        times = timed(found)
        least[density] = {key: float(each.min()) for key, each in times.items()}
        ratios = [f"{np.median(times['ORT'] / times[key]):.1f}" for key in KERNELS if key in times]
        own = f"{np.median(times['chosen'] / times['torch']):.2f}"
        rows.append([f"{density:.0%}", *(cell(each) for each in times.values()), " / ".join(ratios), own])
    head = ["density", *times, "ORT over kernel / in place", "chosen over torch"]
    return f"### {name}, batch {batch}\n\n{markdown(head, rows)}", least


def first_written() -> str:
    """Return how much longer `F.linear(x, csr)` takes than `W @ x.T`."""
    weight = pruned(nn.Linear(768, 3072), 0.1).weight.detach().to_sparse_csr()
    x = torch.randn(64, 768)
    times = timed({"first": lambda: nn.functional.linear(x, weight), "CSR": lambda: weight @ x.t()})
    return (
        f"`F.linear(x, csr)` takes {np.median(times['first'] / times['CSR']):.1f} times as long as `W @ x.T`"
    )


@torch.no_grad()
def main() -> None:
    """Measure all and write the section."""
    logging.disable(logging.WARNING)  # the quantizer's advice
    tables, lines = [], []
    for name in MODELS:
        for batch in BATCHES:
            told, least = table(name, batch)
            tables.append(told)
            for rival in ("torch", "ORT", "ORT int8"):
                measured = least[DENSITIES[0]]
                even = [break_even(least, way, rival) if way in measured else "" for way in WAYS]
                lines += [[f"{name}, batch {batch}", rival, *even]]
    limits = markdown(["model", "rival", *WAYS], lines)
    body = f"{ABOUT}\n\n{first_written()} (768 x 3072, 10 %, batch 64).\n\n" + "\n\n".join(tables)
    told = "The density below which zeros are faster than the rival, by the least times."
    body += f"\n\n### Break-even\n\n{told}\n\n{limits}"
    write_section(
        "Inference with zeros",
        "OMP_NUM_THREADS=1 python benchmarks/inference.py",
        body,
        peers=f"onnxruntime {version('onnxruntime')}",
    )


if __name__ == "__main__":
    main()
