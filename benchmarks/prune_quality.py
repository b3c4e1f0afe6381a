"""How good is each criterion, and each schedule, of the prune room?

Fashion-MNIST with three networks; every run is a line of a file, so that a stopped benchmark goes on:

    python benchmarks/prune_quality.py --cache runs/prune_quality
"""

import argparse
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from prune_lab import NETS, Lab
from prune_methods import CRITERIA, SCHEDULES, UNITS
from results import markdown, write_section

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
ITERATIVE = {"LeNet-300-100"}  # rounds train the network anew some ten times: too long for the others
ONLY = {
    "HRank": {"LeNet-5", "ResNet"},  # where there are maps
    "slimming": {"ResNet"},  # and norms
    "SET": ITERATIVE,  # these four take hours on the others
    "at the start: SNIP": ITERATIVE,
    "at the start: GraSP": ITERATIVE,
    "at the start: random": ITERATIVE,
}
SAME = "one stroke, tuned"
PLOT = Path(__file__).parent / "prune_quality.svg"
ABOUT = """Accuracy on the 10,000 test images of Fashion-MNIST in percent, mean ± standard deviation
over as many seeds as the row names. All weights of two or more dimensions compete, the last layer's too.
Statistics come from 1,024 training images. Seconds are the median of finding the masks (criteria, units) or
of all training (schedules).
The ResNet (78k parameters) sees the images halved to 14 x 14, which saves time.

- One-shot: pruned, not trained on. Tuned: trained on for {tuning} steps of 128 images at half the rate.
- Dense networks are trained for {steps} steps."""


def measure(lab: Lab, kind: str, name: str, sparsity: float) -> dict:
    """Prune by one criterion at one sparsity, tune, and return the figures."""
    started = time.time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a layer is emptied is a result here
        model, masks = {"criterion": CRITERIA, "units": UNITS}[kind][name](lab, sparsity)
    found, shot = time.time() - started, lab.accuracy(model)
    lab.train(model, lab.net.tuning, rate=0.5, masks=masks)
    return {"one_shot": shot, "tuned": lab.accuracy(model), "seconds": found}


def figures(lab: Lab, kind: str, name: str, left: list[float]) -> Iterator[dict]:
    """Yield what a method reaches, a row a sparsity."""
    torch.manual_seed(lab.seed)
    if kind != "schedule":
        yield from ({"sparsity": s, **measure(lab, kind, name, s)} for s in left)
        return
    started = time.time()
    for sparsity, model in SCHEDULES[name](lab, left):
        yield {"sparsity": sparsity, "tuned": lab.accuracy(model), "seconds": time.time() - started}
        started = time.time()


def run(names: list[str], seeds: int, cache: Path) -> None:
    """Do the runs that are not in the file yet: all criteria, then units, then schedules."""
    path = cache / "runs.jsonl"
    tables = {"criterion": CRITERIA, "units": UNITS, "schedule": SCHEDULES}
    methods = [(kind, name) for kind, table in tables.items() for name in table]
    for (kind, name), seed, net in itertools.product(methods, range(seeds), names):
        if net not in ONLY.get(name, {net}) or ("round" in name and net not in ITERATIVE):
            continue
        head = {"net": net, "seed": seed, "kind": kind, "name": name}
        done = {row["sparsity"] for row in read(path) if head.items() <= row.items()}
        left = [s for s in SPARSITIES if s not in done]
        for found in figures(Lab(net, seed, cache), kind, name, left) if left else ():
            with path.open("a") as file:
                file.write(json.dumps(head | found) + "\n")
            print(json.dumps(head | found), flush=True)


def dense(names: list[str], seeds: int, cache: Path) -> dict[str, list[float]]:
    """Return the accuracy of the dense networks that have been trained, measured once and kept."""
    path = cache / "dense.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    for net in names:
        found = kept.setdefault(net, [])
        labs = [Lab(net, seed, cache) for seed in range(len(found), seeds)]
        found += [lab.accuracy(lab.dense()) for lab in labs if lab.is_trained]
    path.write_text(json.dumps(kept))
    return kept


