"""Run a function in processes of their own, for tests of what workers do together."""

import multiprocessing
import multiprocessing.connection
import queue
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch


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


def saved_by_rank(work: Callable[[int, str], None], size: int, folder: Path) -> list[Any]:
    """Call `work(rank, folder)` in each process and return what each saved under its rank.

    One that dies is told at once, by rank and exit status, and the others are not waited for.
    """
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, str(folder))) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        while alive := [process.sentinel for process in processes if process.is_alive()]:
            multiprocessing.connection.wait(alive)  # asked once: to wait for nobody would never end
            dead = {rank: p.exitcode for rank, p in enumerate(processes) if p.exitcode}
            unsaved = {rank: code for rank, code in dead.items() if not (folder / str(rank)).exists()}
            assert not unsaved, f"exit status by rank: {unsaved}; the traceback stands above"
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / str(rank)) for rank in range(size)]
