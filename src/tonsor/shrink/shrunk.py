"""What came of shrinking a model, for people and for files."""

from dataclasses import dataclass, field
from typing import Any

from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.plan import Plan
from tonsor.shrink.trial import Trial


@dataclass(frozen=True)
class Shrunk:
    """Say what was removed from a model, and how it was proved.

    Args:
        removed: The units that are gone, by group.
        before: Parameters before.
        after: Parameters after.
        folded: Biases that took the constants of removed units, some of them new.
        max_difference: The largest difference of an output from the masked model's, as a share of the
            largest output.
        groups: Each group: its name, units, how many were removed, parameters a unit.
        frozen: Groups that must stay: name, units, why.
        kept_back: Units that do nothing and stay all the same: how many and why, by group.
        plan: What `resize_` and `save` need: `{"slices": {name: {dimension: kept indices}}, "biases":
            [modules that got one]}`, with the dimensions as text; and where they are needed "attributes"
            and "rewritten".
        attributes: By module the numbers that were corrected, as `num_heads`.
        rewritten: Why the model's forward now runs its rewritten graph; empty where its own code runs.
        narrowed: Norms and other statistics that lost channels. They are taken over the channels that stay,
            and so they were in the masked model that outputs were compared with.

    Example:
        >>> print(Shrunk(removed={"0.weight": [1]}, before=10, after=6, folded=(), max_difference=0.0))
        10 parameters became 6; outputs differ by at most 0.0e+00 of the largest
        0.weight: 1 unit removed
    """

    removed: dict[str, list[int]]
    before: int
    after: int
    folded: tuple[str, ...]
    max_difference: float
    groups: tuple[dict[str, Any], ...] = ()
    frozen: tuple[dict[str, Any], ...] = ()
    kept_back: dict[str, str] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=lambda: {"slices": {}, "biases": []}, repr=False)
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    rewritten: str = ""
    narrowed: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.before:,} parameters became {self.after:,}; "
            f"outputs differ by at most {self.max_difference:.1e} of the largest"
        ]
        lines += [f"{name}: {_units(len(gone))} removed" for name, gone in self.removed.items()]
        lines += [f"{name}: took constants" for name in self.folded]
        lines += [f"{name}: does nothing and stays: {why}" for name, why in self.kept_back.items()]
        lines += [f"{path or 'the model'}: {_set(values)}" for path, values in self.attributes.items()]
        lines += [f"over the channels that stay: {', '.join(self.narrowed)}"] if self.narrowed else []
        lines += [f"the forward runs the rewritten graph: {self.rewritten}"] if self.rewritten else []
        return "\n".join(lines)


def told(groups: ChannelGroups, plan: Plan, trial: Trial, before: int, after: int) -> Shrunk:
    """Return what was done, in words and numbers."""
    removed = plan.decision.removed
    kept_back: dict[str, str] = {}
    for name, count, why in plan.decision.stays:
        kept_back[name] = "; ".join(filter(None, [kept_back.get(name), f"{_units(count)}: {why}"]))
    return Shrunk(
        removed=removed,
        before=before,
        after=after,
        folded=tuple(plan.folds),
        max_difference=trial.difference,
        groups=tuple(
            {
                "name": group.name,
                "units": group.units,
                "removed": len(removed.get(group.name, ())),
                "parameters_per_unit": group.cost,
            }
            for group in groups.groups.values()
        ),
        frozen=tuple({"name": g.name, "units": g.units, "why": g.reason} for g in groups.frozen),
        kept_back=kept_back,
        attributes=trial.attributes,
        rewritten=trial.reason,
        narrowed=trial.narrowed,
        plan=_with(plan.as_json(), trial) | groups.trace.freedom.as_json(),
    )


def _units(count: int) -> str:
    """Return a number of units in words."""
    return f"{count} unit" if count == 1 else f"{count} units"


def _set(values: dict[str, Any]) -> str:
    """Return attributes with their numbers in words."""
    return ", ".join(f"{name} is now {value}" for name, value in values.items())


def _with(plan: dict[str, Any], trial: Trial) -> dict[str, Any]:
    """Return the plan with what the model needs beyond slicing."""
    more: dict[str, Any] = {"attributes": trial.attributes} if trial.attributes else {}
    return plan | more | ({"rewritten": True} if trial.graph is not None else {})
