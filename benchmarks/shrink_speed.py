"""How fast are channels found and removed, and is what comes out right? Paired with torch-pruning.

Both tools get the same models in one process, one after the other, and remove half of the units of every
group; ours proves each result as it does for users, torch-pruning's are checked by masking the same channels:

    python benchmarks/shrink_speed.py
"""

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from unittest import mock

import torch
from results import markdown, write_section
from shrink_peer import LARGE, peer_checked, peer_pruner
from torch import Tensor, nn

from tonsor.prune import find_masks
from tonsor.prune.scopes import local
from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.interpret import Interpreter
from tonsor.shrink.nets_test import NETS, built
from tonsor.shrink.proof import Proof

REPEATS = 3
ABOUT = """CPU seconds of one thread, median of {repeats} and range, the tools taking turns on a machine
that had other work, the first turn not counted; half of the units of every group removed, L2 importance.
tonsor's "remove" includes finding the masks, the masked and the sliced copy, slicing the model, and the
proof: masked and sliced model are run on three inputs; what that takes is told beside, and cannot be switched
off. torch-pruning's prunes and proves nothing. tonsor's "find" is torch.export but for "labels". "stays" is
the share of tonsor's parameters that lie in no group that can lose units."""


@dataclass
class Turn:
    """Hold what one tool did with one model once."""

    find: float
    remove: float
    model: nn.Module
    inner: dict[str, float] = field(default_factory=dict)
    stays: str = ""


@contextmanager
def inside(spent: dict[str, float]) -> Iterator[None]:
    """Note the CPU seconds of tonsor's proofs and of its graph on labels while something runs."""
    with ExitStack() as stack:
        for name, owner, method in (("proof", Proof, "of"), ("labels", Interpreter, "run")):
            stack.enter_context(mock.patch.object(owner, method, noted(getattr(owner, method), spent, name)))
        yield


def noted(work: Callable[..., object], spent: dict[str, float], name: str) -> Callable[..., object]:
    """Return the function, whose seconds are added up under a name."""

    def timed(*args: object) -> object:
        start = time.process_time()
        try:
            return work(*args)
        finally:
            spent[name] = spent.get(name, 0.0) + time.process_time() - start

    return timed


def clocked(work: Callable[[], object]) -> tuple[float, object]:
    """Return the CPU seconds of a call, and what it gave."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(build: Callable[[], nn.Module], example: Tensor) -> Turn:
    """Find and remove with tonsor."""
    model, seeking, removing = build().eval(), {}, {}
    with inside(seeking):
        found, groups = clocked(lambda: channel_groups(model, example))
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}

    def remove() -> None:
        masks = find_masks(weights, 0.5, pattern=groups.scored(reduction="l2"), scope=local)
        shrink_(model, groups, masks)

    free = {part.parameter for group in groups.groups.values() for part in group.slices}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    stays = 1 - sum(sizes[name] for name in free if name in sizes) / sum(sizes.values())
    with inside(removing):
        removed, _ = clocked(remove)
    spent = {"labels": seeking["labels"], "proof": removing["proof"]}
    return Turn(found, removed, model, spent, f"{stays:.0%}")


def theirs(build: Callable[[], nn.Module], example: Tensor) -> Turn:
    """Find and remove with torch-pruning."""
    model = build().eval()
    found, pruner = clocked(lambda: peer_pruner(model, example))
    removed, _ = clocked(pruner.step)
    return Turn(found, removed, model)


def millions(model: nn.Module) -> str:
    """Return how many parameters a model has."""
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M"


def speed() -> list[list[object]]:
    """Return the rows of the large models."""
    rows = []
    for name, (build, example) in LARGE.items():
        dense = millions(build())
        turns: dict[str, list[Turn]] = {"tonsor": [], "torch-pruning": []}
        for number in range(REPEATS + 1):
            for tool, way in (("tonsor", ours), ("torch-pruning", theirs)):
                turn = way(build, example)
                turns[tool] = [turn] if number < 2 else [*turns[tool], turn]
        for tool, own in turns.items():
            spent = [told([turn.inner[part] for turn in own if part in turn.inner]) for part in INNER]
            seconds = [told([turn.find for turn in own]), told([turn.remove for turn in own])]
            figures = [seconds[0], spent[0], seconds[1], spent[1]]
            last = own[-1]
            rows.append(
                [
                    f"{name} {dense}, {tool}",
                    *figures,
                    millions(last.model),
                    runs(last.model, example),
                    last.stays,
                ]
            )
            print(rows[-1], flush=True)
    return rows


INNER = ("labels", "proof")


def told(seconds: list[float]) -> str:
    """Return median and range."""
    if not seconds:
        return ""
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f} to {max(seconds):.2f})"


def runs(model: nn.Module, example: Tensor) -> str:
    """Say whether a forward runs."""
    try:
        with torch.no_grad():
            model(example)
    except Exception as error:  # noqa: BLE001 - whatever a model raises is the result
        return f"{type(error).__name__}: {str(error)[:60]}"
    return "runs"


def right() -> tuple[list[list[object]], dict[str, int]]:
    """Return what each tool makes of every small model, and how many each gets right."""
    rows, count = [], {"tonsor": 0, "torch-pruning": 0}
    for name in NETS:
        verdicts = {"tonsor": our_verdict(name), "torch-pruning": peer_verdict(name)}
        for tool, said in verdicts.items():
            count[tool] += said.startswith("right")
        rows.append([name, *verdicts.values()])
    return rows, count


def our_verdict(name: str) -> str:
    """Return what tonsor makes of a model, checked by masking on inputs that the proof has not seen."""
    model, example = built(name)
    groups = channel_groups(model, example)
    weights = {n: p for n, p in model.named_parameters() if p.ndim > 1}
    masks = find_masks(weights, 0.5, pattern=groups, scope=local)
    masked = copy.deepcopy(model).eval()
    with torch.no_grad():
        for n, p in masked.named_parameters():
            p.mul_(masks.get(n, torch.ones_like(p)))
    before = sum(p.numel() for p in model.parameters())
    shrink_(model, groups, masks)
    x = torch.randn_like(example) if example.is_floating_point() else example.flip(0)
    with torch.no_grad():
        a, b = model.eval()(x), masked(x)
    share = sum(p.numel() for p in model.parameters()) / before
    return f"right, {share:.0%} left" if float((a - b).abs().max() / b.abs().max()) < 1e-5 else "wrong"


def peer_verdict(name: str) -> str:
    """Return what torch-pruning makes of a model."""
    model, example = built(name)
    x = torch.randn_like(example) if example.is_floating_point() else example.flip(0)
    try:
        return peer_checked(model.eval(), example, x)
    except Exception as error:  # noqa: BLE001 - whatever the peer raises is the result
        return f"{type(error).__name__}"


def main() -> None:
    """Write both tables."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    peers = f"torch-pruning {version('torch-pruning')}"
    head = ["model, tool", "find, s", "labels", "remove, s", "proof", "left", "afterwards", "stays"]
    table = markdown(head, speed())
    rows, count = right()
    small = markdown(["small model", "tonsor", "torch-pruning"], rows)
    total = ", ".join(f"{tool} {right_} of {len(rows)}" for tool, right_ in count.items())
    body = (
        f"{ABOUT.format(repeats=REPEATS)}\n\n{table}\n\nRight on small models, by masking the same channels: "
        f"{total}.\n\n{small}"
    )
    write_section("Shrinking: time and correctness", "python benchmarks/shrink_speed.py", body, peers=peers)


if __name__ == "__main__":
    main()
