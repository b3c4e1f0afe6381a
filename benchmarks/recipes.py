"""What do the shipped recipes reach?

Runs each over several seeds, through the command, and tables the reports:

python benchmarks/recipes.py digits linear lenet-300-100 lenet-5 char-lm --seeds 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from results import markdown, write_section

ROOT = Path(__file__).parent.parent


def run(name: str, seed: int, out: Path) -> dict:
    """Run a recipe and return its report, with the seconds it took."""
    started = time.time()
    recipe = ROOT / "recipes" / f"{name}.toml"
    command = [
        sys.executable,
        "-m",
        "tonsor",
        "run",
        recipe,
        "--out",
        out,
        "--set",
        f"seed={seed}",
        "--quiet",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return {**json.loads((out / "report.json").read_text()), "total_seconds": time.time() - started}


def row(seed: int, report: dict) -> list[object]:
    """Return one run as a row."""
    dense, masked, shrunk = (report["models"][name] for name in ("dense", "masked", "shrunk"))
    weights = sum(layer["weights"] for layer in report["layers"])
    kept = sum(layer["nonzeros"] for layer in report["layers"])
    points = 100 * (shrunk["accuracy"] - dense["accuracy"])
    return [
        seed,
        f"{dense['accuracy']:.4f}",
        f"{masked['accuracy']:.4f}",
        f"{shrunk['accuracy']:.4f} ({points:+.2f})",
        f"{1 - kept / weights:.1%}",
        f"{dense['bytes']:,} → {shrunk['bytes']:,}",
        f"{dense['macs']:,} → {shrunk['macs']:,}",
        *(
            f"{dense['latency_ms'][b]['median']:.3g} → {shrunk['latency_ms'][b]['median']:.3g}"
            for b in ("1", "64")
        ),
        f"{report['shrink']['max_difference']:.0e}",
        f"{report['total_seconds']:.0f}",
    ]


def main() -> None:
    """Run what was asked for and write a section for each recipe."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            reports = [run(name, seed, Path(folder) / str(seed)) for seed in range(arguments.seeds)]
        epochs = [entry["epochs"] for entry in _trainings(reports[0]["settings"])]
        losses = [
            100 * (r["models"]["dense"]["accuracy"] - r["models"]["shrunk"]["accuracy"]) for r in reports
        ]
        header = [
            "seed",
            f"{reports[0]['metric']} dense",
            "masked",
            "shrunk (points)",
            "sparsity",
            "bytes",
            "MACs",
        ]
        header += ["ms, batch 1", "ms, batch 64", "proof", "seconds"]
        table = markdown(header, [row(seed, report) for seed, report in enumerate(reports)])
        lost = f"the shrunk model loses {statistics.median(losses):.2f} points against the dense one (median)"
        proof = "Proof: how far the shrunk model's outputs are from the masked one's, of the largest."
        told = f"{' + '.join(map(str, epochs))} epochs; {lost}.\n{proof}"
        command = f"python benchmarks/recipes.py {name} --seeds {arguments.seeds}"
        write_section(f"Recipe {name}", command, f"{told}\n\n{table}")


def _trainings(settings: dict) -> list[dict]:
    """Return the sections that train, in order."""
    return [part for part in (settings["train"], *settings["prune"], settings["finetune"]) if part]


if __name__ == "__main__":
    main()
