"""A model becomes a graph whose batch is free: where the formats that others run begin."""

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram


def need(where: str, *packages: str) -> None:
    """Import packages of the extra `export`, and say how to install what is missing.

    Args:
        where: Who needs them, for the error.
        packages: Their names.

    Raises:
        ModuleNotFoundError: If one is missing.

    Example:
        >>> need("export.onnx", "torch")
        >>> need("export.onnx", "no_such_package")
        Traceback (most recent call last):
        ModuleNotFoundError: export.onnx needs no_such_package: pip install 'tonsor[export]'
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{where} needs {error.name}: pip install 'tonsor[export]'", name=error.name
            ) from error


def trace(model: nn.Module, example: tuple[Tensor, ...], /, *, free_batch: bool = True) -> ExportedProgram:
    """Return the model's graph, without the example and without a line about the source it came from.

    Args:
        model: The model, in evaluation mode.
        example: The arguments of one call; two rows at least where the batch is free, or torch fixes it.
        free_batch: Whether the first dimension of every argument may be of any size.

    Example:
        >>> program = trace(nn.Linear(2, 1).eval(), (torch.ones(2, 2),))
        >>> program.module()(torch.ones(5, 2)).shape, program.example_inputs
        (torch.Size([5, 1]), None)
    """
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in example) if free_batch else None
    program = torch.export.export(model, example, dynamic_shapes=free)
    program.example_inputs = None  # they are the person's data
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


@contextmanager
def explained(where: str, model: nn.Module, /, *, free_batch: bool = True) -> Iterator[None]:
    r"""Keep torch's exporters quiet, and tell in a sentence why they refuse a model.

    Args:
        where: Who exports, for the error.
        model: What is exported.
        free_batch: Whether it was to take batches of any size.

    Raises:
        ValueError: In place of a RuntimeError inside: says what was tried and why it failed.

    Example:
        >>> with explained("export.onnx", nn.Linear(2, 1)): raise RuntimeError("no\nlines")
        Traceback (most recent call last):
        ValueError: export.onnx: torch cannot export Linear with a free batch size: no
    """
    try:
        with quiet():
            yield
    except RuntimeError as error:
        lines = str(error).strip().split("\n")
        why = " ".join([lines[0], *(line for line in lines if line.startswith("Caused by"))])
        how = " with a free batch size" if free_batch else ""
        raise ValueError(f"{where}: torch cannot export {type(model).__name__}{how}: {why}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporters' own talk (missing torchvision, whole graphs, progress) from the person's screen.

    Example:
        >>> with quiet(): print("Collecting tensor data ...")
    """
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.fx", None)]  # None: the quantizers'
    levels = [logger.level for logger in loggers]
    silent = logging.NullHandler()  # without any handler the quantizers' logging would set one up for good
    try:
        logging.getLogger().addHandler(silent)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(silent)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
