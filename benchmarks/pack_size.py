"""How small does a trained model get, and what does that cost?

Trains, prunes, packs through the command, over several seeds, and tables the reports: the file with its
header against the float32 parameters, accuracy of what is unpacked from it against the dense model.

python benchmarks/pack_size.py --seeds 3
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from results import markdown, write_section

ROOT = Path(__file__).parent.parent
SMALLEST = ["prune.0.sparsity=0.98", 'pack.bits={"*.weight"=3, "*.bias"=5}']
CASES: dict[str, tuple[str, list[str], str]] = {  # recipe, changes, and what it should reach
    "LeNet-300-100, 95 %, 4 bit": ("packed-lenet-300-100", [], ">= 60x at <= 0.5 points"),
    "LeNet-300-100, 98 %, 3 bit": ("packed-lenet-300-100", SMALLEST, ">= 120x at <= 2 points"),
    "LeNet-5, 97 %, 4 bit": ("packed-lenet-5", [], ">= 60x at <= 0.5 points"),
}


def run(recipe: str, changes: list[str], seed: int, out: Path) -> dict:
    """Run a recipe, or take what a run before has left in its folder, and return its report."""
    changed = [part for change in [f"seed={seed}", *changes] for part in ("--set", change)]
    file = ROOT / "recipes" / f"{recipe}.toml"
    command = [sys.executable, "-m", "tonsor", "run", file, "--out", out, *changed, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "report.json").read_text())


def row(case: str, seed: int, report: dict) -> list[object]:
    """Return one run as a row."""
    dense, masked, packed = (report["models"][name] for name in ("dense", "masked", "packed"))
    whole = 4 * dense["parameters"]
    points = [100 * (model["accuracy"] - dense["accuracy"]) for model in (masked, packed)]
    return [
        case,
        seed,
        f"{dense['accuracy']:.4f}",
        f"{masked['accuracy']:.4f} ({points[0]:+.2f})",
        f"{packed['accuracy']:.4f} ({points[1]:+.2f})",
        f"{whole:,} → {packed['bytes']:,}",
        f"{whole / packed['bytes']:.1f}",
    ]


def main() -> None:
    """Run what was asked for and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, help="Where runs are kept, to go on after a stop.")
    arguments = parser.parse_args()
    rows, told = [], []
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.runs or Path(scratch)
        for case in arguments.cases:
            recipe, changes, aim = CASES[case]
            places = [
                folder / f"{case.replace(' ', '-').replace(',', '')}-{s}" for s in range(arguments.seeds)
            ]
            reports = [run(recipe, changes, seed, place) for seed, place in enumerate(places)]
            rows += [row(case, seed, report) for seed, report in enumerate(reports)]
            factors = [
                4 * r["models"]["dense"]["parameters"] / r["models"]["packed"]["bytes"] for r in reports
            ]
            lost = [
                100 * (r["models"]["dense"]["accuracy"] - r["models"]["packed"]["accuracy"]) for r in reports
            ]
            told.append(
                f"- {case}: wanted {aim}; {statistics.median(factors):.1f}x at {statistics.median(lost):.2f} "
                f"points (medians; worst {min(factors):.1f}x, {max(lost):.2f} points)"
            )
    header = ["model", "seed", "dense", "masked (points)", "packed (points)", "bytes", "times smaller"]
    why = (
        "Fashion-MNIST, accuracy on its 10,000 test images. The file has its header, checksums and "
        "biases; what is measured is the model unpacked from it. Deep Compression (2016) reports 40x, "
        "and 39x for LeNet-5, on MNIST."
    )
    body = "\n\n".join([why, "\n".join(told), markdown(header, rows)])
    write_section("Pack: size", f"python benchmarks/pack_size.py --seeds {arguments.seeds}", body)


if __name__ == "__main__":
    main()
