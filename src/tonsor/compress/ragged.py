"""Gather messages that are not equally long."""

import torch
from torch import Tensor

from tonsor.compress.comm import Comm


def gather_ragged(message: Tensor, comm: Comm, /) -> list[Tensor]:
    """Return the message of every worker, by rank, whatever the length of each.

    Two messages: a gather of the lengths, eight bytes each, then one of all messages, filled up to the
    longest. So each worker sends as much as the one that has most to say, and `comm` counts that.
    The lengths must be known to go on, so a GPU is waited for.

    Args:
        message: uint8 vector of this worker.
        comm: The workers.

    Returns:
        One uint8 vector for each worker, as long as the one it sent.

    Example:
        >>> gather_ragged(torch.tensor([7, 8, 9], dtype=torch.uint8), Comm())
        [tensor([7, 8, 9], dtype=torch.uint8)]
    """
    length = torch.tensor([message.numel()], dtype=torch.int64, device=message.device)
    lengths = [int(row[0]) for row in comm.gather([length])]
    rows = comm.gather([message], [[message.new_empty(count)] for count in lengths])
    return [row[0] for row in rows]
