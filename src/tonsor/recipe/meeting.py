"""Where the workers of torchrun find each other: a part of its store that holds nothing old."""

import os
import time
import uuid

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

PAUSE = 0.02  # seconds between two looks of the first worker


def meet() -> tuple[Store, int, int]:
    """Return the store that torchrun describes in the environment, this worker's rank and how many there are.

    When torchrun starts its workers again, its store still holds the addresses of those that are gone, and a
    worker that is quick takes them for the new ones (torch 2.13; pytorch issue 135712). So the workers agree
    on a name that only those who live now can know, and use the part of the store under it.
    """
    store, rank, size = next(rendezvous("env://"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = PrefixStore(agreed(store, rank, size), store)
    return store, rank, size


def agreed(store: Store, rank: int, size: int, *, limit: float = 1800.0) -> str:
    """Return a new name that all workers alive agree on, whatever is in the store already.

    Every worker says that it is here, by a word of its own; the first one answers to each word with the
    name, and goes when all have said the name back. What the dead have left is answered too, and unheard.

    Args:
        store: Where they meet.
        rank: Number of this worker.
        size: How many there are.
        limit: Seconds the first one waits for the others.

    Raises:
        RuntimeError: If not all have come within the limit.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"tonsor.here.{rank}", mine)
        name: str = store.get(f"tonsor.name.{mine}").decode()
        store.set(f"tonsor.heard.{name}.{rank}", "")
        return name
    until = time.monotonic() + limit
    missing, answered = set(range(1, size)), set[bytes]()
    while missing:
        words = {store.get(key) for other in missing if store.check([key := f"tonsor.here.{other}"])}
        for word in words - answered:
            store.set(f"tonsor.name.{word.decode()}", mine)
        answered |= words
        missing = {other for other in missing if not store.check([f"tonsor.heard.{mine}.{other}"])}
        if time.monotonic() > until:
            raise RuntimeError(f"workers {sorted(missing)} of {size} did not come")
        time.sleep(PAUSE if missing else 0)
    return mine
