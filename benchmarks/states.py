"""What is each state of a run worth: dense, masked, packed, sparse, int8?

    OMP_NUM_THREADS=1 python benchmarks/states.py RUN [RUN ...]

for folders of finished runs, as `pack_size.py --runs` leaves them; the same as `tonsor compare RUN`.
"""

import argparse
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from results import markdown, write_section

from tonsor.recipe.comparing import Question, compare_states, open_finished
from tonsor.report import readable

BATCHES = (1, 8, 64)
ABOUT = """States of one run, measured together by `tonsor compare`: the model as trained, with its weights
set to zero, unpacked from the packed file, with layers that use the zeros, and in 8 bits in ONNX Runtime.
Latency is the median with the 10th and 90th percentile of {rounds} calls in turns, one thread. Memory is
weights and what is alive at once in a pass; what ONNX Runtime takes is not seen."""


def cell(model: dict[str, Any], batch: int) -> str:
    """Return the latency at one batch, with its spread."""
    taken = model["latency_ms"][str(batch)]
    return f"{taken['median']:.3f} ({taken['low']:.3f}-{taken['high']:.3f})"


def memory(model: dict[str, Any], batch: int) -> str:
    """Return weights and activations at one batch, where that is known."""
    activations = model.get("activation_bytes")
    return readable.size(model["weight_bytes"] + activations[str(batch)]) if activations else ""


def table(figures: dict[str, Any]) -> str:
    """Return a row for each state."""
    rows = [
        [
            name,
            f"{100 * model['accuracy']:.2f}",
            f"{model['bytes']:,}",
            f"{model['macs']:,}",
            f"{model['nonzeros']:,}",
            memory(model, BATCHES[-1]),
            *(cell(model, batch) for batch in BATCHES),
        ]
        for name, model in figures["models"].items()
    ]
    head = ["state", "accuracy", "bytes", "MACs", "nonzeros", f"memory, batch {BATCHES[-1]}"]
    return markdown([*head, *(f"ms, batch {batch}" for batch in BATCHES)], rows)


def main() -> None:
    """Measure the runs and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    parts = [ABOUT.format(rounds=arguments.rounds)]
    question = Question(batches=BATCHES, rounds=arguments.rounds, threads=1)
    for path in arguments.runs:
        with tempfile.TemporaryDirectory() as folder:
            figures = compare_states(open_finished(path), question, Path(folder))
        notes = "\n".join(f"- {note}" for note in figures["notes"])
        layers = "\n".join(f"- sparse, layer {row['name']}: {row['why']}" for row in figures["layers"])
        parts.append(f"### {figures['name']}\n\n{table(figures)}\n\n{notes}\n{layers}")
    command = "OMP_NUM_THREADS=1 python benchmarks/states.py RUN RUN"
    write_section(
        "States of a run", command, "\n\n".join(parts), peers=f"onnxruntime {version('onnxruntime')}"
    )


if __name__ == "__main__":
    main()
