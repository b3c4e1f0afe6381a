"""Measure first, then compress what gains by it, and nothing else."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any, Literal, final

import torch
from torch import Tensor

from tonsor.compress.chosen import CANDIDATES, Chosen, Make
from tonsor.compress.comm import Comm
from tonsor.compress.dense import dense
from tonsor.compress.feedback import ErrorFeedback
from tonsor.compress.link import Link, compared
from tonsor.compress.protocol import Averaged, Compressor
from tonsor.compress.trial import Bucket, Measured, Trial, slowest
from tonsor.compress.verdict import decide, table

UNTIMED = 2  # first steps of a phase that are not measured: DDP fills its buckets anew after the first
CHECKED = 8  # steps after a choice that show whether it is faster
LOOKED = 4  # steps that show whether the link is as it was
STEADY = 1.5  # a link that has become slower or faster by more is measured anew
Phase = Literal["trial", "check", "run", "look"]


@final
class Auto:
    """Choose for each bucket whether it is compressed and by what, from measurements of this very run.

    For `steps` steps gradients go whole. In every second one a candidate is run beside on the same gradients,
    and its result thrown away: the trial changes only the time of these steps. In every fourth DDP averages
    by itself, which shows what a step takes without any of this. From the times of computing, lines fitted to
    the times of messages, the moments at which buckets come and the errors, all workers choose the same: what
    makes the step end the soonest while the relative error of all gradients stays within `error`. What is
    chosen runs with error feedback.

    What is in doubt stays whole. A choice must promise to save `margin` of a step, and then show it: after
    ten steps it is taken back if they were not faster by that much. Every `every` steps messages are timed
    again, and if the link has changed by half, all is tried anew.

    Give it to `auto`, which also tells it when gradients come and so how much of the messages backward hides.
    With `compress_ddp` alone a bucket counts as come when its turn is there. On one worker nothing is
    compressed. On a GPU only the measured steps wait for the device.

    Args:
        candidates: Makers of rules by the name they are told by; None: int8, top-k 1 %, PowerSGD rank 4.
        error: The largest relative error of all gradients together, in [0, 1]; smaller compresses less.
        steps: Of the trial: at least 2, and 2 more for each candidate; more measures better.
        every: Steps after which the link is looked at again, at least 1.
        margin: The fraction of a step that must be saved, in [0, 1); bigger compresses less often.
        tell: Called on the first worker with a text when something was chosen, as `print`.
        clock: Returns the time in seconds.

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        >>> rule = Auto(steps=8)
        >>> _ = rule({"w": torch.ones(2)}, Comm())      # alone
        >>> rule.choice, rule.why
        ({}, 'one worker sends nothing')

    References:
        Agarwal et al., 2022, "On the Utility of Gradient Compression in Distributed Training Systems",
        https://arxiv.org/abs/2103.00543
    """

    def __init__(
        self,
        *,
        candidates: Mapping[str, Make] | None = None,
        error: float = 0.95,
        steps: int = 20,
        every: int = 1000,
        margin: float = 0.05,
        tell: Callable[[str], object] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        makers = CANDIDATES if candidates is None else candidates
        if not 0 <= error <= 1 or not 0 <= margin < 1 or every < 1 or steps < UNTIMED + 2 * len(makers):
            raise ValueError(
                "compress.Auto: error must lie in [0, 1], margin in [0, 1), every be at least 1, steps at "
                f"least {UNTIMED + 2 * len(makers)} for {len(makers)} candidates; "
                f"got error={error}, margin={margin}, every={every}, steps={steps}"
            )
        self.error, self.steps, self.every, self.margin = error, steps, every, margin
        self.tell, self.clock = tell, clock
        self.chosen = Chosen(makers)
        self.why = "measuring"
        self.measured: Measured | None = None  # by the last trial
        self._links: dict[str, Link] = {}
        self._plain = 0.0  # seconds of a step of the last trial
        self._seen: set[str] = set()
        self._came: dict[str, float] = {}
        self._began = self._ended = self._stale = 0.0
        self._device = torch.device("cpu")
        self._is_left = False  # whether the last step of a trial was left to DDP
        self._enter("trial")
        self._step = -1

    @property
    def choice(self) -> dict[str, str]:
        """The candidate by parameter name; what is not named is not compressed."""
        return dict(self.chosen.choice)

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return the mean, compressed as was chosen."""
        if comm.size == 1 or not grads:
            self.why = "one worker sends nothing"
            return dense(grads, comm)
        self._device = next(iter(grads.values())).device
        if self._step < 0 or self._is_left or not self._seen.isdisjoint(grads):
            self._begin(comm)
        self._seen.update(grads)
        is_timed = self._phase in ("trial", "look") and self._step >= UNTIMED
        averaged = self._try(grads, comm) if is_timed else self.chosen(grads, comm)
        self._ended = self._now()
        return averaged

    def arrived(self, name: str, /) -> None:
        """Note that the gradient of a parameter is there; `auto` has backward call this."""
        if self._phase == "trial" and not self._is_left:
            self._came[name] = self._now()

    def leaves_step(self) -> bool:
        """Tell whether this step needs no compressor at all, and count it; asked before its first bucket."""
        step = self._step + 1
        if self._phase == "trial" and UNTIMED < step < self.steps and step % 4 == 0 and self.chosen.is_plain:
            self._turn()  # what a step takes without any of this
            self._is_left = True
            self._came.clear()
            return True
        if self._phase != "run" or not self.chosen.is_plain or step >= self.every:
            return False
        self._step = step
        return True

    def _now(self) -> float:
        """Return the time when the device has done what it was given; nothing waits while none is needed."""
        if self._phase == "run":
            return 0.0
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self.clock()

    def _enter(self, phase: Phase) -> None:
        """Begin a phase with a clean sheet."""
        self._phase: Phase = phase
        self._step = 0
        self._periods: list[float] = []
        self._trial = Trial(1 + len(self.chosen.makers), self._now)
        self._shadows: dict[str, Compressor] = {}
        self._arrivals: dict[Bucket, float] = {}

    def _begin(self, comm: Comm) -> None:
        """End the step before, and the phase where that was its last."""
        self._turn()
        last = {"trial": self.steps, "check": UNTIMED + CHECKED, "look": UNTIMED + LOOKED, "run": self.every}
        if self._step < last[self._phase]:
            return
        {"trial": self._decide, "check": self._judge, "look": self._look_back, "run": self._look}[
            self._phase
        ](comm)

    def _turn(self) -> None:
        """End the step before, and count the next."""
        now = self._now()
        if self._phase == "trial" and self._is_left:
            self._trial.left(now - self._began)
        elif self._phase == "trial" and self._step >= UNTIMED and self._step % 2 == 0:
            self._trial.saw(self._arrivals, now - self._began)
        elif self._phase == "check" and self._step >= UNTIMED:
            self._periods.append(now - self._began)
        self._began, self._stale, self._arrivals, self._is_left = now, self._ended, {}, False
        self._seen.clear()
        self._step += 1

    def _try(self, grads: dict[str, Tensor], comm: Comm) -> Averaged:
        """Average as chosen, timed; in every second step of a trial run a candidate beside it."""
        came = max(self._came.get(name, 0.0) for name in grads)
        self._arrivals[tuple(grads)] = came if came > self._stale else self._now()
        averaged = self._trial.run(0, self.chosen, grads, comm, weigh=self._step % 2 == 1)
        makers = list(self.chosen.makers.items())
        if self._phase == "trial" and self._step % 2 and makers:
            number = (self._step // 2) % len(makers)
            name, make = makers[number]
            shadow = self._shadows.setdefault(name, make())
            self._trial.run(1 + number, ErrorFeedback(shadow), grads, comm)
        return averaged

    def _decide(self, comm: Comm) -> None:
        """Choose by what was measured."""
        found = self._trial.agree(comm, self._device)
        plan, why = decide(found, error=self.error, margin=self.margin)
        names = list(self.chosen.makers)
        choice = {n: names[c - 1] for bucket, c in zip(found.buckets, plan, strict=True) if c for n in bucket}
        self.measured, self._links, self._plain = found, found.links, found.plain
        self._adopt(choice, why, comm)
        self._enter("check" if choice else "run")

    def _adopt(self, choice: dict[str, str], why: str, comm: Comm) -> None:
        """Compress so from now on, and say why."""
        if choice != self.chosen.choice:
            self.chosen.adopt(choice)
        self.why = why
        if self.tell is not None and comm.rank == 0:
            self.tell(self.table() if self._phase == "trial" else why)

    def _judge(self, comm: Comm) -> None:
        """Take the choice back where steps have not become faster."""
        now, before = slowest([median(self._periods), self._plain], comm, self._device)
        why = f"{now * 1e3:.3g} ms a step measured, {before * 1e3:.3g} ms without compression"
        is_faster = now <= (1 - self.margin) * before
        self._adopt(self.choice if is_faster else {}, why if is_faster else f"taken back: {why}", comm)
        self._enter("run")

    def _look(self, _: Comm) -> None:
        """Time messages again."""
        self._enter("look")

    def _look_back(self, comm: Comm) -> None:
        """Try all anew where messages take another time than they did."""
        now, before = slowest(compared(self._trial.messages, self._links), comm, self._device)
        is_steady = before / STEADY <= now <= before * STEADY
        if not is_steady:
            self._adopt({}, f"the link has changed: messages of {before:.3g} s take {now:.3g} s", comm)
        self._enter("run" if is_steady else "trial")

    def table(self) -> str:
        """Return what was measured, chosen and why, as a text for people."""
        found = self.measured
        return table(found, list(self.chosen.makers), self.choice, self.why) if found else self.why

    def state_dict(self) -> dict[str, Any]:
        """Return the choice, the residuals and what the link was like; a trial begins anew."""
        links = {kind: list(link) for kind, link in self._links.items()}
        counts = {"trial": self._phase == "trial", "step": self._step if self._phase == "run" else 0}
        return {**counts, "why": self.why, "links": links, "chosen": self.chosen.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; raises ValueError if a candidate is not known."""
        self.chosen.load_state_dict(state["chosen"])
        self.why = state["why"]
        self._links = {kind: Link(*line) for kind, line in state["links"].items()}
        self._enter("trial" if state["trial"] else "run")
        self._step = -1 if state["trial"] else state["step"]

    def __repr__(self) -> str:
        return f"Auto(error={self.error}, steps={self.steps}, every={self.every}, margin={self.margin})"
