"""How much of what one-shot pruning takes does a label-free repair give back?

LeNet-300-100 on Fashion-MNIST, trained dense, pruned at one stroke: no labels, no gradient steps, 4096
training images for calibration.

    python benchmarks/heal.py [--seeds 0 1] [--cache FOLDER]
"""

import argparse
import copy
import json
import tempfile
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import torch
from results import markdown, write_section
from torch import Tensor, nn

from tonsor.examples.data import fashion_mnist
from tonsor.examples.models import lenet_300_100
from tonsor.prune import (
    LAYER_RULES,
    apply_masks_,
    by_importance,
    collect,
    eliminate,
    find_masks,
    heal,
    local,
    prune_layerwise,
    refit,
    wanda,
)

CALIBRATION = 4096
SPARSITIES = (0.7, 0.8, 0.9, 0.95)
KEPT = (0.75, 0.5, 0.25)
RULES = {"magnitude": by_importance, "Wanda": partial(by_importance, importance=wanda)} | {
    "SparseGPT": LAYER_RULES["sparsegpt"],
    "ALPS": LAYER_RULES["alps"],
}
EPOCHS, BATCH = 20, 128

Data = dict[str, tuple[Tensor, Tensor]]


def trained(seed: int, data: Data, cache: Path) -> nn.Module:
    """Return the dense network of a seed, trained once and kept."""
    torch.manual_seed(seed)
    model = lenet_300_100()
    path = cache / f"lenet-300-100-{seed}-{EPOCHS}.json"
    if path.exists():
        model.load_state_dict(
            {name: torch.tensor(value) for name, value in json.loads(path.read_text()).items()}
        )
        return model
    images, labels = data["train"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * (len(images) // BATCH))
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
    path.write_text(json.dumps({name: value.tolist() for name, value in model.state_dict().items()}))
    return model


def accuracy(model: nn.Module, data: Data) -> float:
    """Return percent right on the test images."""
    images, labels = data["test"]
    with torch.no_grad():
        return 100 * float((model(images).argmax(1) == labels).double().mean())


class Bench:
    """Hold one dense network and what it is measured with; every figure is (accuracy, CPU seconds)."""

    def __init__(self, model: nn.Module, data: Data) -> None:
        self.dense, self.data = model, data
        images = data["train"][0][:CALIBRATION]
        self.batches = [(part, None) for part in images.split(512)]
        self.weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}

    def layerwise(self, rule: str, share: float | dict[str, float], is_refitted: bool) -> tuple[float, float]:
        """Prune layer by layer, as published without a refit, against the dense outputs with it."""
        model, started = copy.deepcopy(self.dense), time.process_time()
        ways = {"repair": refit, "target": "dense"} if is_refitted else {"repair": None, "target": "current"}
        scored = rule in ("magnitude", "Wanda") and isinstance(share, dict)
        find = partial(RULES[rule], scope=local) if scored else RULES[rule]
        prune_layerwise(model, share, self.batches, rule=find, **ways)
        seconds = time.process_time() - started
        return accuracy(model, self.data), seconds

    def shares(self, sparsity: float) -> dict[str, float]:
        """Return the sparsity of each layer where all weights of the network compete by magnitude."""
        masks = find_masks(self.weights, sparsity)
        return {name: 1 - float(mask.double().mean()) for name, mask in masks.items()}

    def neurons(self, how: str, kept: float, is_refitted: bool) -> tuple[float, float]:
        """Remove hidden neurons: rows of one layer with the columns of the next."""
        model, started = copy.deepcopy(self.dense), time.process_time()
        masks: dict[str, Tensor] = {}
        names = list(self.weights)
        for name, reader in pairwise(names):
            order = self._order(how, name, reader)
            gone = order.argsort()[: len(order) - round(kept * len(order))]
            stays = torch.ones(len(order), dtype=torch.bool)
            stays[gone] = False
            bias = name.replace("weight", "bias")
            rows = masks.get(name, torch.ones_like(self.weights[name], dtype=torch.bool))
            masks[name], masks[bias] = rows & stays[:, None], stays
            masks[reader] = stays.expand_as(self.weights[reader]).clone()
        if is_refitted:
            heal(model, masks, self.batches)
        apply_masks_(dict(model.named_parameters()), masks)
        seconds = time.process_time() - started
        return accuracy(model, self.data), seconds

    def _order(self, how: str, name: str, reader: str) -> Tensor:
        """Return a number for each neuron; the lowest go."""
        if how == "group magnitude":
            bias = self.dense.get_parameter(name.replace("weight", "bias"))
            parts = (self.weights[name], bias[:, None], self.weights[reader].T)
            return torch.cat([part.detach() for part in parts], 1).norm(dim=1)
        names = ["input_gram", "input_mean"]
        found = collect(self.dense, self.batches, names=names, weights=[reader])[reader]
        if how == "activation x weight":
            return found["input_gram"][0].diagonal().sqrt() * self.weights[reader].detach().norm(dim=0)
        return eliminate(self.weights[reader], found["input_gram"], mean=found["input_mean"])


def measured(bench: Bench) -> dict[str, tuple[float, float]]:
    """Return every figure of one dense network."""
    found = {"dense": (accuracy(bench.dense, bench.data), 0.0)}
    for sparsity in SPARSITIES:
        shares = bench.shares(sparsity)
        for rule in RULES:
            for is_refitted in (False, True):
                key = f"{sparsity}/{rule}/{is_refitted}"
                found[f"equal/{key}"] = bench.layerwise(rule, sparsity, is_refitted)
                found[f"across/{key}"] = bench.layerwise(rule, shares, is_refitted)
    for kept in KEPT:
        for how in ("group magnitude", "activation x weight", "greedy OBS"):
            for is_refitted in (False, True):
                found[f"neurons/{kept}/{how}/{is_refitted}"] = bench.neurons(how, kept, is_refitted)
    return found


def tables(runs: list[dict[str, tuple[float, float]]]) -> str:
    """Return the three tables, means over the seeds."""

    def cells(key: str) -> list[str]:
        """Return accuracy without and with the refit."""
        return [f"{fmean(run[f'{key}/{way}'][0] for run in runs):.2f}" for way in (False, True)]

    parts = []
    for scope, told in (
        ("equal", "Every layer loses the same fraction; magnitude and Wanda choose within each output:"),
        (
            "across",
            "The layers' fractions are those of magnitude over all weights; all weights of a layer compete:",
        ),
    ):
        header = ["weights removed", *(part for rule in RULES for part in (rule, "+ refit"))]
        rows = [
            [f"{s:.0%}", *(cell for rule in RULES for cell in cells(f"{scope}/{s}/{rule}"))]
            for s in SPARSITIES
        ]
        parts += [told, markdown(header, rows)]
    ways = ("group magnitude", "activation x weight", "greedy OBS")
    header = ["hidden neurons kept", *(part for way in ways for part in (way, "+ refit"))]
    rows = [[f"{k:.0%}", *(cell for way in ways for cell in cells(f"neurons/{k}/{way}"))] for k in KEPT]
    return "\n\n".join(
        [
            *parts,
            "Neurons of both hidden layers, rows, bias and the columns that read them:",
            markdown(header, rows),
        ]
    )


def main() -> None:
    """Measure every seed and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tonsor-heal")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    data = {name: part.tensors for name, part in fashion_mnist(flat=True).items()}
    runs = []
    for seed in arguments.seeds:
        path = arguments.cache / f"figures-{seed}.json"
        if not path.exists():
            path.write_text(json.dumps(measured(Bench(trained(seed, data, arguments.cache), data))))
        runs.append(json.loads(path.read_text()))
    dense = fmean(run["dense"][0] for run in runs)
    slowest = {rule: max(run[f"across/0.9/{rule}/True"][1] for run in runs) for rule in RULES} | {
        "greedy OBS": max(run["neurons/0.5/greedy OBS/True"][1] for run in runs)
    }
    times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slowest.items())
    told = " ".join(
        [
            "LeNet-300-100 on Fashion-MNIST, test accuracy in percent,",
            f"mean of {len(runs)} seeds; dense {dense:.2f}.",
            f"One stroke, {CALIBRATION} unlabelled training images, no gradient step.",
            "Without a refit the rules are as published;",
            "the refit (bias included) is against the dense outputs.",
            f"CPU time at 90 %, or half the neurons, with the refit: {times}.",
        ]
    )
    write_section("Healing after one-shot pruning", "python benchmarks/heal.py", f"{told}\n\n{tables(runs)}")


if __name__ == "__main__":
    main()
