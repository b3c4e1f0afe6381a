"""Each gradient goes by the rule that was chosen for it, until another is chosen."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.feedback import ErrorFeedback
from tonsor.compress.inner import load_state, state_of
from tonsor.compress.integers import int8
from tonsor.compress.powersgd import PowerSGD
from tonsor.compress.protocol import Averaged, Compressor
from tonsor.compress.topk import TopK

Make = Callable[[], Compressor]

# What `Auto` tries, by the name it is told by; a further one is one line.
CANDIDATES: dict[str, Make] = {
    "int8": lambda: int8,
    "top-k 1 %": partial(TopK, density=0.01),
    "PowerSGD 4": partial(PowerSGD, rank=4),
}


@final
class Chosen:
    """Average each gradient by its candidate, with error feedback that outlives a choice.

    What is not named is sent whole. When nothing is compressed any more, what the rules have kept is sent
    with the next step, and after that there is no feedback at all.

    Args:
        makers: Makers of rules by the name of a candidate.

    Example:
        >>> import torch
        >>> from tonsor.compress import TopK
        >>> chosen = Chosen({"largest": lambda: TopK(density=0.25)})
        >>> g = {"w": torch.tensor([[1.0, 4.0], [0.0, 0.0]])}
        >>> for choice in ({"w": "largest"}, {}, {}):
        ...     chosen.adopt(choice)
        ...     print(chosen(g, Comm()).mean["w"][0], chosen.is_plain)
        tensor([0., 4.]) False
        tensor([2., 4.]) True
        tensor([1., 4.]) True
    """

    def __init__(self, makers: Mapping[str, Make], /) -> None:
        self.makers = dict(makers)
        self.choice: dict[str, str] = {}  # candidate by parameter name
        self.rules: dict[str, Compressor] = {}  # by candidate
        self.feedback: ErrorFeedback | None = None
        self._kept: set[str] = set()  # names whose residual is still to be sent

    @property
    def is_plain(self) -> bool:
        """Whether nothing is compressed and nothing is left to be sent."""
        return self.feedback is None

    def adopt(self, choice: Mapping[str, str], /) -> None:
        """Compress so from now on, by new rules."""
        if self.feedback is not None:
            self._kept = set(self.feedback.state_dict()["residuals"])
        self.choice, self.rules = dict(choice), {}
        if self.choice and self.feedback is None:
            self.feedback = ErrorFeedback(self._route)

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of what each rule sends."""
        if self.feedback is None:
            return dense(grads, comm)
        averaged = self.feedback(grads, comm)
        self._kept.difference_update(grads)
        if not self.choice and not self._kept:
            self.feedback = None
        return averaged

    def _route(self, grads: dict[str, Tensor], comm: Comm) -> Averaged:
        """Give each gradient to its candidate."""
        parts: dict[str, dict[str, Tensor]] = {}
        for name, grad in grads.items():
            parts.setdefault(self.choice.get(name, ""), {})[name] = grad
        averaged = Averaged({}, {})
        for candidate in sorted(parts):
            part = self._rule(candidate)(parts[candidate], comm)
            averaged.mean.update(part.mean)
            averaged.sent.update(part.sent)
        return averaged

    def _rule(self, candidate: str) -> Compressor:
        """Return the rule of a candidate; an empty name compresses nothing."""
        if not candidate:
            return dense
        if candidate not in self.rules:
            self.rules[candidate] = self.makers[candidate]()
        return self.rules[candidate]

    def state_dict(self) -> dict[str, Any]:
        """Return the choice, the residuals and the states of the rules."""
        return {
            "choice": dict(self.choice),
            "feedback": None if self.feedback is None else self.feedback.state_dict(),
            "rules": {candidate: state_of(rule) for candidate, rule in self.rules.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; raises ValueError if a candidate is not known."""
        if strange := set(state["choice"].values()) - set(self.makers):
            raise ValueError(
                f"compress.Auto: the state was saved with other candidates, as {min(strange)!r}; "
                f"here are: {', '.join(self.makers) or 'none'}"
            )
        self.feedback = None
        self.adopt(state["choice"])
        if state["feedback"] is not None:
            self.feedback = self.feedback or ErrorFeedback(self._route)
            self.feedback.load_state_dict(state["feedback"])
            self._kept = set(state["feedback"]["residuals"])
        for candidate, inner in state["rules"].items():
            load_state(self._rule(candidate), inner)
