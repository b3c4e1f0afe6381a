"""What a recipe may say: the sections of the TOML file with their keys, types and defaults."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Refuse unknown keys and convert nothing: a number in quotes is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Named(BaseModel):
    """Hold a name and the keys that go with it, to be bound to a signature."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @property
    def settings(self) -> dict[str, Any]:
        """The keys beside the name."""
        return dict(self.model_extra or {})


class Rule(Named):
    """Name a rule of a room's table; the other keys tune it. A bare name is a rule as it comes."""

    rule: str


class ModelSource(Named):
    """Name the function that builds the model, `"package.module:function"`; the other keys go to it."""

    build: str


class DataSource(Named):
    """Name the function that loads the data, `"package.module:function"`; the other keys go to it."""

    load: str


def _as_table(value: Any) -> Any:
    """Let a bare name stand for a rule without settings."""
    return {"rule": value} if isinstance(value, str) else value


RuleField = Annotated[Rule, BeforeValidator(_as_table)]


Bits = Annotated[int, Field(ge=2, le=8)]


class Training(Section):
    """Say how a stage trains; what `[prune]` and `[finetune]` leave out they take from `[train]`."""

    epochs: int = Field(10, ge=0)
    batch_size: int = Field(64, ge=1)
    loss: str = "cross_entropy"
    metric: str = "accuracy"
    optimizer: RuleField = Rule(rule="SGD", lr=0.1, momentum=0.9)
    lr_schedule: RuleField = Rule(rule="constant")
    clip: RuleField | None = None
    constrain: RuleField | None = None
    compress: RuleField | None = None
    checkpoint_every: int = Field(200, ge=1)  # optimizer steps


class Retraining(Training):
    """Say what else a training may do that follows the dense one: learn from it, measure its norms anew."""

    distill: RuleField | None = None  # the teacher is the model that [train] left
    recalibrate: int = Field(0, ge=0)  # batches for the running statistics of batch norms; 0: as trained


class PrunePass(Retraining):
    """Say what one pass removes, and how it trains meanwhile (`epochs = 0`: at one stroke)."""

    sparsity: float | None = Field(None, ge=0, lt=1)
    budget: RuleField | None = None  # instead: a cost with `share` of the dense weights', or `limit`
    importance: RuleField = Rule(rule="magnitude")
    pattern: RuleField = Rule(rule="element")
    scope: RuleField = Rule(rule="across")
    schedule: RuleField = Rule(rule="cubic")
    every: int = Field(20, ge=1)  # optimizer steps between two rankings
    include: list[str] = ["*"]  # parameter names, with * and ?; of two dimensions or more
    exclude: list[str] = []
    calibration: int = Field(8, ge=1)  # batches for the statistics an importance asks for
    statistics: Literal["calibration", "training"] = "calibration"  # or gathered while the pass trains
    # How the masks move while the pass trains; without any of these keys they rise with the schedule.
    regrow: RuleField | None = None  # at `sparsity` from the first step, then some go and as many come back
    regrow_schedule: RuleField = Rule(rule="cosine", initial=0.3)  # the fraction that moves; ends at 3/4
    soft: bool = False  # what is pruned trains on, and may come back, until the pass is over
    penalty: RuleField | None = None  # a schedule: an L2 penalty grows on what is to go at the end
    rounds: int = Field(1, ge=1)  # each prunes an equal share of what is left, at once, and trains `epochs`
    rewind: Literal["none", "weights", "learning_rate", "random"] = "none"  # before the training of a round
    rewind_to: int = Field(0, ge=0)  # the step of [train] whose weights come back; 0: as built

    @model_validator(mode="after")
    def _has_one_aim(self) -> Self:
        """Refuse a pass that does not know how far to go, or has been told twice."""
        if (self.sparsity is None) == (self.budget is None):
            raise ValueError("either key 'sparsity' or key 'budget' must be given")
        return self


class Heal(Section):
    """Say how the weights that stay make up for those that went, without labels or training."""

    calibration: int = Field(32, ge=1)  # batches of training inputs
    batch_size: int = Field(128, ge=1)
    damping: float = Field(0.1, ge=0)  # more trusts the dense weights more, the calibration less
    target: Literal["dense", "current"] = "dense"


class Shrink(Section):
    """Ask for the removal of what the masks left without effect; there is nothing to tune yet."""


class Pack(Section):
    """Say how weights share values, how those are trained, and what the file may take."""

    bits: Bits | dict[str, Bits] | None = None  # of matrices, or by pattern of names; 4 without a budget
    max_bytes: int | None = Field(None, ge=1)  # instead: bits are found, so that the tensors take no more,
    max_rise: float | None = Field(None, ge=0)  # or so that the validation loss rises by no more
    sharing: RuleField = Rule(rule="kmeans")
    positions: list[Literal["inline", "bitmap", "runs", "csr", "context"]] = Field(
        ["inline", "bitmap", "runs", "csr", "context"], min_length=1
    )
    calibration: int = Field(0, ge=0)  # batches of training inputs, with which codes are chosen by gptq
    epochs: int = Field(2, ge=0)  # in which the shared values are trained
    batch_size: int = Field(64, ge=1)
    lr: float = Field(1e-3, gt=0)  # of Adam; falls to zero along a cosine
    distill: RuleField | None = None  # the teacher is the model that [train] left

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        """Refuse two budgets, and bits beside one."""
        given = [key for key in ("bits", "max_bytes", "max_rise") if getattr(self, key) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of the keys 'bits', 'max_bytes' and 'max_rise'; got {given}")
        return self


class Export(Section):
    """Say which files are written."""

    formats: list[RuleField] = [Rule(rule="safetensors"), Rule(rule="onnx")]
    calibration: int = Field(8, ge=1)  # batches of training inputs, for formats that round activations
    batch_size: int = Field(64, ge=1)


class Report(Section):
    """Say how latency is measured, and whether the pruned model is compared with the dense one in depth."""

    batches: list[Annotated[int, Field(ge=1)]] = [1, 64]
    rounds: int = Field(50, ge=1)
    trust: bool = True  # classifiers of float inputs alone
    trust_samples: int = Field(500, ge=1)  # of the test data, that are made worse and attacked
    image: Annotated[list[int], Field(min_length=3, max_length=3)] | None = None  # of flat inputs: C, H, W


class Recipe(Section):
    """Hold a whole recipe, every section checked."""

    name: str = Field(pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(0, ge=0)
    device: str = "auto"  # cpu, cuda, or cuda where there is one
    threads: int = Field(0, ge=0)  # of the CPU; 0 leaves it to torch. One is fastest for small models
    model: ModelSource
    data: DataSource
    train: Training
    prune: list[PrunePass] = []
    heal: Heal | None = None
    finetune: Retraining | None = None
    shrink: Shrink | None = None
    pack: Pack | None = None
    export: Export | None = None
    report: Report = Field(default_factory=Report)
