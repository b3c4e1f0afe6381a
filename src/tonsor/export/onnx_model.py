"""An ONNX file as a module: called with tensors, run by ONNX Runtime on the CPU."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from tonsor.export.traced import need
from tonsor.spelling import unknown

TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(bool)": torch.bool,
    **{f"tensor({name})": getattr(torch, name) for name in ("int8", "int16", "int32", "int64", "uint8")},
}


@final
class OnnxModel(nn.Module):
    """Call an ONNX file as a model: tensors in, tensors out, on the CPU, without gradients.

    Whatever takes a model takes it: evaluation, latency, `compare`. It has no parameters. Inputs come in the
    file's order or by its names, outputs on the device of the first input: one tensor, or a tuple of several
    in the file's order. Copied or unpickled, it opens the file anew.

    Args:
        path: The file.
        threads: How many threads ONNX Runtime computes with, at least 1; None takes as many as torch has now.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If ONNX Runtime cannot read it, or if it takes or gives something else than tensors; when
            called, if the inputs are not those of the file.
        ModuleNotFoundError: If onnxruntime is missing: says how to install it.

    Example:
        >>> import tempfile
        >>> from tonsor.export import to_onnx
        >>> path = Path(tempfile.mkdtemp()) / "a.onnx"
        >>> x = torch.ones(2, 1)
        >>> _ = to_onnx(nn.Bilinear(1, 1, 1), (x, x), path)
        >>> model = OnnxModel(path, threads=1)
        >>> model
        OnnxModel(a.onnx, threads=1)
        >>> model.inputs, model(x, x).shape
        (('input1', 'input2'), torch.Size([2, 1]))
    """

    def __init__(self, path: Path, /, *, threads: int | None = None) -> None:
        super().__init__()
        self.path = Path(path).absolute()
        self.threads = torch.get_num_threads() if threads is None else threads
        if self.threads < 1:
            raise ValueError(f"export.OnnxModel: threads must be at least 1; got {threads}")
        if not self.path.is_file():
            raise FileNotFoundError(f"export.OnnxModel: there is no file {self.path}")
        self._session = open_session(self.path, self.threads)
        self._types = {taken.name: TYPES[taken.type] for taken in self._session.get_inputs()}

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in the file's order."""
        return tuple(self._types)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in the file's order."""
        return tuple(given.name for given in self._session.get_outputs())

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return what the file computes."""
        feed = self._feed(inputs, named)
        device = next(iter(feed.values())).device if feed else torch.device("cpu")
        arrays = {name: x.detach().cpu().numpy() for name, x in feed.items()}
        try:
            got = self._session.run(None, arrays)
        except refusals() as error:
            raise ValueError(f"{self.path.name}: ONNX Runtime cannot run it: {in_a_line(error)}") from error
        outputs = tuple(torch.from_numpy(output).to(device) for output in got)
        return outputs if len(outputs) > 1 else outputs[0]

    def _feed(self, inputs: tuple[Tensor, ...], named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs by name, of the types that the file wants."""
        feed = dict(zip(self._types, inputs, strict=False)) | dict(named)
        for name in named:
            if name not in self._types:
                raise ValueError(f"{self.path.name}: {unknown('input', name, self._types)}")
        if len(inputs) + len(named) != len(self._types) or len(feed) != len(self._types):
            got = ", ".join([f"{len(inputs)} in order", *named])
            raise ValueError(f"{self.path.name}: takes {', '.join(self._types)}; got {got}")
        for name, wanted in self._types.items():
            got = feed[name].dtype if isinstance(feed[name], Tensor) else type(feed[name]).__name__
            if got != wanted:
                raise ValueError(f"{self.path.name}: input '{name}' must be {wanted}; got {got}")
        return feed

    def extra_repr(self) -> str:
        """Return the file's name and the threads."""
        return f"{self.path.name}, threads={self.threads}"

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(OnnxModel, threads=self.threads), (self.path,), {"training": self.training}


def open_session(source: Path | bytes, threads: int) -> Any:
    """Return ONNX Runtime's session of a file, or of what is to become one.

    Raises:
        ValueError: If it cannot be read, or has an input or output that is no tensor.
        ModuleNotFoundError: If onnxruntime is missing.

    Example:
        >>> open_session(b"no model", 1)
        Traceback (most recent call last):
        ValueError: export: ONNX Runtime cannot read 8 bytes: ...
    """
    need("export.OnnxModel", "onnxruntime")
    import onnxruntime

    what = f"{len(source)} bytes" if isinstance(source, bytes) else source
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except refusals() as error:
        raise ValueError(f"export: ONNX Runtime cannot read {what}: {in_a_line(error)}") from error
    for end in (*session.get_inputs(), *session.get_outputs()):
        if end.type not in TYPES:
            raise ValueError(f"export: {what}: '{end.name}' is a {end.type}; expected one of {list(TYPES)}")
    return session


def refusals() -> tuple[type[Exception], ...]:
    """Return the errors of ONNX Runtime's, which have no common ancestor of their own.

    Example:
        >>> [error.__name__ for error in refusals()][:2]
        ['Fail', 'InvalidGraph']
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    broken = (state.Fail, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented)
    return (*broken, state.InvalidArgument, state.RuntimeException)


def in_a_line(error: Exception) -> str:
    r"""Return what an error says, in one line.

    Example:
        >>> in_a_line(ValueError("index: 1\n  Got: 7"))
        'index: 1 Got: 7'
    """
    return " ".join(str(error).split())
