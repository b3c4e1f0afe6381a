"""What of a rule's state each worker has for itself, and what becomes of it on other workers.

A rule says so by an attribute `own_state`: the keys of its `state_dict` whose tensors differ from worker to
worker and act through their mean over them, as residuals do. Everything else in a state is the same on all.
The state of a wrapped rule stands under the name of the attribute that holds the rule.
"""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.norms import joint_norm

Path = tuple[str, ...]  # keys that lead to a tensor of a nested state


class States(Protocol):
    """Saved states by rank: a list, or what reads one when it is asked for it.

    Example:
        >>> states: States = [{"residuals": {}}]
        >>> len(states), states[0]
        (1, {'residuals': {}})
    """

    def __len__(self) -> int:
        """Return how many workers there were."""
        ...

    def __getitem__(self, rank: int, /) -> Mapping[str, Any]:
        """Return the state of one of them."""
        ...


def own_tensors(rule: Any, state: Mapping[str, Any], /) -> dict[Path, Tensor]:
    """Return the tensors of a state that each worker has for itself, by the keys that lead to them.

    Args:
        rule: The rule, or wrapper, that the state belongs to.
        state: What its `state_dict` returned.

    Returns:
        The tensors, in the order of the state.

    Example:
        >>> from tonsor.compress import ErrorFeedback, TopK
        >>> rule = ErrorFeedback(TopK(density=0.25))
        >>> _ = rule({"w": torch.tensor([[1.0, 9.0], [2.0, 3.0]])}, Comm())
        >>> own_tensors(rule, rule.state_dict())
        {('residuals', 'w'): tensor([[1., 0.],
                [2., 3.]])}
    """
    return dict(_own(rule, state))


