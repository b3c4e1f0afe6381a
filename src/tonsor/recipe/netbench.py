"""Time every way to average gradients, on the user's own link and model."""

import inspect
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.compress import RULES, Averaged, Comm, Compressor, ErrorFeedback, auto, compress_ddp
from tonsor.compress.link import Timed, fit
from tonsor.examples.models import mlp
from tonsor.recipe.batches import seed_all
from tonsor.recipe.binding import Mistakes, resolve
from tonsor.recipe.crew import Crew
from tonsor.recipe.read import RecipeError
from tonsor.spelling import unknown

PLAIN, AUTO = "plain DDP", "auto"
TRIED = 35  # steps in which auto measures, chooses and checks
UNTIMED = 3  # first steps: DDP fills its buckets anew, memory is fetched, links are opened
PROBES = (1 << 10, 1 << 16, 1 << 20, 1 << 22)  # bytes of the messages that measure the link


@dataclass(frozen=True)
class Question:
    """Say what is timed.

    Args:
        model: Import path of a function that returns the model; empty for a network of 7.9M parameters.
        shape: Of the input of one worker, the batch first.
        tokens: Size of the vocabulary where the input is tokens; 0 where it is numbers.
        steps: Timed steps of each method, at least 1.
        methods: Names of rules, or "auto", which first measures for 35 steps; empty for all rules, with
            their defaults.

    Example:
        >>> Question(shape=(8, 16)).steps
        10
    """

    model: str = ""
    shape: Sequence[int] = (16, 512)
    tokens: int = 0
    steps: int = 10
    methods: Sequence[str] = ()


def netbench(
    crew: Crew, question: Question, tell: Callable[[Mapping[str, Any]], None]
) -> list[dict[str, Any]]:
    """Train a fresh model for some steps with each method, and return a row for each.

    The gradients are those of the mean square of the first output, on random inputs that differ from worker
    to worker. Every rule runs with error feedback. What it costs in quality is not to be seen here: the
    error is that of a single step.

    Args:
        crew: The workers, two at least.
        question: What is timed.
        tell: Takes a note before each method, and one about the link.

    Returns:
        For each method milliseconds of a step (the median, on the slowest worker), how many times faster
        than plain DDP that is, megabytes that a worker hands over in a step, how many times fewer those are,
        and the relative error of what is sent.

    Raises:
        ValueError: If there is one worker, a method is not known, or the question is out of range.
        RecipeError: If the model cannot be found.

    Example:
        >>> netbench(Crew.alone(), Question(), print)
        Traceback (most recent call last):
        ValueError: netbench: there is one worker and no link to measure; add --workers 2, or use torchrun
    """
    if crew.size == 1:
        raise ValueError(
            "netbench: there is one worker and no link to measure; add --workers 2, or use torchrun"
        )
    build, methods = _checked(question)
    device = _device()
    tell({"event": "note", "text": link_of(device)})
    rows: list[dict[str, Any]] = []
    for name in (PLAIN, *methods):
        tell({"event": "note", "text": f"{name}: {question.steps} steps"})
        row = _measured(name, build, question, crew, device)
        plain = rows[0] if rows else row
        row["faster"] = plain["ms a step"] / row["ms a step"]
        row["factor"] = plain["MB a step"] / row["MB a step"] if row["MB a step"] else None
        rows.append(row)
    return rows


def sizes_of(shape: str, /) -> list[int]:
    """Return the numbers of a shape as people write it.

    Args:
        shape: As "16,3,32,32" or "16x512".

    Raises:
        ValueError: If a part is no number.

    Example:
        >>> sizes_of("16x512")
        [16, 512]
    """
    parts = shape.replace("x", ",").split(",")
    if not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"netbench: shape must be numbers, as 16,3,32,32; got '{shape}'")
    return [int(part) for part in parts]


