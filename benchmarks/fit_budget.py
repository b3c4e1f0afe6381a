"""What does `tonsor fit` find, how long does it take, and does its pick hold on data it never saw?

LeNet-300-100 on Fashion-MNIST, three epochs, a dense model a seed; every search in a folder of its own:

    OMP_NUM_THREADS=1 python benchmarks/fit_budget.py --seeds 3 [--runs FOLDER]
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import markdown, write_section

ROOT = Path(__file__).parent.parent
ASKS = (
    "--bytes 40k",
    "--bytes 20k",
    "--bytes 9k",
    "--bytes 9k --tune 5",
    "--max-loss 0.5",
    "--max-loss 0.5 --tune 3",
    "--latency-ms 0.2 --batch 64",
)
ABOUT = """LeNet-300-100, three epochs on Fashion-MNIST, 1,066,440 bytes in float32. The search sees 4,096
training images without labels and chooses on 5,000 validation images; the test images are looked at once,
after it. Falls are in points of accuracy, below the dense model of the same seed: the median over the
seeds, and in brackets the worst. Seconds are those of the whole command, one thread, on a machine that
others use."""


def tonsor(*arguments: object) -> None:
    """Run the command."""
    command = [sys.executable, "-m", "tonsor", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def measure(dense: Path, ask: str, folder: Path) -> dict[str, float]:
    """Search in a copy of the dense run, and return what was picked; kept where it has been done."""
    kept = folder / "figures.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(dense, folder)
    started = time.time()
    tonsor("fit", folder, *ask.split())
    seconds = time.time() - started
    found = json.loads((folder / "fit" / "fit.json").read_text())
    pick, whole = found["pick"], found["dense"]
    figures = {
        "bytes": pick["bytes"],
        "latency_ms": pick["latency_ms"],
        "dense_ms": whole["latency_ms"],
        "valid": 100 * (whole["metric"] - pick["metric"]),
        "test": 100 * (found["test"]["dense"] - found["test"]["pick"]),
        "sparsity": pick["sparsity"],
        "share": pick["share"],
        "tried": len(found["rows"]),
        "seconds": seconds,
    }
    kept.write_text(json.dumps(figures))
    return figures


def cell(rows: list[dict[str, float]], key: str, form: str, *, worst: bool = False) -> str:
    """Return the median, and the highest where it is asked for."""
    values = [row[key] for row in rows]
    most = f" ({max(values):{form}})" if worst else ""
    return f"{statistics.median(values):{form}}{most}"


def main() -> None:
    """Train, search, and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, help="Where runs are kept, to go on after a stop.")
    arguments = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        runs = (arguments.runs or Path(scratch)).absolute()
        found: dict[str, list[dict[str, float]]] = {ask: [] for ask in ASKS}
        for seed in range(arguments.seeds):
            dense = runs / f"dense-{seed}"
            recipe = ROOT / "recipes" / "lenet-300-100.toml"
            changes = ["--set", f"seed={seed}", "--set", "train.epochs=3"]
            if not (dense / "dense.done").exists():
                tonsor("fit", recipe, "--out", dense, "--bytes", "1M", "--candidates", 1, *changes)
                shutil.rmtree(dense / "fit")
                (dense / "dense.done").touch()
            for ask in ASKS:
                folder = runs / f"{ask.replace('--', '').replace(' ', '-')}-{seed}"
                found[ask].append(measure(dense, ask, folder))
                print(seed, ask, found[ask][-1], flush=True)
    for ask, rows in found.items():
        lines.append(
            [
                f"`{ask}`",
                cell(rows, "share", ".0%"),
                cell(rows, "sparsity", ".1%"),
                cell(rows, "bytes", ",.0f"),
                f"{statistics.median(1_066_440 / row['bytes'] for row in rows):.0f}",
                cell(rows, "latency_ms", ".3f"),
                cell(rows, "valid", ".2f", worst=True),
                cell(rows, "test", ".2f", worst=True),
                cell(rows, "tried", ".0f"),
                cell(rows, "seconds", ".0f"),
            ]
        )
    header = [
        "asked",
        "work kept",
        "zeros",
        "bytes",
        "times smaller",
        "ms",
        "fall, validation",
        "fall, test",
        "candidates",
        "seconds",
    ]
    command = f"OMP_NUM_THREADS=1 python benchmarks/fit_budget.py --seeds {arguments.seeds}"
    body = f"{ABOUT}\n\n{markdown(header, lines)}"
    write_section("Fit: a budget", command, body)


if __name__ == "__main__":
    main()
