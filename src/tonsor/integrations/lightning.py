"""Rules on the optimizers of a Lightning Trainer; needs pytorch-lightning."""

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from tonsor.attached import Attached, attach
from tonsor.attached_clip import Clip, NonFinite
from tonsor.attached_handle import Constrain
from tonsor.clip import History
from tonsor.integrations.figures import figures


class Attach(pl.Callback):  # type: ignore[misc]
    """Attach rules when a fit starts, log what they did, and keep their memory in Lightning's checkpoints.

    What `tonsor.attach` in `configure_optimizers` does not do: every `log_every_n_steps` steps the norm,
    the threshold, the share of clipped steps and the count of skipped ones go to the Trainer's loggers
    (`clip/...`, see `figures`); a checkpoint holds what the rules remember, so that a resumed fit clips as
    one that was never stopped; and `gradient_clip_val`, which would clip before us, is told at once. With
    several optimizers each has a copy of the rule.

    Args:
        clip: A rule of `tonsor.clip`; a copy is used.
        constrain: A rule of `tonsor.constrain`; a copy is used.
        masks: Boolean masks by the LightningModule's parameter names, true where the weight stays.
        on_nonfinite: "raise", "skip" or "zero", as for `tonsor.attach`.
        history: Where to record, for a Trainer with one optimizer; each optimizer gets one of its own if not
            given.

    Attributes:
        attached: The handles, one for each optimizer; empty before the first fit.

    Raises:
        ValueError: When the fit starts, if a mask fits no parameter or a setting is not known.

    Example:
        >>> import tonsor
        >>> callback = Attach(clip=tonsor.clip.ZClip(max_norm=1.0))   # Trainer(callbacks=[callback])
        >>> callback.attached
        []
    """

    def __init__(
        self,
        *,
        clip: Clip | None = None,
        constrain: Constrain | None = None,
        masks: Mapping[str, Tensor] | None = None,
        on_nonfinite: NonFinite = "raise",
        history: History | None = None,
    ) -> None:
        self.attached: list[Attached] = []
        self._clip, self._constrain, self._masks = clip, constrain, masks
        self._on_nonfinite, self._history = on_nonfinite, history
        self._resumed: list[dict[str, Any]] = []
        self._logged = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach to every optimizer, and go on from the checkpoint that was loaded, if one was."""
        bound = trainer.gradient_clip_val
        if bound and self._clip is not None:
            warnings.warn(
                f"Attach: the Trainer clips at gradient_clip_val={bound} before our rule, which sees nothing "
                "else; leave it at None",
                UserWarning,
                stacklevel=2,
            )
        if self._history is not None and len(trainer.optimizers) > 1:
            count = len(trainer.optimizers)
            raise ValueError(f"Attach: one history cannot hold {count} optimizers; leave `history` out")
        self.attached = [self._attach(optimizer, pl_module) for optimizer in trainer.optimizers]
        self._logged = trainer.global_step
        self.load_state_dict({"attached": self._resumed})

    def _attach(self, optimizer: Optimizer, pl_module: pl.LightningModule) -> Attached:
        """Attach copies of the rules to one optimizer: a rule with memory serves one list of parameters."""
        return attach(
            optimizer,
            clip=copy.deepcopy(self._clip),
            constrain=copy.deepcopy(self._constrain),
            masks=self._masks,
            model=pl_module,
            on_nonfinite=self._on_nonfinite,
            history=self._history,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Log, as often as the Trainer does."""
        steps = (trainer.global_step - self._logged) // max(1, len(self.attached))
        if trainer.log_every_n_steps and steps >= trainer.log_every_n_steps:
            self._logged = trainer.global_step
            pl_module.log_dict(figures(self.attached, steps), on_step=True, on_epoch=False)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the rules off again."""
        for attached in self.attached:
            attached.remove()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Take the rules off again, and write the rest of the history to its file."""
        self.on_fit_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what the rules remember, for Lightning's checkpoint."""
        return {"attached": [attached.state_dict() for attached in self.attached]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` gave, now or when the fit starts."""
        self._resumed = state_dict["attached"]
        if self.attached and self._resumed:
            for attached, state in zip(self.attached, self._resumed, strict=True):
                attached.load_state_dict(state)
            self._resumed = []
