"""What every stage of a run shares: the recipe, its folder, the workers, and who is told what happens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tonsor.files import read_json, read_tensors, write_tensors
from tonsor.recipe.batches import fetch, place, seed_all
from tonsor.recipe.binding import Mistakes
from tonsor.recipe.build import source
from tonsor.recipe.crew import Crew
from tonsor.recipe.folder import SETTINGS, RunFolder
from tonsor.recipe.schema import Recipe

WEIGHTS = "model.safetensors"
MASKS = "masks.safetensors"
EXAMPLE = 64  # samples in the example batch
TRAINING = ("train", "prune", "finetune")  # the stages that every worker runs
FULL = (*TRAINING, "heal")  # the stages that leave weights of the full shape


class Interrupted(KeyboardInterrupt):
    """Tell that a run was asked to stop, and did so in order.

    Example:
        >>> str(Interrupted("stopped at step 3"))
        'stopped at step 3'
    """


@dataclass(frozen=True)
class Run:
    """Hold what every stage needs.

    Args:
        recipe: What to do.
        folder: Where everything is written.
        crew: The workers.
        tell: Called with a dict for every event: a stage begins, a step is done, a line to note.
        stop: Asked after every step whether to stop.

    Example:
        >>> run = Run(Recipe.model_validate({"name": "a", "model": {"build": "tonsor.examples.models:linear"},
        ...     "data": {"load": "tonsor.examples.data:diabetes"}, "train": {}}), RunFolder(Path("runs/a")))
        >>> run.stages
        ('train', 'report')
        >>> sum(p.numel() for p in run.fresh_model().parameters())
        11
    """

    recipe: Recipe
    folder: RunFolder
    crew: Crew = field(default_factory=Crew.alone)
    tell: Callable[[dict[str, Any]], None] = lambda event: None
    stop: Callable[[], bool] = lambda: False

    @classmethod
    def of(cls, path: Path, **rest: Any) -> "Run | None":
        """Open the run of a folder again, by the settings that lie there; None where there are none.

        Args:
            path: The folder.
            rest: What else the run holds, as `tell`.
        """
        if not (path / SETTINGS).exists():
            return None
        settings = read_json(path / SETTINGS)
        settings.pop("workers", None)  # of an older version
        return cls(Recipe.model_validate(settings), RunFolder(path), **rest)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the recipe, in order."""
        sections = ("prune", "heal", "finetune", "shrink", "pack", "export")
        asked = [name for name in sections if getattr(self.recipe, name) not in (None, [])]
        return ("train", *asked, "report")

    @property
    def device(self) -> torch.device:
        """Where the model is trained."""
        if self.recipe.device != "auto":
            return torch.device(self.recipe.device)
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def fresh_model(self, *draw: object) -> nn.Module:
        """Build the model with weights that the seed alone decides, or the seed and the name of a draw."""
        build = source(self.recipe.model, self.recipe.model.build, "model", "build", Mistakes())
        assert build is not None, "the recipe was checked"
        seed_all(self.recipe.seed, "model", *draw)
        model: nn.Module = build()
        return model.to(self.device)

    def model_after(self, stage: str) -> nn.Module:
        """Build the model and load the weights that a stage left."""
        model = self.fresh_model()
        path = self.weights_file(stage)
        tensors, _ = read_tensors(path)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{path}: does not fit the model of the recipe: {error}") from error
        return model

    def save_model(self, stage: str, model: nn.Module) -> Path:
        """Write the weights of a stage, whole or not at all."""
        path = self.weights_file(stage)
        write_tensors(path, model.state_dict(), about={"format": "pt"})
        return path

    def weights_file(self, stage: str) -> Path:
        """Return where a stage keeps its weights."""
        return self.folder.file(stage, WEIGHTS)

    def kept_file(self, step: int) -> Path:
        """Return where the train stage keeps the weights of a step that a pass goes back to."""
        return self.folder.file("train", f"step-{step}.safetensors")

    def kept_steps(self) -> list[int]:
        """Return the steps of the train stage whose weights a pass goes back to."""
        back = {p.rewind_to for p in self.recipe.prune if p.rewind == "weights" and p.rewind_to}
        return sorted(back)

    def masks(self) -> dict[str, Tensor]:
        """Return the masks of the prune stage, or none where the recipe does not prune."""
        if "prune" not in self.stages:
            return {}
        return {name: mask.to(self.device) for name, mask in read_tensors(self.masks_file())[0].items()}

    def masks_file(self) -> Path:
        """Return where the prune stage keeps its masks."""
        return self.folder.file("prune", MASKS)

    def packed_file(self) -> Path:
        """Return where the pack stage keeps the packed model."""
        return self.folder.file("pack", f"{self.recipe.name}.tonsor")

    def last_trained(self, before: str = "report") -> str:
        """Return the last stage before another one that leaves weights of the full shape."""
        earlier = self.stages[: self.stages.index(before)]
        return [stage for stage in earlier if stage in FULL][-1]

    def example(self) -> Any:
        """Return a batch of test inputs, on the device: what the model is traced, compared and timed with."""
        return self.batch(self.data["test"])[0]

    def batch(self, dataset: Dataset[Any]) -> tuple[Any, Any]:
        """Return the first samples of a data set, inputs and targets, on the device."""
        count = min(EXAMPLE, len(dataset))  # type: ignore[arg-type]  # map-style datasets have a length
        inputs, targets = fetch(dataset, torch.arange(count))
        return place(inputs, self.device), place(targets, self.device)

    @cached_property
    def data(self) -> Mapping[str, Dataset[Any]]:
        """The data sets by name, loaded once.

        Raises:
            ValueError: If what is loaded has no "train" and "test".
        """
        load = source(self.recipe.data, self.recipe.data.load, "data", "load", Mistakes())
        assert load is not None, "the recipe was checked"
        loaded = load()
        lacking = {"train", "test"} - set(loaded)
        if lacking:
            raise ValueError(
                f"data.load: {self.recipe.data.load} must return a dict with 'train' and 'test' "
                f"(and perhaps 'valid'); got {sorted(loaded)}"
            )
        return dict(loaded)
