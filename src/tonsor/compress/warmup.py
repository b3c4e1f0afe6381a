"""Gradients go whole in the first steps, and less and less of them is sent in those that follow."""

from typing import Any, final

from torch import Tensor

from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.feedback import all_finite
from tonsor.compress.finite_steps import FiniteSteps
from tonsor.compress.inner import holder_of, load_state, state_of
from tonsor.compress.protocol import Averaged, Compressor
from tonsor.schedule import Schedule


@final
class Warmup:
    """Send the first steps whole; then compress, by a schedule of the density if one is given.

    Gradients of the first steps change fast, and what is kept of them would arrive stale. Steps are
    counted for each parameter, and one whose mean is not finite does not count, on all workers alike.

    Wrap it around `ErrorFeedback`, not the other way round, so that the dense steps cost no residual.

    Args:
        compressor: The rule that is wrapped.
        steps: How many steps are sent whole, at least 0.
        sparsity: The fraction not sent, by the number of the step counted from the first compressed one;
            its complement is put into the wrapped rule's `density`. The DGC paper rises from 0.75 to
            0.999 over four epochs: `partial(exponential, initial=0.75, final=0.999, stop=...)`. None: the
            rule keeps its own settings.

    Raises:
        ValueError: If `steps` is negative, or there is a schedule and no wrapped rule has a density.

    Example:
        >>> import torch
        >>> from tonsor.compress import TopK
        >>> rule = Warmup(TopK(density=0.25), steps=1)
        >>> g = {"w": torch.tensor([[4.0, 3.0], [0.0, 0.0]])}
        >>> for _ in range(2):
        ...     print(rule(g, Comm()).mean["w"][0])
        tensor([4., 3.])
        tensor([4., 0.])

    References:
        Lin et al., 2018, "Deep Gradient Compression: Reducing the Communication Bandwidth for Distributed
        Training", https://arxiv.org/abs/1712.01887
    """

    def __init__(
        self, compressor: Compressor, /, *, steps: int = 100, sparsity: Schedule | None = None
    ) -> None:
        if steps < 0:
            raise ValueError(f"compress.Warmup: steps must be at least 0; got {steps}")
        self.compressor = compressor
        self.steps = steps
        self.sparsity = sparsity
        self._holder: Any = holder_of(compressor, "density") if sparsity else None
        if sparsity and self._holder is None:
            raise ValueError(
                f"compress.Warmup: sparsity sets a density, and {compressor!r} has none; "
                "wrap a rule such as TopK, or leave sparsity out"
            )
        self._seen = FiniteSteps()

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean of what is whole yet, and what the wrapped rule makes of the others."""
        by_step: dict[int, dict[str, Tensor]] = {}
        for name, grad in grads.items():
            by_step.setdefault(self._step_of(name), {})[name] = grad
        averaged = Averaged({}, {})
        for step in sorted(by_step):  # in nearly all buckets there is one
            part = self._rule_at(step)(by_step[step], comm)
            averaged.mean.update(part.mean)
            averaged.sent.update(part.sent)
            if step < 0 or self.sparsity is not None:
                self._seen.saw(by_step[step], all_finite(list(part.mean.values())))
        return averaged

    def _step_of(self, name: str) -> int:
        """Return the number of the step counted from the first compressed one, -1 before it."""
        step = max(-1, self._seen.of(name) - self.steps)
        return step if self.sparsity is not None else min(step, 0)

    def _rule_at(self, step: int) -> Compressor:
        """Return the rule for a step counted from the first compressed one, with its density set."""
        if step < 0:
            return dense
        if self.sparsity is not None:
            self._holder.density = self._density(step, self.sparsity(step))
        return self.compressor

    def _density(self, step: int, sparsity: float) -> float:
        """Return the complement of the scheduled sparsity, checked."""
        if not 0 <= sparsity < 1:
            raise ValueError(
                f"compress.Warmup: sparsity must lie in [0, 1); the schedule gave {sparsity} at step {step}"
            )
        return 1 - sparsity

    def state_dict(self) -> dict[str, Any]:
        """Return the steps seen by parameter name, and the state of the wrapped rule."""
        return {"seen": self._seen.state_dict(), "compressor": state_of(self.compressor)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._seen.load_state_dict(state["seen"])
        load_state(self.compressor, state["compressor"])

    def __repr__(self) -> str:
        return f"Warmup({self.compressor!r}, steps={self.steps}, sparsity={self.sparsity})"
