"""How good, and how fast, is a network that was shrunk to a half, a quarter and an eighth of its work?

Fashion-MNIST with a small ResNet; tonsor and torch-pruning with the same importance (squares of the weights)
and the same fine-tuning. Every run is a line of a file, so that a stopped benchmark goes on:

    python benchmarks/shrink_quality.py --cache runs/shrink_quality [--only accuracy | speed]
"""

import argparse
import copy
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from prune_lab import NETS, Lab
from results import markdown, write_section
from shrink_peer import peer_pruner
from torch import Tensor, nn

from tonsor.examples.models import resnet
from tonsor.report import size
from tonsor.shrink import channel_groups, shrink_to

SEEDS, FACTORS = 3, (2, 4, 8)
STEPS, TUNING = 860, 215  # of 128 images: two epochs dense, half a one after the cut
NET = "ResNet, two epochs"
NETS[NET] = replace(NETS["ResNet"], steps=STEPS, tuning=TUNING)
ABOUT = """Accuracy on the 10,000 test images of Fashion-MNIST in percent, mean ± standard deviation of
{seeds} seeds; before and after {tuning} steps of fine-tuning at half the rate. The ResNet (78k parameters,
images halved to 14 x 14) was trained for {steps} steps. torch-pruning has no target for the work: its ratio
of channels was sought by bisection. The form of `shrink_to`'s loss, 1/k² of the share k of a group's
scores that stays, was chosen on these images (seed 0, factor 4: a linear one gave 80 %)."""
SPEED = """Measured speed-up against the dense model beside the reduction of the multiplications, one thread.
All models of a network, the dense one and those of any width and in multiples of 16, were timed in one run
and in turns, on a machine that had other work: ratio of the medians of the CPU time, in brackets that of the
least. The wide ResNet has 64 to 256 channels, two blocks a stage, images of 32 x 32; its weights are
random, as only the time is asked for. What is missing at any width are whole blocks: see the single
convolution below. The ResNet for 14 x 14 has 16 to 64 channels, so that few layers keep one block of 16, and
the rest of the work, calls and norms, weighs more."""
KERNELS = """One 3 x 3 convolution, as many channels out as in, 16 images of 32 x 32: it works in blocks of 16
channels, and between them a width costs about as much as the next multiple."""
WIDTHS = (32, 40, 47, 48, 49, 56, 63, 64)
BATCHES = (1, 64)


def by_ratio(model: nn.Module, example: Tensor, factor: int, *, everywhere: bool) -> nn.Module:
    """Return the model cut by torch-pruning at the least ratio that divides the work by the factor."""
    bound, low, high = size(model, example)["macs"] / factor, 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        small = copy.deepcopy(model).eval()
        peer_pruner(small, example, ratio=middle, global_pruning=everywhere).step()
        if size(small, example)["macs"] <= bound:
            high, found = middle, small
        else:
            low = middle
    return found


def by_target(model: nn.Module, example: Tensor, factor: int, *, multiple: int = 1) -> nn.Module:
    """Return the model shrunk to its share of the work."""
    small = copy.deepcopy(model)
    groups = channel_groups(small, example).limited(multiple_of=multiple)
    shrink_to(small, example, groups=groups, macs=1 / factor)
    return small


TOOLS: dict[str, Callable[[nn.Module, Tensor, int], nn.Module]] = {
    "tonsor": by_target,
    "torch-pruning, global": partial(by_ratio, everywhere=True),
    "torch-pruning, by layer": partial(by_ratio, everywhere=False),
}


def read(path: Path) -> list[dict]:
    """Return the rows that are there."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def add(path: Path, row: dict) -> None:
    """Append a row."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def quality(cache: Path) -> list[dict]:
    """Do the runs that are not in the file yet, seed by seed."""
    path = cache / "runs.jsonl"
    for seed in range(SEEDS):
        lab = Lab(NET, seed, cache)
        for tool, factor in itertools.product(["dense", *TOOLS], (1, *FACTORS)):
            head = {"seed": seed, "tool": tool, "factor": factor}
            if (factor == 1) != (tool == "dense") or any(head.items() <= row.items() for row in read(path)):
                continue
            add(path, head | measured(lab, tool, factor))
    return read(path)


def measured(lab: Lab, tool: str, factor: int) -> dict:
    """Return what is left of the work, and the accuracies."""
    dense, example = lab.dense(), lab.data["test"][0][:1]
    if tool == "dense":
        return {"share": 1.0, "one_shot": lab.accuracy(dense), "tuned": lab.accuracy(dense)}
    small = TOOLS[tool](dense, example, factor)
    share = size(small, example)["macs"] / size(dense, example)["macs"]
    shot = lab.accuracy(small)
    lab.train(small, TUNING, rate=0.5)
    return {"share": share, "one_shot": shot, "tuned": lab.accuracy(small)}


