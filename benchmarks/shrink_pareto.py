"""What does a smaller network cost in accuracy, and what does it win in time?

One network shrunk to many targets and tuned alike; a sweep that was stopped goes on:

    python benchmarks/shrink_pareto.py --cache runs/shrink_pareto
"""

import argparse
import shutil
from functools import partial
from pathlib import Path

from prune_lab import Lab
from results import markdown, write_section
from shrink_quality import NET, TUNING

from tonsor.recipe.pareto import pareto
from tonsor.report import front
from tonsor.shrink import Target

BATCH = 64
TARGETS = [
    *(Target(macs=share) for share in (0.7, 0.5, 0.25, 0.125)),
    *(Target(latency_ms=t) for t in (0.7, 0.5)),
]
PLOT = Path(__file__).parent / "shrink_pareto.svg"
ABOUT = """One ResNet (78k parameters) on Fashion-MNIST, shrunk to each target and tuned for {tuning} steps;
milliseconds of a batch of {batch}, one thread, the median of 20 calls in turns with the dense model. "Best":
no other one beats it in both. The plot is `shrink_pareto.svg`."""


def main() -> None:
    """Do what is left of the sweep, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cache", type=Path, default=Path("runs/shrink_pareto"))
    cache = parser.parse_args().cache
    cache.mkdir(parents=True, exist_ok=True)
    lab = Lab(NET, 0, cache)
    example = lab.data["test"][0][:BATCH]
    tune = partial(lab.train, steps=TUNING, rate=0.5)
    rows = pareto(lab.dense(), example, lab.accuracy, cache / "sweep", targets=TARGETS, tune=tune)
    shutil.copy(cache / "sweep" / "front.svg", PLOT)
    best = front(rows)
    table = [
        [
            row["name"],
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            f"{row['dense_ms'] / row['latency_ms']:.2f}",
            f"{row['accuracy']:.2f}",
            "best" if row["name"] in best else "",
        ]
        for row in rows
    ]
    head = ["target", "parameters", "MACs", "times faster", "accuracy, %", ""]
    told = ABOUT.format(tuning=TUNING, batch=BATCH)
    write_section(
        "Shrinking: a sweep", "python benchmarks/shrink_pareto.py", f"{told}\n\n{markdown(head, table)}"
    )


if __name__ == "__main__":
    main()
