"""The kernel that multiplies with a sparse weight: compiled when it is first wanted, for this processor."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("sparse_kernel.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=fast", "-fno-tree-slp-vectorize", "-w")
FOR_HERE = (  # tried in this order: not every compiler knows every flag
    ("-march=native", "-mprefer-vector-width=512", "-fopenmp"),
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    (),
)
SECONDS = 120  # a compiler that takes longer hangs


@dataclass(frozen=True)
class Compiled:
    """Hold the compiled kernel, or say why there is none.

    Args:
        call: The function of the library, or None.
        told: Where the library lies, or why there is none.

    Example:
        >>> Compiled(None, "no C++ compiler").call is None
        True
    """

    call: Callable[..., Any] | None
    told: str


@cache
def compiled() -> Compiled:
    """Return the kernel, compiled for this processor if it is not in the cache folder yet.

    Nothing happens at import: the first call compiles, which takes about three seconds, and files the
    library under `$XDG_CACHE_HOME/tonsor` (`~/.cache/tonsor`), by a name that holds what it was made of and
    for. It is written under another name and then renamed, so that two processes do not meet. `CXX` names
    the compiler.

    Returns:
        The kernel; without one where no compiler is found or it fails.

    Example:
        >>> isinstance(compiled().told, str)
        True
    """
    compiler = find_compiler()
    if compiler is None or os.name != "posix":
        return Compiled(None, "no C++ compiler was found (CXX, c++, g++, clang++; Linux or macOS)")
    return load(compiler, cache_folder())


def find_compiler() -> str | None:
    """Return the path of a C++ compiler, if there is one.

    Example:
        >>> find_compiler() is None or Path(find_compiler()).exists()
        True
    """
    named = os.environ.get("CXX")
    found = (shutil.which(name) for name in ([named] if named else COMPILERS))
    return next((path for path in found if path), None)


def cache_folder() -> Path:
    """Return a folder that only this user can write, since what lies in it is run.

    Example:
        >>> cache_folder().is_dir()
        True
    """
    wanted = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "tonsor"
    try:
        wanted.mkdir(parents=True, exist_ok=True, mode=0o700)
        about = wanted.stat()
        if about.st_uid == os.getuid() and not about.st_mode & 0o022 and os.access(wanted, os.W_OK):
            return wanted
    except (OSError, RuntimeError):  # no home, or nothing can be written there
        pass
    return Path(tempfile.mkdtemp(prefix="tonsor-"))


def load(compiler: str, folder: Path, /) -> Compiled:
    """Return the kernel of a folder, which is compiled into it first if it is not there.

    Args:
        compiler: Path of a C++ compiler.
        folder: Where libraries are kept.

    Returns:
        The kernel; without one where compiling or loading fails.

    Example:
        >>> load("/no/such/compiler", Path(tempfile.mkdtemp())).call is None
        True
    """
    try:
        library = folder / f"sparse-{_made_of(compiler)}.so"
        if not library.exists():
            _compile(compiler, library)
        call = ctypes.CDLL(str(library)).tonsor_sparse
    except (OSError, AttributeError, subprocess.SubprocessError) as error:
        return Compiled(None, f"the kernel could not be compiled: {error}")
    call.restype = None
    call.argtypes = [ctypes.c_void_p] * 8
    return Compiled(call, str(library))


def _made_of(compiler: str) -> str:
    """Return a name for what a library is made of: source, compiler, flags and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=SECONDS, check=True).stdout
    parts = [SOURCE.read_bytes(), version, repr((FLAGS, FOR_HERE)).encode(), _processor().encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:24]


def _processor() -> str:
    """Return what tells processors apart: a home folder may be shared by several machines."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    told = {line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))}
    return "\n".join([platform.machine(), platform.processor(), *sorted(told)])


def _compile(compiler: str, library: Path) -> None:
    """Write the library whole or not at all, with the best flags that the compiler takes."""
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        for flags in FOR_HERE:
            command = [compiler, *FLAGS, *flags, str(SOURCE), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=False)
            if done.returncode == 0:
                made.replace(library)
                return
    raise OSError(f"{compiler} says: {done.stderr.decode(errors='replace').strip()[-500:]}")
