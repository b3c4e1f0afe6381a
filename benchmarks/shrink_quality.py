"""How good, and how fast, is a network that was shrunk to a half, a quarter and an eighth of its work?

Fashion-MNIST with a small ResNet; tonsor and torch-pruning with the same importance (squares of the weights)
and the same fine-tuning. Every run is a line of a file, so that a stopped benchmark goes on:

    python benchmarks/shrink_quality.py --cache runs/shrink_quality
"""

import argparse
import copy
import itertools
import json
import statistics
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
from tonsor.report import latency, size
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
SPEED = """Measured speed-up against the dense model beside the reduction of the multiplications, one thread,
medians of calls taken in turns with the dense model. The wide ResNet (64 to 256 channels, two blocks a stage,
32 x 32) has random weights: only its time is asked for."""


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
    """Measure the time of both networks, each model in turns with the dense one."""
    path = cache / "speed.jsonl"
    wide, image = partial(resnet, width=64, blocks=(2, 2, 2)), torch.randn(1, 1, 32, 32)
    nets = {
        "ResNet 14 x 14": (Lab(NET, 0, cache).dense, torch.randn(1, 1, 14, 14), 40, 1),
        "wide ResNet 32 x 32": (wide, image, 5, 1),
        "wide ResNet, multiples of 16": (wide, image, 5, 16),
    }
    for (name, (build, example, rounds, multiple)), factor in itertools.product(nets.items(), FACTORS):
        head = {"net": name, "factor": factor}
        if any(head.items() <= row.items() for row in read(path)):
            continue
        dense = build()
        small = by_target(dense, example, factor, multiple=multiple)
        ratio = size(dense, example)["macs"] / size(small, example)["macs"]
        times = latency({"dense": dense, "small": small}, example, batches=(1, 64), rounds=rounds)
        faster = {b: times["dense"][b]["median"] / times["small"][b]["median"] for b in ("1", "64")}
        add(path, head | {"macs": ratio, **faster})
    return read(path)


def tables(runs: list[dict], times: list[dict]) -> str:
    """Return both tables."""
    rows = []
    for tool, factor in itertools.product(["dense", *TOOLS], (1, *FACTORS)):
        own = [row for row in runs if row["tool"] == tool and row["factor"] == factor]
        if own:
            share = statistics.mean(row["share"] for row in own)
            rows.append(
                [f"{tool}, {factor}x", f"{share:.3f}", *(spread(own, key) for key in ("one_shot", "tuned"))]
            )
    told = ABOUT.format(seeds=SEEDS, tuning=TUNING, steps=STEPS)
    fast = [
        [
            f"{r['net']}, {r['factor']}x",
            *(f"{r[key]:.2f}" for key in ("macs", "1", "64")),
            f"{r['64'] / r['macs']:.0%}",
        ]
        for r in times
    ]
    head = ["network, target", "MACs divided by", "faster at batch 1", "at batch 64", "of the MACs at 64"]
    accuracy = markdown(["tool, target", "MACs left", "cut", "tuned"], rows)
    return f"{told}\n\n{accuracy}\n\n{SPEED}\n\n{markdown(head, fast)}"


def spread(rows: list[dict], key: str) -> str:
    """Return mean and standard deviation."""
    values = [row[key] for row in rows]
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values) if len(values) > 1 else 0:.2f}"


def main() -> None:
    """Do what is left to do, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, default=Path("runs/shrink_quality"))
    cache = parser.parse_args().cache
    cache.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    runs, times = quality(cache), speed(cache)
    peers = f"torch-pruning {version('torch-pruning')}"
    command = "python benchmarks/shrink_quality.py"
    write_section("Shrinking: accuracy and speed-up", command, tables(runs, times), peers=peers)


if __name__ == "__main__":
    main()