def _own(rule: Any, state: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Go through a state along with its rules."""
    pairs = state.items() if isinstance(state, Mapping) else enumerate(state)
    for key, value in pairs:
        here = (*path, str(key))
        if key in getattr(rule, "own_state", ()):
            yield from _tensors(value, here)
        elif isinstance(value, Mapping | list):
            yield from _own(_within(rule, key), value, here)


def _within(rule: Any, key: str | int) -> Any:
    """Return the rule, or rules, that a part of a state belongs to."""
    if isinstance(rule, Mapping):
        return rule.get(key)
    if isinstance(rule, Sequence) and isinstance(key, int):
        return rule[key]
    return getattr(rule, str(key), None)


def _tensors(value: Any, path: Path) -> Iterator[tuple[Path, Tensor]]:
    """Go through everything below a key."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, (*path, str(key)))


def residual_norm(rule: Any, /) -> Tensor:
    """Return the joint Euclidean norm of what this worker has not sent yet: all tensors called residuals.

    Args:
        rule: A rule or wrapper.

    Returns:
        0-dim, on the device of the residuals; 0 where the rule keeps none.

    Example:
        >>> from tonsor.compress import ErrorFeedback, TopK
        >>> rule = ErrorFeedback(TopK(density=0.25))
        >>> _ = rule({"w": torch.tensor([[3.0, 4.0], [0.0, 5.0]])}, Comm())
        >>> residual_norm(rule)
        tensor(5.)
    """
    state: dict[str, Any] = getattr(rule, "state_dict", dict)()
    kept = [tensor for path, tensor in _own(rule, state) if "residuals" in path]
    return joint_norm(kept) if kept else torch.tensor(0.0)


def gather_state(rule: Any, comm: Comm, /) -> list[dict[str, Any]]:
    """Bring the states of all workers to the first one, which can then save them in one file.

    To be called by all workers between two steps, over the channel that `compress_ddp` returned. The first
    worker then holds the residuals of all in the processor's memory; where that is too much, let each
    worker save the state of its rule in a file of its own instead.

    Args:
        rule: The rule, or wrapper.
        comm: The workers.

    Returns:
        On the first worker the states by rank, with their tensors on the CPU; elsewhere an empty list.

    Raises:
        ValueError: If the workers do not keep the same names and shapes.

    Example:
        >>> from tonsor.compress import ErrorFeedback, dense
        >>> gather_state(ErrorFeedback(dense), Comm())
        [{'residuals': {}, 'compressor': {}}]
    """
    state: dict[str, Any] = getattr(rule, "state_dict", dict)()
    own = own_tensors(rule, state)
    outline = zlib.crc32(repr([(path, t.shape, t.dtype) for path, t in own.items()]).encode())
    device = next((t.device for t in own.values()), torch.device("cpu"))
    outlines = comm.gather([torch.tensor(outline, device=device)])
    if len({int(row[0]) for row in outlines}) > 1:
        raise ValueError(
            "compress.gather_state: the workers keep different names or shapes; call it on all of them after "
            "the same step"
        )
    states = [_copied(state) for _ in range(comm.size if comm.rank == 0 else 0)]
    for path, tensor in own.items():
        for rank, row in enumerate(comm.gather([tensor])):
            if comm.rank == 0:
                _put(states[rank], path, row[0].cpu())
    return states


def spread_state(rule: Any, states: States, /, *, rank: int, size: int) -> dict[str, Any]:
    r"""Return the state of one worker, made from those of as many workers as there were before.

    What reaches the model is the mean over the workers, so the mean of the residuals is what must stay:
    :math:`\frac{1}{W'} \sum_j e'_j = \frac{1}{W} \sum_i e_i`. The workers before and those after are
    laid side by side on a line of length 1; each takes from those it overlaps, in proportion. On the same
    number of workers every one gets its own state back, bit for bit; on fewer neighbours are averaged; on
    more a residual is shared out in copies. What is the same on all workers is taken from one of them.

    Args:
        rule: The rule, or wrapper, made as the one that was saved.
        states: The saved states by rank; only those that are needed are looked at.
        rank: Number of this worker.
        size: How many workers there are now.

    Returns:
        What to give to `load_state_dict`.

    Raises:
        ValueError: If there is no state, or the states do not have the same names and shapes.

    Example:
        >>> from tonsor.compress import ErrorFeedback, dense
        >>> rule = ErrorFeedback(dense)
        >>> two = [{"residuals": {"w": torch.tensor(e)}, "compressor": {}} for e in (1.0, 5.0)]
        >>> spread_state(rule, two, rank=0, size=1)["residuals"]
        {'w': tensor(3.)}
        >>> [spread_state(rule, two, rank=rank, size=3)["residuals"]["w"].item() for rank in range(3)]
        [1.0, 3.0, 5.0]
    """
    if not len(states):
        raise ValueError(
            "compress.spread_state: there is no state to spread; give those of all workers before"
        )
    parts = {worker: (states[worker], share) for worker, share in shares(rank, size, len(states)).items()}
    state: dict[str, Any] = _copied(next(iter(parts.values()))[0])
    if len(parts) == 1:
        return state
    total: dict[Path, Tensor] = {}
    for worker, (part, share) in parts.items():
        own = own_tensors(rule, part)
        _check_alike(total or own, own, worker)
        for path, tensor in own.items():
            total[path] = total[path] + share * tensor if path in total else share * tensor
    for path, tensor in total.items():
        _put(state, path, tensor)
    return state


def shares(rank: int, size: int, before: int, /) -> dict[int, float]:
    """Return from which workers before one of those now takes over, and in what shares.

    Args:
        rank: Number of the worker.
        size: How many workers there are now.
        before: How many there were.

    Returns:
        Shares by rank; they sum to 1, and each worker before gives `size / before` in all.

    Example:
        >>> shares(0, 2, 3), shares(1, 2, 3)
        ({0: 0.6666666666666666, 1: 0.3333333333333333}, {1: 0.3333333333333333, 2: 0.6666666666666666})
    """
    begin, end = rank * before, (rank + 1) * before  # on a line of size * before pieces
    overlaps = {
        worker: min(end, (worker + 1) * size) - max(begin, worker * size)
        for worker in range(begin // size, -(-end // size))
    }
    return {worker: overlap / before for worker, overlap in overlaps.items()}


def _check_alike(first: Mapping[Path, Tensor], other: Mapping[Path, Tensor], worker: int) -> None:
    """Refuse states that were not saved after the same step of the same model."""
    shapes = [{path: tensor.shape for path, tensor in own.items()} for own in (first, other)]
    if shapes[0] != shapes[1]:
        names = sorted(".".join(path) for path, _ in shapes[0].items() ^ shapes[1].items())
        raise ValueError(
            f"compress.spread_state: worker {worker} keeps other tensors than the one before: {names[:3]}; "
            "give the states that all workers saved after the same step"
        )


def _copied(state: Any) -> Any:
    """Return nested dicts and lists anew, with the same tensors."""
    if isinstance(state, Mapping):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list) else state


def _put(state: Any, path: Path, tensor: Tensor) -> None:
    """Put a tensor to its place in a nested state."""
    *way, last = path
    for key in way:
        state = state[int(key)] if isinstance(state, list) else state[key]
    state[last] = tensor
