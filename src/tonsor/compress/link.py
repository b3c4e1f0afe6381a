"""What a message costs: a time for itself, and a time for each byte, fitted to measured ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, cast, final

from torch import Tensor

from tonsor.compress.comm import Comm


class Message(NamedTuple):
    """One message that was sent.

    Example:
        >>> Message("mean", 4096, 0.002).seconds
        0.002
    """

    kind: str  # "mean", "gather", or another name of a Comm's method
    nbytes: int  # what this worker handed over
    seconds: float


class Link(NamedTuple):
    """A line through the times of messages of one kind: alpha + beta · bytes.

    Example:
        >>> Link(alpha=0.001, beta=1e-8).seconds(100_000)
        0.002
    """

    alpha: float  # seconds that a message takes however small it is
    beta: float  # seconds a byte

    def seconds(self, nbytes: int) -> float:
        """Return how long a message of so many bytes takes."""
        return self.alpha + self.beta * nbytes


def fit(messages: Iterable[Message], /) -> dict[str, Link]:
    r"""Fit :math:`t = \alpha + \beta n` to the messages of each kind.

    Of messages of one size the fastest counts, because the others have waited for another worker. Squared
    errors are divided by the time, so that small messages count as well as large ones; neither number is
    below 0. Where all messages are of one size, their time is taken for that of the bytes alone.

    Args:
        messages: What was measured; those without bytes or time are left out.

    Returns:
        A line for each kind.

    Example:
        >>> line = fit([Message("mean", 100, 0.3), Message("mean", 200, 0.4), Message("mean", 200, 9.0)])
        >>> round(line["mean"].alpha, 6), round(line["mean"].beta, 6)
        (0.2, 0.001)
    """
    fastest: dict[str, dict[int, float]] = {}
    for message in messages:
        if message.nbytes > 0 and message.seconds > 0:
            times = fastest.setdefault(message.kind, {})
            times[message.nbytes] = min(message.seconds, times.get(message.nbytes, message.seconds))
    return {kind: _line(sorted(times.items())) for kind, times in fastest.items()}


def compared(messages: Sequence[Message], before: dict[str, Link], /) -> tuple[float, float]:
    """Return what messages take now, one of each kind and size, and what they took by the lines from before.

    Args:
        messages: What was measured now; kinds that were not known before are left out.
        before: Lines by kind.

    Returns:
        Two sums of seconds.

    Example:
        >>> compared([Message("mean", 100, 0.3)], {"mean": Link(0.1, 0.001)})
        (0.3, 0.2)
    """
    now = fit(messages)
    sizes = {(m.kind, m.nbytes) for m in messages if m.kind in before and m.kind in now and m.nbytes}
    after, earlier = (sum(lines[kind].seconds(n) for kind, n in sorted(sizes)) for lines in (now, before))
    return after, earlier


def _line(points: Sequence[tuple[int, float]]) -> Link:
    """Return the line of least squares over time, through points of bytes and seconds."""
    weight, size, square = (sum(n**power / t for n, t in points) for power in (0, 1, 2))
    total, count = sum(n for n, _ in points), len(points)
    determinant = weight * square - size * size
    if count == 1 or determinant <= 1e-12 * weight * square:
        return Link(0.0, total / square)
    alpha = (count * square - total * size) / determinant
    beta = (total * weight - count * size) / determinant
    if alpha < 0:
        return Link(0.0, total / square)
    return Link(count / weight, 0.0) if beta < 0 else Link(alpha, beta)


@final
class Timed:
    """A Comm that writes down how long each message took; everything else is the Comm's own.

    Args:
        comm: What sends the messages.
        clock: Returns the time in seconds; on a GPU it waits for the device.

    Example:
        >>> import time, torch
        >>> timed = Timed(Comm(), time.perf_counter)
        >>> timed.mean([torch.tensor(2.0)])
        [tensor(2.)]
        >>> [message.kind for message in timed.messages]
        ['mean']
    """

    def __init__(self, comm: Comm, clock: Callable[[], float]) -> None:
        self.messages: list[Message] = []
        self._comm = comm
        self._clock = clock

    def __getattr__(self, name: str) -> object:
        """Return what the Comm has, timed where it sends."""
        found = getattr(self._comm, name)
        if name not in ("mean", "gather", "all_to_all"):
            return found

        def sends(*given: list[Tensor], **named: list[list[Tensor]]) -> object:
            sent, begin = self._comm.bytes_sent, self._clock()
            answer = found(*given, **named)
            seconds = self._clock() - begin
            self.messages.append(Message(name, self._comm.bytes_sent - sent, seconds))
            return answer

        return sends

    def as_comm(self) -> Comm:
        """Return this, for who wants a Comm."""
        return cast("Comm", self)
