"""How near to the limit of the memory: what a plain read, a norm, and each part of a clipped step take."""

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

from tonsor.tensors import joint_norm

BYTES = 4  # of a float32


def roof(given: list[Parameter], rounds: int) -> list[list[object]]:
    """Return rows: the milliseconds of each, and how many bytes a second it moves at the least."""
    grads = [p.grad for p in given if p.grad is not None]
    flat = torch.cat([grad.flatten() for grad in grads])
    fused = torch.optim.AdamW(given, lr=1e-6, fused=True)

    def scaled() -> None:
        fused.grad_scale = torch.tensor(2.0)
        fused.step()
        del fused.grad_scale

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "sum of one buffer": (flat.sum, 1),
        "dot of one buffer with itself": (lambda: torch.dot(flat, flat), 1),
        "torch's norms of the list": (lambda: torch._foreach_norm(grads), 1),
        "our norm of the list": (lambda: joint_norm(grads), 1),
        "scaling in place, torch": (lambda: torch._foreach_mul_(grads, torch.tensor(1.0)), 2),
        "fused AdamW step": (fused.step, 7),
        "fused AdamW step that is told a scale": (scaled, 8),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    kept = [grad.clone() for grad in grads]
    for _ in range(rounds + 1):
        for name, (call, _passes) in ways.items():
            torch._foreach_copy_(grads, kept)
            start = time.thread_time()
            call()
            times[name].append(time.thread_time() - start)
    return [_row(name, times[name][1:], passes, flat) for name, (_, passes) in ways.items()]


def _row(name: str, seconds: list[float], passes: int, flat: Tensor) -> list[object]:
    """Return a row of the table."""
    middle, least = statistics.median(seconds), min(seconds)
    speeds = [passes * BYTES * flat.numel() / each / 1e9 for each in (middle, least)]
    return [name, passes, f"{middle * 1e3:.1f}", f"{least * 1e3:.1f}", f"{speeds[0]:.0f}", f"{speeds[1]:.0f}"]
