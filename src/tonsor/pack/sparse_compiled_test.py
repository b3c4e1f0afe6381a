from concurrent.futures import ThreadPoolExecutor

import pytest

from tonsor.pack import sparse_compiled
from tonsor.pack.sparse_compiled import cache_folder, compiled, find_compiler, load

SLOW = """#!/bin/sh
[ "$1" = --version ] && echo slow && exit 0
echo run >> {folder}/runs
for argument; do out=$argument; done
head -c 1000 {library} > "$out"
sleep 0.3
cat {library} > "$out"
"""


def program(folder, text):
    """Write a program that takes a compiler's place."""
    path = folder / "compiler"
    path.write_text(text.format(folder=folder, library=compiled().told))
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def folder(tmp_path):
    if compiled().call is None:
        pytest.skip(compiled().told)
    return tmp_path


def test_two_at_once_compile_into_the_same_folder_without_meeting(folder):
    compiler = program(folder, SLOW)
    libraries = folder / "libraries"
    libraries.mkdir()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: load(compiler, libraries), range(3)))
    assert all(kernel.call is not None for kernel in found)
    assert len({kernel.told for kernel in found}) == 1
    assert [path.suffix for path in libraries.iterdir()] == [".so"]


def test_what_is_compiled_is_not_compiled_again(folder):
    compiler = program(folder, SLOW)
    assert load(compiler, folder).told == load(compiler, folder).told
    assert (folder / "runs").read_text() == "run\n"


def test_another_processor_has_a_library_of_its_own(folder, monkeypatch):
    compiler = program(folder, SLOW)
    first = load(compiler, folder).told
    monkeypatch.setattr(sparse_compiled, "_processor", lambda: "another one")
    assert load(compiler, folder).told != first


def test_a_compiler_that_fails_is_told_and_leaves_nothing(folder):
    compiler = program(folder, "#!/bin/sh\n[ $1 = --version ] && exit 0\necho no such thing >&2; exit 1\n")
    found = load(compiler, folder)
    assert found.call is None
    assert "no such thing" in found.told
    assert [path.name for path in folder.iterdir()] == ["compiler"]


def test_a_library_that_does_not_load_is_told(folder):
    compiler = program(folder, SLOW.replace("cat {library}", "echo nonsense"))
    found = load(compiler, folder)
    assert found.call is None
    assert "could not be compiled" in found.told


def test_without_a_compiler_there_is_no_kernel(monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    assert find_compiler() is None
    compiled.cache_clear()
    assert compiled().told.startswith("no C++ compiler")
    compiled.cache_clear()


def test_the_cache_is_this_users_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "tonsor"
    assert cache_folder().stat().st_mode & 0o077 == 0
    (tmp_path / "tonsor").chmod(0o777)  # anybody could put a library there
    assert cache_folder() != tmp_path / "tonsor"
