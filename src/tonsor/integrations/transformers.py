"""Rules on the optimizer of Hugging Face's Trainer; needs transformers."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from torch import Tensor

from tonsor.attached import Attached, attach
from tonsor.attached_clip import Clip, NonFinite
from tonsor.attached_handle import Constrain
from tonsor.clip import History
from tonsor.integrations.figures import figures
from tonsor.recipe.checkpoint import load_state, save_state

FILE = "tonsor.safetensors"  # beside the Trainer's own files, in its checkpoint's folder


class Attach(transformers.TrainerCallback):  # type: ignore[misc]
    """Attach rules when the training begins, log what they did, and keep their memory in the checkpoints.

    The Trainer makes its optimizer late, so `tonsor.attach` needs one of your own; this does not. It adds
    the norm, the threshold, the share of clipped steps and the count of skipped ones to every log
    (`clip/...`, see `figures`) and to `state.log_history`, writes what the rules remember into each
    `checkpoint-N` folder and reads it again on `resume_from_checkpoint`. The Trainer clips at 1.0 by itself
    unless told not to, and a warning says so at once: set `max_grad_norm=0`.

    Reporters named in `report_to` are called before any callback of yours; to have the figures there too, set
    `report_to="none"` and pass the reporter's callback after this one.

    Args:
        clip: A rule of `tonsor.clip`.
        constrain: A rule of `tonsor.constrain`.
        masks: Boolean masks by the model's parameter names, true where the weight stays.
        on_nonfinite: "raise", "skip" or "zero", as for `tonsor.attach`. The Trainer measures every norm by a
            clip to infinity, which turns one infinite element into gradients of NaN: "zero" then zeroes all.
        history: Where to record; a new `clip.History` if not given.

    Attributes:
        attached: The handle; None before the training begins.

    Raises:
        ValueError: When the training begins, if a mask fits no parameter or a setting is not known.

    Example:
        >>> import tonsor
        >>> callback = Attach(clip=tonsor.clip.ZClip(max_norm=1.0))   # Trainer(..., callbacks=[callback])
        >>> callback.attached is None
        True
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
        self.attached: Attached | None = None
        self._settings: dict[str, Any] = {
            "clip": clip,
            "constrain": constrain,
            "masks": masks,
            "on_nonfinite": on_nonfinite,
            "history": history,
        }
        self._logged = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Attach to the optimizer, and go on from the checkpoint that the Trainer resumed."""
        if args.max_grad_norm > 0 and self._settings["clip"] is not None:
            warnings.warn(
                f"Attach: the Trainer clips at max_grad_norm={args.max_grad_norm} before our rule, which "
                "sees nothing else; set max_grad_norm=0",
                UserWarning,
                stacklevel=2,
            )
        self.attached = attach(given["optimizer"], model=given["model"], **self._settings)
        self._logged = state.global_step
        if state.global_step:
            self._resume(_folder(args, state) / FILE, self.attached)

    def _resume(self, path: Path, attached: Attached) -> None:
        """Take over what the checkpoint holds, or say that it holds nothing."""
        if path.exists():
            attached.load_state_dict(load_state(path))
            return
        warnings.warn(
            f"Attach: the training resumes, but there is no {path}; rules that remember start anew. "
            f"If the checkpoint lies elsewhere, copy its {FILE} to that place",
            UserWarning,
            stacklevel=2,
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        """Add our figures to the log and to the Trainer's own list of logs."""
        steps = state.global_step - self._logged
        if self.attached is None or steps < 1 or "loss" not in logs:
            return
        self._logged = state.global_step
        told = figures([self.attached], steps)
        logs.update(told)
        state.log_history[-1].update(told)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write what the rules remember beside the checkpoint that was just saved."""
        if self.attached is not None and state.is_world_process_zero:
            save_state(_folder(args, state) / FILE, self.attached.state_dict())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Take the rules off again."""
        if self.attached is not None:
            self.attached.remove()


def _folder(args: Any, state: Any) -> Path:
    """Return the folder of the checkpoint of this step."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"
