"""Does a whole training with compressed gradients end where one without does?

Two workers on this machine train LeNet-5 on Fashion-MNIST and a character LSTM on a text, with every method
and three seeds; each run is a line of a file, so that a stopped benchmark goes on:

    TONSOR_TEXT=shakespeare.txt python benchmarks/compress_full.py --cache runs/compress_full
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from compress_methods import MEETINGS, METHODS, MORE, NORM, PLAIN, clipped
from results import markdown, write_section
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from tonsor import clip
from tonsor.compress import Comm, compress_ddp
from tonsor.examples.corpus import find_text
from tonsor.examples.data import fashion_mnist
from tonsor.examples.models import char_lstm, lenet_5
from tonsor.schedule import cosine

LENGTH = 64  # characters of a piece of text
TICKS = (-1, 0, 1, 3, 10, 30, 100)  # percent
ALL = [*(METHODS | MORE), *MEETINGS]
LAST = ("fp16", "e5m2", "PowerSGD, rank 4", "top-k, 1 %", "top-k, 0.1 %", "local SGD, 16 steps, int4")  # kin
PLOT = Path(__file__).parent / "compress_full.svg"
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """Say what is trained and how: batch is a worker's."""

    build: Callable[[], nn.Module]
    data: Callable[[], tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]
    batch: int
    steps: int
    rate: float
    unit: str  # of the quality
    is_error: bool  # whether less of it is better


