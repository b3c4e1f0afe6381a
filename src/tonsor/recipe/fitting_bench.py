"""One search at work: which candidates may fit, each made, measured and kept."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tonsor.modes import evaluating
from tonsor.pack import load, unpack
from tonsor.recipe.context import Interrupted
from tonsor.recipe.fitting_how import How
from tonsor.recipe.fitting_judge import Judge, choose_step
from tonsor.recipe.fitting_limits import Budget
from tonsor.recipe.fitting_maker import Maker, Point
from tonsor.recipe.fitting_rows import Figures, Rows
from tonsor.recipe.fitting_tables import BITS, HIGHEST, foreseen, least_sparsity, size_table
from tonsor.recipe.fitting_time import Clock, TimeTable
from tonsor.recipe.packed_files import PLAN, plan_text
from tonsor.report import size
from tonsor.tensors import apply_masks_, distinct, fingerprint

SLACK = 0.1  # by which a foreseen size may be wrong


@dataclass(frozen=True)
class Given:
    """Hold what a person handed in: the dense model, a call, how it is judged, inputs, how, and limits."""

    model: nn.Module
    example: Any
    evaluate: Callable[[nn.Module], float]
    batches: list[tuple[Any, Any]]
    how: How
    budget: Budget


class Bench:
    """Make, measure and keep the candidates of one search.

    Args:
        given: What was handed in.
        rows: Keeps the figures.
    """

    def __init__(self, given: Given, rows: Rows) -> None:
        self.given, self.rows = given, rows
        self.maker = Maker(given.model, given.example, given.batches, given.how)
        self.clock = Clock.of(given.model, given.example, given.how.batch, rows)
        self._times = TimeTable(self.maker, self.clock, rows)
        self._done: list[Figures] = []
        self.dense = rows.once("dense", lambda path: self._dense())

    def ranges(self, share: float) -> tuple[float, float] | None:
        """Return the sparsities that may keep the budget at a width, or nothing where none may."""
        name = f"range-{share:.3g}-{self._label()}"
        found = self.rows.once(name, lambda path: {"range": self._foreseen(share)})["range"]
        return (found[0], found[1]) if found else None

    def _foreseen(self, share: float) -> tuple[float, float] | None:
        """Foresee the sparsities that may keep the budget, from the tables."""
        if self.maker.base(share) is None:
            return None
        low, high = 0.0, 0.0 if self.given.budget.max_fall is None else HIGHEST
        if self.given.budget.latency_ms is not None:
            fast = self._times.least_sparsity(share, self.given.budget.latency_ms)
            if fast is None:
                return None
            low, high = fast, max(high, 1 - (1 - fast) / 2 if fast else 0.0)
        if self.given.budget.max_bytes is not None:
            least, most = (self._sparsity_of(share, bits) for bits in (BITS[0], BITS[-1]))
            if least is None:
                return None
            low = max(low, least)
            high = max(low, HIGHEST if most is None or self.given.budget.max_fall is not None else most)
        return low, high

    def try_(self, point: Point) -> Figures:
        """Return a candidate's row, made if there is none yet."""
        row = self._once(f"{point.name}-{self._label()}", point, self.maker.pruned)
        if self.given.how.stop():
            raise Interrupted(f"stopped after {len(self._done)} candidates")
        return row

    def tuned(self, point: Point) -> Figures:
        """Return the row of a candidate that was trained before its values were shared."""
        how = self.given.how

        def trained(point: Point) -> nn.Module:
            model = self.maker.pruned(point)
            masks = {name: p.detach() != 0 for name, p in model.named_parameters() if p.ndim > 1}
            assert how.tune is not None, "only asked for where something trains"
            how.tune(model, masks)
            apply_masks_(dict(model.named_parameters()), masks)
            return model

        return self._once(f"{point.name}-{self._label()}-{how.tuned}", point, trained)

    def is_enough(self, row: Mapping[str, Any]) -> bool:
        """Say whether the fall is above its limit even with the most bits: more zeros will not help."""
        most, bits = self.given.budget.max_fall, max(self.given.how.choices)
        return most is not None and row["fall"] > most and min(row["bits"].values(), default=bits) == bits

    def model(self, row: Mapping[str, Any]) -> nn.Module:
        """Return the model that a row's packed file holds."""
        model = self.maker.pruned(Point(row["share"], 0.0))
        model.load_state_dict(unpack(load(self.rows.packed(row["name"]))))
        return model

    def _once(self, name: str, point: Point, make: Callable[[Point], nn.Module]) -> Figures:
        """Return the row of a name, made if there is none yet, and tell it."""
        row = self.rows.once(name, lambda path: self._measured(path, point, make(point)))
        self._done.append(row)
        tell, budget = self.given.how.tell, self.given.budget
        done = len(self._done)
        tell({"event": "fit", "done": done, "of": max(done, self.given.how.most), "name": name, "row": row})
        tell({"event": "note", "text": f"{told(row)}: {'; '.join(budget.misses(row)) or 'fits'}"})
        return row

    def _measured(self, path: Path, point: Point, model: nn.Module) -> Figures:
        """Pack a candidate with as many bits as the budget says, and measure what is unpacked."""
        base, given = self.maker.base(point.share), self.given
        assert base is not None, "it was made from it"
        about = {**given.how.about, **({PLAN: plan_text(base.plan)} if base.plan else {})}
        judge = Judge(model, given.model, given.batches, given.evaluate, given.how, about)
        fits = [row["bytes"] for row in self._done if given.budget.meets(row)]
        step = choose_step(given.budget, judge, fall=self._fall, below=min(fits, default=None))
        written = judge.save(step, path)
        while given.budget.max_bytes is not None and written > given.budget.max_bytes and step < judge.last:
            step += 1  # trained values took a few bytes more than was foreseen
            written = judge.save(step, path)
        small = judge.model(step)
        if fingerprint(unpack(load(path))) != fingerprint(small.state_dict()):
            raise ValueError(f"{path}: what is unpacked from it is not what was measured")
        ways = self.clock.ways(small, sparse=given.budget.latency_ms is not None)
        counted = size(small, given.example)
        return {
            "share": point.share,
            "sparsity": point.sparsity,
            "cut": 1 - counted["macs"] / max(1, self.dense["macs"]),
            "bits": judge.bits(step),
            "bytes": written,
            "metric": judge.metric(step),
            "fall": self._fall(judge.metric(step)),
            "ways": ways,
            "latency_ms": min(ways.values()),
            "timed": self.clock.label,
            **counted,
        }

    def _dense(self) -> Figures:
        """Return the row of the dense model."""
        model = self.given.model
        tensors = distinct([*model.parameters(), *model.buffers()])
        with evaluating(model):
            metric = self.given.evaluate(model)
        return {
            "metric": metric,
            "fall": 0.0,
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "latency_ms": self.clock.dense_ms,
            **size(model, self.given.example),
        }

    def _fall(self, metric: float) -> float:
        """Return by how many hundredths a metric is below the dense model's."""
        return round(float(100 * (self.dense["metric"] - metric)), 6)  # 0.98 - 0.97 is a bit above 0.01

    def _sparsity_of(self, share: float, bits: int) -> float | None:
        """Return the sparsity at which so many bits are foreseen to keep the bytes."""
        weights = self.maker.weights(share)
        base = self.maker.base(share)
        assert base is not None, "there are weights"
        others = sum(tensor.numel() for tensor in base.model.state_dict().values())
        others -= sum(weight.numel() for weight in weights.values())
        most = (self.given.budget.max_bytes or 0) * (1 + SLACK if bits == BITS[0] else 1 - SLACK)

        def cost(sparsity: float) -> float:
            return foreseen(self._sizes(), weights, others, sparsity, bits)

        return least_sparsity(cost, most)

    def _sizes(self) -> Any:
        """Return the size table of the dense model, measured once."""
        how = self.given.how
        return self.rows.once("sizes", lambda path: {"table": size_table(self._weights(), how.sharing)})[
            "table"
        ]

    def _weights(self) -> dict[str, Tensor]:
        """Return the dense weights that may be zero."""
        return self.maker.weights(1.0)

    def _label(self) -> str:
        """Return what a candidate's bits and times depend on beside the point."""
        budget = self.given.budget
        parts = [
            f"bytes-{budget.max_bytes}" if budget.max_bytes is not None else "",
            f"fall-{budget.max_fall:g}" if budget.max_fall is not None else "",
            self.clock.label if budget.latency_ms is not None else "",
        ]
        return "-".join(part for part in parts if part)


def told(row: Mapping[str, Any]) -> str:
    """Return a candidate in one line.

    Example:
        >>> told({"cut": 0.5, "sparsity": 0.9, "bits": {"w": 4}, "bytes": 1234, "metric": 0.9, "fall": 0.4,
        ...     "latency_ms": 0.5})
        '50 % of the work cut, 90.0 % zeros, 4 bits: 1,234 bytes, metric 0.9000 (-0.40), 0.5 ms'
    """
    cut, zeros = 100 * row["cut"], 100 * row["sparsity"]
    return (
        f"{cut:.0f} % of the work cut, {zeros:.1f} % zeros, {bits_told(row)} bits: {row['bytes']:,} bytes, "
        f"metric {row['metric']:.4f} ({-row['fall']:+.2f}), {row['latency_ms']:.3g} ms"
    )


def bits_told(row: Mapping[str, Any]) -> str:
    """Return the fewest and the most bits of a candidate.

    Example:
        >>> bits_told({"bits": {"a": 3, "b": 6}})
        '3-6'
    """
    found = sorted(set(row["bits"].values()))
    return "-".join(str(count) for count in dict.fromkeys([found[0], found[-1]]))