def link_of(device: torch.device, /) -> str:
    """Return what a message costs on the link of all workers, in a sentence for each kind.

    Args:
        device: Where the tensors lie.

    Example:
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> link_of(torch.device("cpu"))              # one worker sends nothing
        'no link'
        >>> dist.destroy_process_group()
    """
    timed = Timed(Comm(dist.group.WORLD), partial(_now, device))
    for size in (*PROBES, *PROBES, *PROBES):
        for send in (timed.as_comm().mean, timed.as_comm().gather):
            send([torch.zeros(size // 4, device=device)])
    lines = fit(timed.messages)
    return (
        "; ".join(
            f"a {kind} takes {line.alpha * 1e3:.3g} ms and {line.beta * 1e9:.3g} ms a MB"
            for kind, line in lines.items()
        )
        or "no link"
    )


def _checked(question: Question) -> tuple[Callable[[], nn.Module], list[str]]:
    """Return the maker of the model and the names of the rules, or say what is wrong."""
    if question.steps < 1 or not question.shape or min(question.shape) < 1:
        raise ValueError(
            "netbench: steps must be at least 1 and shape name sizes above 0; "
            f"got steps={question.steps}, shape={list(question.shape)}"
        )
    for name in question.methods:
        if name not in (*RULES, AUTO):
            raise ValueError(f"netbench: {unknown('method', name, (*RULES, AUTO))}")
    mistakes = Mistakes()
    build: Callable[[], nn.Module] | None = partial(mlp, sizes=(512, 1536, 1536, 1536, 1536, 10))
    if question.model:
        build = resolve(question.model, "model", mistakes)
    if mistakes.found or build is None:
        raise RecipeError("netbench", mistakes.found)
    return build, list(question.methods or RULES)


def _device() -> torch.device:
    """Return this worker's own device."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cuda", torch.cuda.current_device())


def _measured(
    name: str, build: Callable[[], nn.Module], question: Question, crew: Crew, device: torch.device
) -> dict[str, Any]:
    """Return a row about one method."""
    seed_all(0)  # the same weights on all workers
    model = build().to(device)
    wrapped = DistributedDataParallel(model)
    errors: list[float] = []
    comm = _compressed(wrapped, name, errors)
    seconds = []
    inputs = _inputs(question, crew.rank, device)
    untimed = TRIED if name == AUTO else UNTIMED
    for step in range(untimed + question.steps):
        if step == untimed:
            errors.append(float("nan"))  # an error costs two passes, and is not looked at in timed steps
            before = comm.bytes_sent if comm else 0
        crew.wait()
        begin = _now(device)
        model.zero_grad()
        _loss(wrapped(next(inputs))).backward()  # type: ignore[no-untyped-call]
        seconds.append(_now(device) - begin)
    slowest = max(crew.agree(statistics.median(seconds[untimed:])))
    dense = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    sent = dense if comm is None else (comm.bytes_sent - before) / question.steps
    found = [error for error in errors if error == error]
    row = {"method": name, "ms a step": slowest * 1e3, "faster": 1.0, "MB a step": sent / 1e6, "factor": 1.0}
    return {**row, "error": statistics.median(found) if found else 0.0}


def _compressed(model: DistributedDataParallel, name: str, errors: list[float]) -> Comm | None:
    """Let a method average the gradients of the model; DDP itself does without a channel."""
    if name == PLAIN:
        return None
    if name == AUTO:
        return auto(model)[1]
    rule: Compressor = RULES[name]() if inspect.isclass(RULES[name]) else RULES[name]
    return compress_ddp(model, _Seen(rule if name == "dense" else ErrorFeedback(rule), errors))


class _Seen:
    """A compressor that notes the relative error of what it sends, until a number that is none is noted."""

    def __init__(self, rule: Compressor, errors: list[float]) -> None:
        self.rule = rule
        self.errors = errors

    def __call__(self, grads: dict[str, Tensor], comm: Comm, /) -> Averaged:
        """Return what the rule returns."""
        averaged = self.rule(grads, comm)
        if not self.errors or self.errors[-1] == self.errors[-1]:
            lost = torch.cat([(g - averaged.sent[n]).float().flatten() for n, g in grads.items()])
            whole = torch.cat([g.float().flatten() for g in grads.values()])
            self.errors.append(float(lost.norm() / whole.norm().clamp(min=1e-30)))
        return averaged


def _inputs(question: Question, rank: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches; a worker's own."""
    draw = partial(torch.randint, question.tokens) if question.tokens else torch.randn
    generator = torch.Generator().manual_seed(rank)
    while True:
        yield draw(tuple(question.shape), generator=generator).to(device)


def _loss(output: Any) -> Tensor:
    """Return the mean square of the first tensor of numbers in an output, of whatever form it is."""
    while not isinstance(output, Tensor):
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    return output.float().square().mean()


def _now(device: torch.device) -> float:
    """Return the time when the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
