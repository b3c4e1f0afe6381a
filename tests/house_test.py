"""The rules of the house that a linter does not know."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "tonsor"
FILES = sorted(path for path in SOURCE.rglob("*.py") if not path.name.endswith("_test.py"))
TESTS = sorted([*SOURCE.rglob("*_test.py"), *(ROOT / "tests").rglob("*.py")])
LEAVES = {"tensors", "masked", "flat", "norms", "sharded", "schedule", "files", "spelling", "modes"}
ATTACHED = {
    "attached",
    "attached_handle",
    "attached_clip",
    "attached_loan",
    "attached_masks",
    "attached_signs",
    "attached_where",
}
SCREENS = {"screen", "screen_compare", "screen_fit", "screen_pack", "screen_scan", "screen_width"}
SCREENS |= {"cli_compare", "cli_fit", "cli_stop"}
ROOMS = {"clip", "constrain", "compress", "prune", "shrink", "pack", "export", "report", "examples"}
PUBLIC = [
    (room, name, thing)
    for room in sorted(ROOMS)
    for name, thing in vars(importlib.import_module(f"tonsor.{room}")).items()
    if getattr(thing, "__module__", "").startswith("tonsor.") and callable(thing)
] + [
    (leaf, name, thing)
    for leaf in [
        *sorted(LEAVES),
        "attached",
        "attached_handle",
        "recipe.run",
        "recipe.read",
        "recipe.check",
        "recipe.losses",
        "integrations.figures",
    ]
    for name, thing in vars(importlib.import_module(f"tonsor.{leaf}")).items()
    if getattr(thing, "__module__", "") == f"tonsor.{leaf}" and not name.startswith("_")
    if getattr(thing, "__module__", "").startswith("tonsor.") and callable(thing)
]


def imported(path):
    """Return the parts of tonsor a file imports, at any level of it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tonsor"):
            inner = node.module.split(".")[1:2]
            names.update(inner or [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            names.update(a.name.split(".")[1] for a in node.names if a.name.startswith("tonsor."))
    return names - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_downwards(path):
    """cli -> screen, recipe -> rooms -> leaves -> torch; rooms do not know one another."""
    part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if part in LEAVES:
        allowed = LEAVES
    elif part in ROOMS:
        allowed = LEAVES | {part}
    elif part in ATTACHED:
        allowed = LEAVES | ATTACHED | {"clip"}  # it records in a clip.History
    elif part == "integrations":
        allowed = LEAVES | ATTACHED | {"clip", "recipe", "integrations"}  # and files a state as recipes do
    elif part == "recipe":
        allowed = LEAVES | ROOMS | {"recipe"}
    else:
        allowed = LEAVES | ROOMS | ATTACHED | {"recipe", "cli"} | SCREENS
    assert imported(path) <= allowed


@pytest.mark.parametrize("path", FILES + TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_is_longer_than_250_lines(path):
    assert len(path.read_text().splitlines()) <= 250


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_name_says_nothing(path):
    assert not {"utils", "helpers", "base", "core", "manager", "factory", "engine"} & set(
        path.relative_to(SOURCE).with_suffix("").parts
    )


@pytest.mark.parametrize("entry", PUBLIC, ids=lambda e: f"{e[0]}.{e[1]}")
def test_a_public_name_is_explained_with_a_doctest(entry):
    _, name, thing = entry
    text = inspect.getdoc(thing) or ""
    assert ">>> " in text, f"{name} has no doctest"
    assert text.splitlines()[0].endswith((".", "`.")), f"{name}: the first line is one sentence"


def test_there_are_public_names_to_look_at():
    assert len(PUBLIC) > 60


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_command_answers_without_torch():
    code = "import sys, tonsor.cli; print('torch' in sys.modules)"
    assert run(code).strip() == "False"


def test_the_rooms_need_torch_numpy_and_safetensors_alone():
    heavy = "typer rich pydantic jinja2 matplotlib onnx sklearn transformers accelerate pytorch_lightning"
    heavy += " constriction zstandard"
    rooms = "from tonsor import clip, compress, constrain, export, pack, prune, report, shrink, attach"
    found = run(f"import sys; {rooms}; print([m for m in '{heavy}'.split() if m in sys.modules])")
    assert found.strip() == "[]"


def proves(function, provers):
    """Say whether a test asserts something, by itself or by a helper of its file."""
    calls = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    names = {getattr(call, "attr", getattr(call, "id", "")) for call in calls}
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(function))
    return asserts or any("assert" in name or name in provers for name in names)


@pytest.mark.parametrize("path", TESTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_test_that_cannot_fail_is_no_test(path):
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    known = {"raises", "warns", "fails"}
    provers = known | {function.name for function in functions if proves(function, known)}
    silent = [f.name for f in functions if f.name.startswith("test_") and not proves(f, provers)]
    assert silent == []
