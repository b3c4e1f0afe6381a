"""What a training with several workers sends: a few figures a step, and a line at the end."""

from typing import Any

from tonsor.compress import Comm, Traffic, residual_norm
from tonsor.recipe.schema import Training


class Wire:
    """Read what a compressor sent and how long it took, step by step.

    Args:
        comm: The channel; None where one worker is alone.
        rule: The compressor; None where the recipe names none.

    Example:
        >>> from tonsor.compress import dense
        >>> Wire(None, dense).row()
        {'sent': None, 'factor': None, 'residual': None, 'encode': None, 'send': None, 'decode': None}
        >>> Wire(None, None).row()
        {}
    """

    def __init__(self, comm: Comm | None, rule: Any) -> None:
        self._comm = comm
        self._rule = rule
        self._before = Traffic()

    def row(self) -> dict[str, float | None]:
        """Return the figures of the step just done: bytes, times fewer than dense, norm, milliseconds.

        On a GPU bytes are of this step and times of what has passed until now.
        """
        if self._rule is None:
            return {}
        if self._comm is None:
            return dict.fromkeys(("sent", "factor", "residual", "encode", "send", "decode"))
        now = self._comm.traffic()
        step, self._before = now - self._before, now
        return {
            "sent": step.bytes_sent,
            "factor": step.factor,
            "residual": residual_norm(self._rule).item(),
            "encode": 1000 * step.encode,
            "send": 1000 * step.send,
            "decode": 1000 * step.decode,
        }

    def summary(self) -> str | None:
        """Say what compression saved since the start of this process, if anything was sent."""
        if self._comm is None or not self._comm.bytes_sent:
            return None
        all_ = self._comm.traffic()
        return (
            f"each worker sent {all_.bytes_sent:,} bytes of gradients, uncompressed {all_.bytes_dense:,} "
            f"({all_.factor:.3g} times as many); {all_.encode:.2g} s in encoding, {all_.send:.2g} s in "
            f"sending and waiting, {all_.decode:.2g} s in decoding"
        )


def remarks(training: Training, workers: int, /) -> list[str]:
    """Say what is to be known of how a training compresses before it begins.

    Args:
        training: The section of the recipe.
        workers: How many there are.

    Returns:
        Sentences for people; none where all is well.

    Example:
        >>> remarks(Training(compress={"rule": "int8"}), 1)
        ['one worker sends no gradients: `compress` has no effect']
        >>> remarks(Training(compress={"rule": "DGC"}, clip={"rule": "global_norm"}), 2)
        ['`clip` would bound the momentum that is in DGC: leave it out, and set `max_norm` of DGC']
    """
    if training.compress is None:
        return []
    if workers == 1:
        return ["one worker sends no gradients: `compress` has no effect"]
    if training.clip is None or '"DGC"' not in training.compress.model_dump_json():
        return []
    return ["`clip` would bound the momentum that is in DGC: leave it out, and set `max_norm` of DGC"]
