"""How much memory do held gradients and a low-rank optimizer state save?

Trains 85M parameters (12 transformer blocks of GPT-2 small) for two steps of four micro-batches, each way in
a process of its own:

    OMP_NUM_THREADS=1 python benchmarks/compress_memory.py
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from results import markdown, write_section
from torch import Tensor, nn

from tonsor.compress import GaLore, HeldGradients

STEPS, MICRO = 2, 4
ADAM = partial(torch.optim.AdamW, lr=1e-4)
NOTE = """12 transformer blocks of GPT-2 small, 85M float32 parameters (324 MiB), AdamW, two steps of four
micro-batches of one text of 32 tokens, each way in a process of its own. `gradients` is the most
that was alive at the same time, held sums included (with one gradient at a time in the step, at
most 9 MiB come on top), and `state` what the optimizer keeps, projections included; the peak is
that of the whole process, with weights, activations, libraries (about 250 MiB) and what the
allocator does not give back. The error of the sums is that of all gradients together, before the
first step, against the ordinary loop. Seconds are of processor time; GaLore finds its projections
in the first step. Where texts are as short as here, holding takes as long as the rest of the step,
or longer; and the peak of the process falls less than what is held, because autograd holds
gradients of its own for a moment."""


def build() -> nn.Module:
    """Return the blocks of GPT-2 small, without its embedding."""
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(768, 12, 3072, dropout=0, batch_first=True) for _ in range(12)]
    return nn.Sequential(*layers)


def bytes_of(state: object) -> int:
    """Return the bytes of all tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.nbytes
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else ()
    return sum(map(bytes_of, values))


class Way:
    """One way to accumulate and to step."""

    def __init__(
        self,
        model: nn.Module,
        *,
        hold: Callable[[nn.Module], HeldGradients] | None = None,
        galore: int = 0,
        one_by_one: bool = False,
    ) -> None:
        self.model = model
        self.held = hold(model) if hold else None
        self.optimizer = GaLore(model, ADAM, rank=galore) if galore else ADAM(model.parameters())
        self.one_by_one = one_by_one
        self.peak = 0
        self.looks = 0
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self.look)

    def look(self, _: Tensor) -> None:
        """Count the bytes of gradients that are alive now; a look costs, so only one in ten is taken."""
        self.looks += 1
        if self.looks % 10 == 0:
            self.count()

    def count(self) -> None:
        """Take the bytes alive now into the peak."""
        alive = sum(p.grad.nbytes for p in self.model.parameters() if p.grad is not None)
        self.peak = max(self.peak, alive + (self.held.nbytes if self.held else 0))

    def step(self) -> None:
        """Step, whole or one gradient at a time."""
        if self.held and self.one_by_one:
            self.held.step(self.optimizer)
            return
        if self.held:
            self.held.release()
        self.count()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def sums(self) -> list[Tensor]:
        """Return the gradients, held or not."""
        if self.held:
            held = self.held._sums
            return [held[name].value() for name, _ in self.model.named_parameters()]
        return [p.grad.flatten() for p in self.model.parameters()]

    def state(self) -> int:
        """Return the bytes that the optimizer keeps."""
        return bytes_of(self.optimizer.state_dict())


WAYS: dict[str, Callable[[nn.Module], Way]] = {
    "ordinary": Way,
    "bfloat16, feedback": partial(Way, hold=partial(HeldGradients, kind="bfloat16"), one_by_one=True),
    "int8, feedback": partial(Way, hold=HeldGradients, one_by_one=True),
    "int8": partial(Way, hold=partial(HeldGradients, feedback=False), one_by_one=True),
    "GaLore, rank 128": partial(Way, galore=128),
    "int8, feedback, released at once; GaLore, rank 128": partial(Way, hold=HeldGradients, galore=128),
}


def measure(name: str, only_sums: str = "") -> dict[str, float | list[float]]:
    """Train, and return peaks, bytes and seconds; or only save the sums of the first step."""
    model = build()
    way = WAYS[name](model)
    seconds = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        started = time.thread_time()
        for _ in range(MICRO):
            model(torch.randn(1, 32, 768, generator=generator)).square().mean().backward()
        if only_sums:
            torch.save(way.sums(), only_sums)
            return {}
        way.step()
        seconds.append(time.thread_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"gradients": way.peak, "state": way.state(), "process": peak, "seconds": seconds}


def apart(*arguments: str) -> dict[str, float | list[float]]:
    """Measure in a process of its own."""
    command = [sys.executable, __file__, *arguments]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(told) if told.strip() else {}


def error_of(name: str, folder: str) -> float:
    """Return the relative error of the sums of a way against those of the ordinary loop."""
    right, got = (Path(folder) / f"{way}.pt" for way in ("ordinary", "other"))
    if not right.exists():
        apart("--only", "ordinary", "--sums", str(right))
    apart("--only", name, "--sums", str(got))
    pairs = list(zip(*(torch.load(file, weights_only=True) for file in (got, right)), strict=True))
    lost = sum((a - b).double().square().sum().item() for a, b in pairs)
    return (lost / sum(b.double().square().sum().item() for _, b in pairs)) ** 0.5


def main() -> None:
    """Write the table, or measure one case."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only")
    parser.add_argument("--sums", default="")
    arguments = parser.parse_args()
    if arguments.only:
        found = measure(arguments.only, arguments.sums)
        print(json.dumps(found) if found else "")
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in WAYS:
            found = apart("--only", name)
            peaks = [f"{found[key] / 2**20:,.0f}" for key in ("gradients", "state", "process")]
            is_held = name.partition(",")[0] in ("int8", "bfloat16") and "GaLore" not in name
            error = f"{error_of(name, folder):.1e}" if is_held else ""
            first, last = (f"{seconds:.2f}" for seconds in (found["seconds"][0], found["seconds"][-1]))
            rows.append([name, *peaks, error, last, first])
    head = ["way", "gradients, MiB", "state, MiB", "peak of the process, MiB", "error of the sums"]
    table = markdown([*head, "s, last step", "s, first step"], rows)
    command = "OMP_NUM_THREADS=1 python benchmarks/compress_memory.py"
    write_section("Memory: held gradients and low-rank state", command, f"{NOTE}\n\n{table}")


if __name__ == "__main__":
    main()
