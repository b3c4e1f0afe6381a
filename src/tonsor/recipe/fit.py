"""The training loop of every stage: clipped, masked, constrained, and resumable at any step."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import compress_ddp, spread_state
from tonsor.files import write_tensors
from tonsor.masked import mask_gradients_
from tonsor.modes import call
from tonsor.recipe.batches import Batches, mix, place, seed_all
from tonsor.recipe.bounded import bounded
from tonsor.recipe.checkpoints import Checkpoints
from tonsor.recipe.context import Interrupted, Run
from tonsor.recipe.evaluate import evaluate
from tonsor.recipe.fault import NonFiniteError, first_bad_gradient, first_bad_layer
from tonsor.recipe.history import History
from tonsor.recipe.job import Job, sparsity, until
from tonsor.recipe.wire import Wire
from tonsor.tensors import apply_masks_


class Fit:
    """Train a model as a job says; what the loop remembers is saved and resumed whole.

    Args:
        run: Where the training belongs.
        job: What to train, and with what.
        folder: Where the checkpoints lie.
    """

    def __init__(self, run: Run, job: Job, folder: Path) -> None:
        section = job.section
        self.job = job
        self.step = 0
        self.history = History()  # a row a step
        self.evaluations = History()  # a row an epoch
        self._run = run
        self._seed = mix(run.recipe.seed, job.label)
        self._batches = Batches(
            job.data["train"],
            batch_size=section.batch_size,
            seed=self._seed,
            rank=run.crew.rank,
            size=run.crew.size,
        )
        self.steps = section.epochs * len(self._batches)
        self._named = dict(job.model.named_parameters(remove_duplicate=False))
        self._trained = [parameter for parameter in job.model.parameters() if parameter.requires_grad]
        self._optimizer = job.methods.optimizer(self._trained)
        self._rates = [group["lr"] for group in self._optimizer.param_groups]
        self._schedule = until(job.methods.lr_schedule, self.steps)
        self._wire = Wire(None, job.methods.compress)
        self._forward: nn.Module = self._distributed() if run.crew.size > 1 and self.steps else job.model
        self._checkpoints = Checkpoints(folder, run.crew)

    def _distributed(self) -> nn.Module:
        """Wrap the model so that backward averages the gradients over the workers, compressed if asked."""
        model = DistributedDataParallel(self.job.model)
        if self.job.methods.compress is not None:
            comm = compress_ddp(model, self.job.methods.compress)
            self._wire = Wire(comm, self.job.methods.compress)
        return model

    def run(self) -> None:
        """Go on from the last checkpoint, to the last step.

        Raises:
            Interrupted: If the run was asked to stop; a checkpoint has been written.
            NonFiniteError: If the loss or a gradient is not finite; the last checkpoint is kept.
        """
        self._resume()
        self.job.model.train()
        while self.step < self.steps:
            self._one_step()
            self._keep()
            if self.step % len(self._batches) == 0:
                self._judge()
            if self.step % self.job.section.checkpoint_every == 0 or self.step == self.steps:
                self._checkpoints.save(self.step, self.state_dict())
            if self._run.stop():
                self._interrupt()
        if summary := self._wire.summary():
            self._run.tell({"event": "note", "text": f"{self.job.label}: {summary}"})

    def _one_step(self) -> None:
        """Do backward → clip → step → masks → constrain, on one mini-batch."""
        seed_all(self._seed, "step", self.step, self._run.crew.rank)
        methods = self.job.methods
        rate = self._schedule(self.step)
        for group, base in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = base * rate
        inputs, targets = (place(batch, self._run.device) for batch in self._batches(self.step))

        norms: list[tuple[float, float]] = []  # before and after, of each evaluation

        def closure() -> float:
            self._optimizer.zero_grad()
            loss = self._loss(inputs, targets)
            self._check(loss.item(), lambda: first_bad_layer(self.job.model, inputs), "loss")
            # With several workers backward averages the gradients over them, and compresses them if asked.
            loss.backward()  # type: ignore[no-untyped-call]
            if self.job.pruner is not None:
                self.job.pruner.observe()
            # Gradients of removed weights count in no norm and move no momentum.
            mask_gradients_(self._named, self._masks())
            before, after = bounded(methods.clip, self._trained)
            norms.append((before.item(), after.item()))
            self._check(norms[-1][0], lambda: first_bad_gradient(self.job.model), "gradient norm")
            if self._is_skipped():
                self._optimizer.zero_grad(set_to_none=True)  # an optimizer passes over what has no gradient
            return loss.item()

        loss = self._optimizer.step(closure)
        self._run.crew.share(self.job.model.buffers())
        if self.job.pruner is not None:
            self.job.pruner.step(self._optimizer)
        apply_masks_(self._named, self._masks())
        if methods.constrain is not None:
            methods.constrain(self._trained)

        self.step += 1
        self._record(loss, *norms[0])

    def _loss(self, inputs: Any, targets: Any) -> Tensor:
        """Return the loss of a batch, blended with the dense model's answers where there is a teacher."""
        methods, teacher = self.job.methods, self.job.teacher
        outputs = call(self._forward, inputs)
        loss = methods.loss(outputs, targets)
        if methods.distill is None or teacher is None:
            return loss
        return methods.distill(loss, outputs, teacher(inputs))

    def _is_skipped(self) -> bool:
        """Return whether the clip rule asks for this step to be left out."""
        skip: Tensor | None = getattr(self.job.methods.clip, "skip", None)
        return skip is not None and bool(skip)

    def _bound(self) -> Tensor:
        """Return the threshold that made the clip rule ask for it."""
        threshold: Tensor = self.job.methods.clip.threshold  # type: ignore[attr-defined]  # it has `skip` too
        return threshold.max()

    def _masks(self) -> Mapping[str, Tensor]:
        """Return the masks that hold now."""
        return self.job.masks if self.job.pruner is None else {**self.job.masks, **self.job.pruner.masks}

    def _keep(self) -> None:
        """Keep the weights of a step that a later stage goes back to."""
        if self.step in self.job.keep and self._run.crew.is_first:
            write_tensors(self.job.keep[self.step], self.job.model.state_dict(), about={"format": "pt"})

    def _record(self, loss: float, norm: float, after: float) -> None:
        """Add a row to the history and tell it."""
        bound = self._bound().item() if self._is_skipped() else after
        is_clipped = bound < norm * (1 - 1e-6)
        row = {
            "step": self.step,
            "loss": loss,
            "norm": norm,
            "threshold": bound if is_clipped else None,
            "clipped": int(is_clipped),
            "lr": self._optimizer.param_groups[0]["lr"],
            "sparsity": sparsity(self._masks()) if self.job.pruner is None else self.job.pruner.sparsity,
            **self._wire.row(),
        }
        self.history.add(**row)
        self._run.tell({"event": "step", "stage": self.job.label, "of": self.steps, **row})

    def _judge(self) -> None:
        """Measure loss and metric on the validation data, if there are any."""
        if "valid" not in self.job.data:
            return
        methods = self.job.methods
        figures = evaluate(self.job.model, self.job.data["valid"], loss=methods.loss, metric=methods.metric)
        self.evaluations.add(step=self.step, **figures)
        self._run.tell({"event": "valid", "stage": self.job.label, "step": self.step, **figures})

    def _check(self, number: float, cause: Any, what: str) -> None:
        """Stop at a number that is not finite."""
        if math.isfinite(number):
            return
        kept = self._checkpoints.newest()
        saved = f"the checkpoint of step {kept} is kept" if kept else "there was no checkpoint yet"
        raise NonFiniteError(
            f"{self.job.label}, step {self.step + 1} of {self.steps}: the {what} is {number}: "
            f"{cause()}; {saved}. Lower the learning rate or bound the gradients with `clip`, in a new --out"
        )

    def _interrupt(self) -> None:
        """Save, so that nothing is lost, and stop; several workers stop at different steps and cannot."""
        if self._run.crew.size == 1:
            self._checkpoints.save(self.step, self.state_dict())
        raise Interrupted(f"stopped in {self.job.label} at step {self.step} of {self.steps}")

    def _resume(self) -> None:
        """Go on from the newest checkpoint, if there is one; other workers share out what each had kept."""
        state, crew = self._checkpoints.load(), self._run.crew
        if state is None:
            return
        before = self._checkpoints.workers()
        if before != crew.size and "compress" in state:
            parts = self._checkpoints.parts("compress")
            rule = self.job.methods.compress
            state["compress"] = spread_state(rule, parts, rank=crew.rank, size=crew.size)
        self.load_state_dict(state)
        if before != crew.size:
            text = f"{self.job.label}: {before} workers had come to step {self.step}; {crew.size} go on"
            self._run.tell({"event": "note", "text": text})

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides how the training goes on, and what was measured so far."""
        holders = self._holders()
        return {"step": self.step, **{name: holder.state_dict() for name, holder in holders.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.step = state["step"]
        for name, holder in self._holders().items():
            holder.load_state_dict(state[name])

    def _holders(self) -> dict[str, Any]:
        """Return what remembers, by name; rules that are plain functions do not."""
        methods = self.job.methods
        parts = {
            "model": self.job.model,
            "optimizer": self._optimizer,
            "clip": methods.clip,
            "constrain": methods.constrain,
            "compress": methods.compress,
            "pruner": self.job.pruner,
            "history": self.history,
            "evaluations": self.evaluations,
        }
        return {name: part for name, part in parts.items() if hasattr(part, "state_dict")}