@cache
def images() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return inputs and targets of Fashion-MNIST, to train and to test."""
    parts = fashion_mnist()
    return parts["train"].tensors, parts["test"].tensors


@cache
def text() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return pieces of the text and the characters that follow, to train and held out."""
    characters = torch.frombuffer(bytearray(find_text(limit=2_000_000)), dtype=torch.uint8).long()
    pieces = characters[: len(characters) // (LENGTH + 1) * (LENGTH + 1)].view(-1, LENGTH + 1)
    learned, held = pieces.split([len(pieces) - 512, 512])
    return (learned[:, :-1], learned[:, 1:]), (held[:, :-1], held[:, 1:])


TASKS = {
    "LeNet-5": Task(lenet_5, images, 16, 1200, 0.02, "accuracy, %", is_error=False),
    "char LSTM": Task(
        lambda: char_lstm(embedding=32, hidden=192), text, 8, 1200, 2.0, "bits a character", is_error=True
    ),
}


def loss_of(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of an image or of a character."""
    found = model(inputs)
    return cross_entropy(found.flatten(0, -2), targets.flatten())


def quality(task: str, model: nn.Module, held: tuple[Tensor, Tensor]) -> float:
    """Return the accuracy in percent, or the bits a character needs."""
    with torch.no_grad():
        if task == "LeNet-5":
            hits = [
                (model(x).argmax(1) == y).sum() for x, y in zip(*(t.split(500) for t in held), strict=True)
            ]
            return 100 * float(sum(hits)) / len(held[1])
        return float(loss_of(model, *held)) / math.log(2)


def batches(task: Task, data: tuple[Tensor, Tensor], seed: int, rank: int, size: int) -> Batches:
    """Yield this worker's mini-batches, the same for every method."""
    chance = torch.Generator().manual_seed(seed)
    for _ in range(task.steps):
        chosen = torch.randint(len(data[0]), (size, task.batch), generator=chance)[rank]
        yield data[0][chosen], data[1][chosen]


def trained(name: str, method: str, seed: int) -> dict[str, Any]:
    """Train once and return what came of it."""
    task = TASKS[name]
    torch.manual_seed(seed)
    model = task.build()
    net, comm, end_step = joined(model, method)
    momentum = 0.0 if method in PLAIN else 0.9
    optimizer = torch.optim.SGD(model.parameters(), lr=task.rate, momentum=momentum)
    learned, held = task.data()
    for step, (inputs, targets) in enumerate(batches(task, learned, seed, comm.rank, comm.size)):
        warm = min(1.0, (step + 1) / 100)
        falls = cosine(step, initial=1.0, final=0.0, stop=task.steps)
        optimizer.param_groups[0]["lr"] = task.rate * warm * falls
        optimizer.zero_grad()
        loss_of(net, inputs, targets).backward()
        end_step(optimizer)
    whole = 4 * task.steps * sum(parameter.numel() for parameter in model.parameters())
    return {
        "quality": quality(name, model.eval(), held),
        "factor": whole / comm.bytes_sent,
        "sent": comm.bytes_sent,
    }


def joined(model: nn.Module, method: str) -> tuple[nn.Module, Comm, Callable[[torch.optim.Optimizer], None]]:
    """Return what runs forward, the channel, and what to do after backward.

    Each worker bounds the norm of each of its gradients before anything is compressed.
    """
    if method in MEETINGS:
        comm = Comm(dist.new_group())
        meeting = MEETINGS[method](model, comm)

        def step_alone(optimizer: torch.optim.Optimizer) -> None:
            clip.norm(list(model.parameters()), max_norm=NORM * comm.size**0.5)  # as LocalClip
            optimizer.step()
            meeting.step()

        return model, comm, step_alone
    rule = (METHODS | MORE)[method]()
    net = DistributedDataParallel(model)
    comm = compress_ddp(net, clipped(method, rule))
    return net, comm, lambda optimizer: optimizer.step()


def work(runs: Path, names: list[str], seeds: int) -> None:
    """Be one of the workers: do every run that is not in the file yet."""
    dist.init_process_group("gloo")
    done = {(row["task"], row["method"], row["seed"]) for row in read(runs)}
    dist.barrier()
    for is_last, seed, name, method in itertools.product((False, True), range(seeds), names, ALL):
        if (method in LAST) != is_last or (name, method, seed) in done:
            continue
        row = {"task": name, "method": method, "seed": seed, **trained(name, method, seed)}
        if dist.get_rank() == 0:
            with runs.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    dist.barrier()
    os._exit(0)


def read(runs: Path) -> list[dict[str, Any]]:
    """Return the runs so far."""
    return [json.loads(line) for line in runs.read_text().splitlines()] if runs.exists() else []


class Found(NamedTuple):
    """The seeds of a method on a task: fewer bytes, qualities, their mean against dense with those seeds."""

    factor: float
    qualities: list[float]
    gained: float


def found_of(task: str, rows: list[dict[str, Any]]) -> dict[str, Found]:
    """Return what came of each method on a task, in the order of the methods."""
    at = {(row["method"], row["seed"]): row for row in rows if row["task"] == task}
    by_method = {method: [seed for name, seed in at if name == method] for method in ALL}
    return {
        method: Found(
            statistics.mean(at[method, seed]["factor"] for seed in seeds),
            [at[method, seed]["quality"] for seed in seeds],
            statistics.mean(at[method, seed]["quality"] for seed in seeds)
            / statistics.mean(at["dense", seed]["quality"] for seed in seeds)
            - 1,
        )
        for method, seeds in by_method.items()
        if seeds
    }


def told(name: str, rows: list[dict[str, Any]]) -> str:
    """Return one task's table."""
    lines: list[list[object]] = []
    for method, (factor, values, gained) in found_of(name, rows).items():
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        cells = [f"{factor:.1f}x", f"{statistics.mean(values):.2f}{spread}", f"{gained:+.1%}", len(values)]
        lines.append([method, *cells])
    return markdown([name, "fewer bytes", TASKS[name].unit, "against dense", "seeds"], lines)


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw how much quality is lost against the factor, a panel a task, the methods by number."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "tonsor"
    widths = [*[1.0] * len(TASKS), 0.45]
    figure, axes = plt.subplots(1, len(widths), figsize=(12, 5), width_ratios=widths)
    for axis, (name, task) in zip(axes, TASKS.items(), strict=False):
        axis.axhspan(-1, 1, color="tab:green", alpha=0.12)
        for method, (factor, _, gained) in found_of(name, rows).items():
            worse, number = 100 * (gained if task.is_error else -gained), ALL.index(method) + 1
            axis.plot(factor, worse, "o", markersize=4, color=f"C{number % 10}")
            axis.annotate(str(number), (factor, worse), fontsize=7, xytext=(3, 3), textcoords="offset points")
        axis.set(title=f"{name}: {task.unit}", xlabel="fewer bytes, times", ylabel="worse than dense, %")
        axis.set_xscale("log")
        axis.set_yscale("symlog", linthresh=1)
        axis.set_yticks(TICKS, map(str, TICKS))
        axis.margins(0.1)
        axis.invert_yaxis()
    axes[-1].axis("off")
    names = "\n".join(f"{number:2} {method}" for number, method in enumerate(ALL, 1))
    axes[-1].text(0, 1, names, fontsize=7, family="monospace", va="top")
    figure.tight_layout()
    figure.savefig(PLOT, metadata={"Date": None})


def main() -> None:
    """Start two workers for what is missing, then write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, default=Path("runs/compress_full/runs.jsonl"))
    parser.add_argument("--only", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        work(arguments.cache, arguments.only, arguments.seeds)
        return
    arguments.cache.parent.mkdir(parents=True, exist_ok=True)
    asked = ["--cache", str(arguments.cache), "--only", *arguments.only, "--seeds", str(arguments.seeds)]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    subprocess.run([*run, "--work", *asked], check=True)
    rows = read(arguments.cache)
    draw(rows)
    body = "\n\n".join([ABOUT, *(told(name, rows) for name in TASKS if any(r["task"] == name for r in rows))])
    write_section("Compression: whole trainings", "python benchmarks/compress_full.py", body)


ABOUT = """Two workers, 16 images or 8 pieces of 64 characters each, SGD with momentum (DGC has its own), 1200
steps with a cosine rate; the same batches and first weights for every method. Norms are bounded before
anything is compressed: of each tensor to the square root of 2 (`LocalClip(max_norm=1)` with two
workers, and DGC's own). DGC has a warm-up of 30 or 60 steps a stage; EF21 stands
as it comes, without the momentum that its second paper gives it for small batches. Fewer bytes: what a
worker would have handed over in float32 at every step over what it did, in the whole run, warm-ups and
messages' heads included. Biases go whole at every step (2.3 of LeNet-5's 1724 kB, 7.2 of the LSTM's
925), so that 743 and 129 times is the most without fewer meetings. local SGD averages the weights every
so many steps, DiLoCo makes an outer Nesterov step of that (learning rate, momentum). The plot is
`compress_full.svg`, with its green band within 1 % of dense."""


if __name__ == "__main__":
    main()