def speed(cache: Path) -> list[dict]:
    """Measure the time of both networks, all models of a network in turns."""
    path = cache / "times.jsonl"
    wide, image = partial(resnet, width=64, blocks=(2, 2, 2)), torch.randn(1, 1, 32, 32)
    nets = {
        "wide ResNet": (wide(), image, 5, (1, 16)),
        "ResNet 14 x 14": (resnet(), torch.randn(1, 1, 14, 14), 25, (1,)),
    }
    for name, (dense, example, rounds, multiples) in nets.items():
        if any(row["net"] == name for row in read(path)):
            continue
        models = {"dense": dense.eval()}
        for factor, multiple in itertools.product(FACTORS, multiples):
            models[f"{factor}/{multiple}"] = by_target(models["dense"], example, factor, multiple=multiple)
        times = {str(batch): seconds(models, example, batch, rounds) for batch in BATCHES}
        macs = {key: size(model, example)["macs"] for key, model in models.items()}
        for key in list(models)[1:]:
            factor, multiple = map(int, key.split("/"))
            row = {"net": name, "factor": factor, "multiple": multiple, "macs": macs["dense"] / macs[key]}
            for batch, middle in itertools.product(map(str, BATCHES), ("median", "low")):
                row[f"{batch} {middle}"] = times[batch]["dense"][middle] / times[batch][key][middle]
            add(path, row)
    return read(path)


def seconds(
    models: dict[str, nn.Module], example: Tensor, batch: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Return median and minimum of the CPU seconds of one call, the models taking turns."""
    x = example.expand(batch, *example.shape[1:]).contiguous()
    taken: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for _ in range(rounds + 2):
            for name, model in models.items():
                start = time.process_time()
                model.eval()(x)
                taken[name].append(time.process_time() - start)
    return {name: {"median": statistics.median(own[2:]), "low": min(own[2:])} for name, own in taken.items()}


def blocks(cache: Path) -> list[dict]:
    """Measure one convolution at widths in and between multiples of 16."""
    path = cache / "widths.jsonl"
    if not read(path):
        taken: dict[int, list[float]] = {width: [] for width in WIDTHS}
        layers = {n: (nn.Conv2d(n, n, 3, padding=1), torch.randn(16, n, 32, 32)) for n in WIDTHS}
        with torch.no_grad():
            for turn, (width, (conv, x)) in itertools.product(range(22), layers.items()):
                start = time.process_time()
                conv(x)
                taken[width] += [time.process_time() - start] if turn > 1 else []
        for width, own in taken.items():
            add(path, {"width": width, "ms": 1000 * statistics.median(own)})
    return read(path)


def accuracies(runs: list[dict]) -> str:
    """Return the table of accuracies."""
    rows = []
    for tool, factor in itertools.product(["dense", *TOOLS], (1, *FACTORS)):
        own = [row for row in runs if row["tool"] == tool and row["factor"] == factor]
        if own:
            share = statistics.mean(row["share"] for row in own)
            rows.append(
                [f"{tool}, {factor}x", f"{share:.3f}", *(spread(own, key) for key in ("one_shot", "tuned"))]
            )
    told = ABOUT.format(seeds=SEEDS, tuning=TUNING, steps=STEPS)
    return f"{told}\n\n{markdown(['tool, target', 'MACs left', 'cut', 'tuned'], rows)}"


def speeds(times: list[dict], single: list[dict]) -> str:
    """Return the tables of times."""
    fast = [
        [
            f"{r['net']}{', multiples of 16' if r['multiple'] > 1 else ''}, {r['factor']}x",
            f"{r['macs']:.2f}",
            *(f"{r[f'{b} median']:.2f} ({r[f'{b} low']:.2f})" for b in BATCHES),
            f"{r['64 median'] / r['macs']:.0%} ({r['64 low'] / r['macs']:.0%})",
        ]
        for r in times
    ]
    head = ["network, target", "MACs divided by", "faster at batch 1", "at batch 64", "of the MACs at 64"]
    widest = single[-1]
    alone = [
        [
            r["width"],
            f"{r['ms']:.1f}",
            f"{widest['ms'] / r['ms']:.2f}",
            f"{(widest['width'] / r['width']) ** 2:.2f}",
        ]
        for r in single
    ]
    kernels = markdown(["channels", "CPU ms", "faster than the widest", "MACs divided by"], alone)
    return f"{SPEED}\n\n{markdown(head, fast)}\n\n{KERNELS}\n\n{kernels}"


def spread(rows: list[dict], key: str) -> str:
    """Return mean and standard deviation."""
    values = [row[key] for row in rows]
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}"


def main() -> None:
    """Do what is left to do, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, default=Path("runs/shrink_quality"))
    parser.add_argument("--only", choices=("accuracy", "speed"))
    arguments = parser.parse_args()
    cache = arguments.cache
    cache.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    command = "python benchmarks/shrink_quality.py --only"
    if arguments.only != "speed":
        peers = f"torch-pruning {version('torch-pruning')}"
        write_section("Shrinking: accuracy", f"{command} accuracy", accuracies(quality(cache)), peers=peers)
    if arguments.only != "accuracy":
        write_section("Shrinking: speed-up", f"{command} speed", speeds(speed(cache), blocks(cache)))


if __name__ == "__main__":
    main()
