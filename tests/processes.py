"""Run a function in two processes, for tests of what is sharded over them."""

import multiprocessing
import queue
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


def results_by_rank(work: Callable[..., None], folder: Path) -> dict[int, Any]:
    """Call `work(rank, store=..., results=...)` in each process and return what each put, by rank."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    target = partial(work, store=folder / "store", results=results)
    processes = [context.Process(target=target, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    by_rank: dict[int, Any] = {}
    while len(by_rank) < len(processes):
        try:
            by_rank.update([results.get(timeout=1)])
        except queue.Empty:
            codes = [process.exitcode for process in processes]
            assert not any(codes), f"a process ended with {codes}; its traceback stands above"
    for process in processes:
        process.join(30)
    return by_rank
