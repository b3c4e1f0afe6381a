"""The workers of a run: one process alone, or several that torchrun started."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tonsor.recipe.meeting import meet
from tonsor.tensors import fingerprint


class Crew:
    """Know this worker's number, wait for the others, and compare with them.

    Example:
        >>> crew = Crew.alone()
        >>> crew.rank, crew.size, crew.is_first
        (0, 1, True)
        >>> crew.agree([3, 7])
        [[3, 7]]
    """

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def alone(cls) -> "Crew":
        """Return the crew of a single process."""
        return cls(0, 1)

    @classmethod
    def join(cls) -> "Crew":
        """Join the process group that torchrun describes in the environment, or stay alone."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls.alone()
        store, rank, size = meet()
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        return cls(rank, size)

    def leave(self) -> None:
        """Leave the process group, after all have come so far."""
        if self.size > 1:
            self.wait()
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this worker writes the files that all share."""
        return self.rank == 0

    def wait(self) -> None:
        """Go on when all workers have come here."""
        if self.size > 1:
            dist.barrier()

    def agree(self, value: Any) -> list[Any]:
        """Return the values of all workers in order of rank; numbers, texts and lists of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give every worker the first one's values, in place: running statistics differ until then."""
        for tensor in tensors if self.size > 1 else ():
            dist.broadcast(tensor, src=0)

    def check_replicas(self, state: Mapping[str, Tensor]) -> str:
        """Return the digest of the weights, after making sure that all workers hold the same bits.

        Raises:
            RuntimeError: If a replica differs; that is a fault of the method, not of the user.
        """
        digest = fingerprint(state)
        digests = self.agree(digest)
        if len(set(digests)) > 1:
            raise RuntimeError(f"the replicas differ after training: {digests}")
        return digest
