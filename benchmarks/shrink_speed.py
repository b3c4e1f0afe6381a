"""How fast are channels found and removed, and is what comes out right? Paired with torch-pruning.

Both tools get the same models in one process, one after the other, and remove half of the units of every
group; ours proves each result as it does for users, torch-pruning's are checked by masking the same channels:

    python benchmarks/shrink_speed.py
"""

import copy
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

import torch
from results import markdown, write_section
from shrink_peer import LARGE, peer_checked, peer_pruner
from torch import Tensor, nn

from tonsor.prune import find_masks
from tonsor.prune.scopes import local
from tonsor.shrink import channel_groups, shrink_
from tonsor.shrink.nets_test import NETS, built

REPEATS = 3
ABOUT = """CPU seconds, least of {repeats}; half of the units of every group removed, L2 importance. tonsor's
second figure includes finding the masks, slicing a copy, the proof on three inputs, and slicing the model;
torch-pruning's prunes and proves nothing. "stays" is the share of tonsor's parameters that lie in no group
that can lose units."""


def clocked(work: Callable[[], object]) -> tuple[float, object]:
    """Return the CPU seconds of a call, and what it gave."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def ours(build: Callable[[], nn.Module], example: Tensor) -> tuple[float, float, nn.Module, float]:
    """Return the seconds for finding and for removing, the small model, and the share that stays."""
    model = build().eval()
    found, groups = clocked(lambda: channel_groups(model, example))
    weights = {name: p for name, p in model.named_parameters() if p.ndim > 1}

    def remove() -> None:
        masks = find_masks(weights, 0.5, pattern=groups.scored(reduction="l2"), scope=local)
        shrink_(model, groups, masks)

    free = {part.parameter for group in groups.groups.values() for part in group.slices}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    stays = 1 - sum(sizes[name] for name in free if name in sizes) / sum(sizes.values())
    removed, _ = clocked(remove)
    return found, removed, model, stays


def theirs(build: Callable[[], nn.Module], example: Tensor) -> tuple[float, float, nn.Module]:
    """Return the seconds for building the graph and for pruning, and the small model."""
    model = build().eval()
    found, pruner = clocked(lambda: peer_pruner(model, example))
    removed, _ = clocked(pruner.step)
    return found, removed, model


def millions(model: nn.Module) -> str:
    """Return how many parameters a model has."""
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M"


def speed() -> list[list[object]]:
    """Return the rows of the large models."""
    rows = []
    for name, (build, example) in LARGE.items():
        dense = millions(build())
        for tool, way in (("tonsor", ours), ("torch-pruning", theirs)):
            try:
                found = [way(build, example) for _ in range(REPEATS)]
                small, stays = found[0][2], f"{found[0][3]:.0%}" if way is ours else ""
                figures = [*least(found), millions(small), runs(small, example), stays]
            except Exception as error:  # noqa: BLE001 - whatever a tool raises is the result
                figures = ["-", "-", "-", f"{type(error).__name__}: {str(error)[:80]}", ""]
            rows.append([f"{name} {dense}, {tool}", *figures])
    return rows


def least(runs_: list[tuple]) -> list[str]:
    """Return the least seconds of both parts."""
    return [f"{min(run[part] for run in runs_):.2f}" for part in (0, 1)]


def runs(model: nn.Module, example: Tensor) -> str:
    """Say whether a forward runs."""
    with torch.no_grad():
        model(example)
    return "runs"


def right() -> tuple[list[list[object]], dict[str, int]]:
    """Return what each tool makes of every small model, and how many each gets right."""
    rows, count = [], {"tonsor": 0, "torch-pruning": 0}
    for name in NETS:
        told = {
            tool: verdict(name)
            for tool, verdict in (("tonsor", our_verdict), ("torch-pruning", peer_verdict))
        }
        for tool, said in told.items():
            count[tool] += said.startswith("right")
        rows.append([name, *told.values()])
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
    head = ["model, tool", "find, s", "remove, s", "left", "afterwards", "stays"]
    table = markdown(head, speed())
    rows, count = right()
    small = markdown(["small model", "tonsor", "torch-pruning"], rows)
    total = ", ".join(f"{tool} {right_} of {len(rows)}" for tool, right_ in count.items())
    told = (
        f"{ABOUT.format(repeats=REPEATS)}\n\n{table}\n\nRight on small models, by masking the same channels: "
        f"{total}.\n\n{small}"
    )
    write_section("Shrinking: time and correctness", "python benchmarks/shrink_speed.py", told, peers=peers)


if __name__ == "__main__":
    main()