def read(path: Path) -> list[dict]:
    """Return the rows of the runs so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def with_one_stroke(rows: list[dict]) -> list[dict]:
    """Return the rows, and once more those of magnitude, as what they are among the schedules."""
    strokes = [row for row in rows if (row["kind"], row["name"]) == ("criterion", "magnitude")]
    return rows + [row | {"kind": "schedule", "name": SAME} for row in strokes]


def cell(values: list[float]) -> str:
    """Return mean and standard deviation; of one value there is none."""
    if len(values) < 2:
        return "".join(f"{value:.1f}" for value in values)
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def table(rows: list[dict], kind: str, figure: str, names: list[str]) -> str:
    """Return one table: a line a method, a column a sparsity."""
    lines = []
    for name in names:
        own = [row for row in rows if (row["kind"], row["name"]) == (kind, name) and figure in row]
        at = [[row[figure] for row in own if row["sparsity"] == s] for s in SPARSITIES]
        seconds = [row["seconds"] for row in own]
        if own:
            seeds = " to ".join(str(n) for n in sorted({len(values) for values in at}))
            lines.append([name, *map(cell, at), seeds, f"{statistics.median(seconds):.1f}"])
    return markdown([kind, *(f"{s:.0%}" for s in SPARSITIES), "seeds", "seconds"], lines)


def draw(rows: list[dict], names: list[str], levels: dict[str, list[float]]) -> None:
    """Draw one-shot and tuned accuracy against sparsity, a column a network."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "tonsor"
    figure, axes = plt.subplots(2, len(names), figsize=(4.6 * len(names), 8), squeeze=False, sharex=True)
    colors = plt.get_cmap("tab20")
    for column, net in enumerate(names):
        for line, what in enumerate(("one_shot", "tuned")):
            axis = axes[line][column]
            axis.set_title(f"{net}, {'one-shot' if what == 'one_shot' else 'tuned'}")
            axis.axhline(statistics.mean(levels[net]), color="gray", linestyle=":", label="dense")
            for number, name in enumerate(CRITERIA):
                own = [r for r in rows if (r["net"], r["kind"], r["name"]) == (net, "criterion", name)]
                points = [(s, [r[what] for r in own if r["sparsity"] == s]) for s in SPARSITIES]
                points = [(s, statistics.mean(values)) for s, values in points if values]
                if points:
                    places = [SPARSITIES.index(s) for s, _ in points]
                    style = ("-", "--", "-.")[number // 20 + number % 3]
                    heights = [height for _, height in points]
                    axis.plot(places, heights, style, color=colors(number % 20), label=name, marker=".")
            axis.set_xticks(range(len(SPARSITIES)), [f"{s:.0%}" for s in SPARSITIES])
            axis.set_ylabel("accuracy, %")
    axes[1][0].set_xlabel("sparsity")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=5, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.12, 1, 1))
    figure.savefig(PLOT, metadata={"Date": None})


def report(names: list[str], seeds: int, cache: Path) -> None:
    """Write the tables and the plot of what has been measured."""
    rows = read(cache / "runs.jsonl")
    levels = dense(names, seeds, cache)
    parts = [
        ABOUT.format(
            tuning=", ".join(f"{NETS[n].tuning} ({n})" for n in names),
            steps=", ".join(f"{NETS[n].steps} ({n})" for n in names),
        )
    ]
    for net in names:
        own = [row for row in rows if row["net"] == net]
        parts.append(f"### {net}: dense {cell(levels[net])}")
        parts.append("One-shot:\n\n" + table(own, "criterion", "one_shot", list(CRITERIA)))
        parts.append("Tuned:\n\n" + table(own, "criterion", "tuned", list(CRITERIA)))
        parts.append(
            "Schedules of magnitude:\n\n"
            + table(with_one_stroke(own), "schedule", "tuned", [SAME, *SCHEDULES])
        )
    parts.append(f"![accuracy against sparsity]({PLOT.name})")
    draw(rows, names, levels)
    command = f"python benchmarks/prune_quality.py --seeds {seeds}"
    write_section("Quality of pruning", command, "\n\n".join(parts))


def main() -> None:
    """Run what is left, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, default=Path("runs/prune_quality"))
    parser.add_argument("--only-report", action="store_true")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    if not arguments.only_report:
        run(arguments.nets, arguments.seeds, arguments.cache)
    report(arguments.nets, arguments.seeds, arguments.cache)


if __name__ == "__main__":
    main()
