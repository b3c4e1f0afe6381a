"""How fast are masks found, and in how much memory, beside torch.nn.utils.prune?

Times are taken in turn, in one process; each peak in a process of its own:

    OMP_NUM_THREADS=1 python benchmarks/prune_speed.py
"""

import argparse
import ctypes
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from clip import BLOCK, LAYERS
from results import markdown, write_section
from torch import Tensor, nn
from torch.nn.utils import prune as peer

from tonsor.prune import across, erk, find_masks, lamp, local, magnitude

SPARSITY = 0.9
MIB = 1 << 20
NOTE = """Linear weights of the blocks of GPT-2 small: 84.9M elements in 48 tensors (324 MiB), 90 % removed.
Seconds of one thread, all in turn on the same weights, on a machine that others use at the same time. Extra
peak: the highest resident memory during one call less the resident memory before it, in a process of its own
(what malloc keeps for later is given back first, `/proc/self/clear_refs` sets the mark back, `VmHWM` reads
it). 81 MiB of ours are the masks themselves.

- The scores of `magnitude` never lie in memory: they are computed tensor by tensor whenever the count of
  their bits goes through them, four times in all.
- `across` of ready scores needs the masks and nothing else; the scores were there before.
- LAMP sorts each tensor.
- torch's masks are floats, and it keeps the unpruned weights beside the pruned ones.
"""
Method = Callable[[dict[str, Tensor]], object]


def weights() -> dict[str, Tensor]:
    """Return the weights, always the same."""
    generator = torch.Generator().manual_seed(0)
    shapes = enumerate(BLOCK * LAYERS)
    return {str(index): 0.02 * torch.randn(shape, generator=generator) for index, shape in shapes}


def layers(given: dict[str, Tensor]) -> list[tuple[nn.Module, str]]:
    """Return layers that hold the weights, without a copy."""
    found = []
    for weight in given.values():
        layer = nn.Linear(1, 1, bias=False)
        layer.weight = nn.Parameter(weight)
        found.append((layer, "weight"))
    return found


def torch_global(given: dict[str, Tensor]) -> list[Tensor]:
    """Let torch remove the lowest of all layers together."""
    found = layers(given)
    peer.global_unstructured(found, pruning_method=peer.L1Unstructured, amount=SPARSITY)
    return [layer.get_buffer("weight_mask") for layer, _ in found]


def torch_each(given: dict[str, Tensor]) -> list[Tensor]:
    """Let torch remove the lowest of each layer."""
    found = layers(given)
    for layer, name in found:
        peer.l1_unstructured(layer, name, amount=SPARSITY)
    return [layer.get_buffer("weight_mask") for layer, _ in found]


def on_ready_scores(given: dict[str, Tensor]) -> Callable[[], object]:
    """Return a call of the scope alone."""
    scores = {name: magnitude(weight) for name, weight in given.items()}
    return lambda: across(scores, SPARSITY)


def on_step_two(given: dict[str, Tensor]) -> Callable[[], object]:
    """Return a call as a schedule makes it: within the masks of half the sparsity."""
    before = find_masks(given, SPARSITY / 2)
    return lambda: find_masks(given, SPARSITY, within=before)


def plainly(call: Method) -> Callable[[dict[str, Tensor]], Callable[[], object]]:
    """Return a preparation that prepares nothing."""
    return lambda given: partial(call, given)


THEIRS = {
    "global_unstructured": plainly(torch_global),
    "l1_unstructured, layer by layer": plainly(torch_each),
}
OURS = {
    "find_masks, across": plainly(lambda given: find_masks(given, SPARSITY)),
    "find_masks, across, within the masks of 45 %": on_step_two,
    "across alone, on ready scores": on_ready_scores,
    "find_masks, lamp": plainly(lambda given: find_masks(given, SPARSITY, scope=lamp)),
    "find_masks, local": plainly(lambda given: find_masks(given, SPARSITY, scope=local)),
    "find_masks, erk": plainly(lambda given: find_masks(given, SPARSITY, scope=erk)),
}
PEERS = dict.fromkeys(list(OURS)[:4], "global_unstructured") | dict.fromkeys(
    list(OURS)[4:], "l1_unstructured, layer by layer"
)


def status(key: str) -> float:
    """Return a line of the process's own status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / MIB


def extra_peak(name: str) -> float:
    """Return by how much the resident memory rises while masks are found, in this process."""
    call = {**THEIRS, **OURS}[name](weights())
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    call()
    return status("VmHWM") - before


def in_a_process(name: str) -> float:
    """Return the extra peak, measured in a process of its own."""
    arguments = [sys.executable, __file__, "--peak", name]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def take_turns(names: list[str], rounds: int) -> tuple[dict[str, list[float]], dict[str, object]]:
    """Return the seconds of each method, all in turn, and what each found last; a small call warms up."""
    given, methods = weights(), {**THEIRS, **OURS}
    times: dict[str, list[float]] = {name: [] for name in names}
    found: dict[str, object] = {}
    for name in names:
        methods[name]({"small": given["0"][:8].clone()})()
    for number in range(rounds):
        for name in names[:: 1 if number % 2 else -1]:
            call = methods[name](given)
            start = time.thread_time()
            found[name] = call()
            times[name].append(time.thread_time() - start)
    return times, found


def agreement(theirs: list[Tensor], ours: dict[str, Tensor]) -> str:
    """Return a sentence on how the masks of both differ."""
    pairs = zip(theirs, ours.values(), strict=True)
    differing = sum(int((a.bool() != b).sum()) for a, b in pairs)
    counts = [sum(int(mask.count_nonzero()) for mask in masks) for masks in (theirs, ours.values())]
    return (
        f"Kept: torch {counts[0]:,}, tonsor {counts[1]:,}; the masks of `global_unstructured` and of"
        f" `find_masks` differ in {differing} elements, of scores that tie at the threshold."
    )


def spread(times: list[float]) -> str:
    """Return median, least and most."""
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


def main() -> None:
    """Measure everything and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[*THEIRS, *OURS], help="some of the methods")
    parser.add_argument("--peak", help="print the extra peak of one method and stop")
    arguments = parser.parse_args()
    if arguments.peak:
        print(extra_peak(arguments.peak))
        return
    names = [name for name in (*THEIRS, *OURS) if name in arguments.only]
    peaks = {name: in_a_process(name) for name in names}
    times, found = take_turns(names, arguments.rounds)
    rows = [[name, "", spread(times[name]), f"{peaks[name]:.0f}", "", ""] for name in names if name in THEIRS]
    for name in [name for name in names if name in OURS]:
        other = PEERS[name]
        ratios = [a / b for a, b in zip(times[other], times[name], strict=True)]
        faster = f"{statistics.median(ratios):.1f}x ({min(ratios):.1f} to {max(ratios):.1f})"
        share = f"1/{peaks[other] / peaks[name]:.1f}"
        rows.append([name, other, spread(times[name]), f"{peaks[name]:.0f}", faster, share])
    head = [
        "method",
        "beside",
        "seconds, median (least to most)",
        "extra peak, MiB",
        "faster",
        "of the memory",
    ]
    wanted = "Wanted of `find_masks, across`: 20x faster, 1/10 of the memory."
    same = agreement(found["global_unstructured"], found["find_masks, across"])
    body = f"{NOTE}\n{markdown(head, rows)}\n\nRounds: {arguments.rounds}. {wanted} {same}"
    write_section("Finding masks", "OMP_NUM_THREADS=1 python benchmarks/prune_speed.py", body)


if __name__ == "__main__":
    main()
