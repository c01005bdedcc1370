"""What the core may import, and what `import skerry` may not drag in. In fresh interpreters: this one has everything."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import skerry

HOME = Path(skerry.__file__).parent
CORE = [*sorted((HOME / "core").glob("*.py")), HOME / "errors.py"]
IMPURE = {"time", "datetime", "random", "secrets", "socket", "select", "selectors", "asyncio", "threading", "multiprocessing",
          "concurrent", "subprocess", "os", "pathlib", "io", "uuid"}  # fmt: skip
LOADED_BY_DATACLASSES = {"os", "io", "time"}


def loaded(code: str) -> set[str]:
    """The top-level names of all modules that are loaded after `code` and not by the bare interpreter itself."""
    before = f"import sys; sys.path.insert(0, {str(HOME.parent)!r}); bare = set(sys.modules)"
    program = f"{before}\n{code}\nprint(*(set(sys.modules) - bare))"
    # -S: without the site-packages' own start-up files
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_the_core_needs_nothing_but_the_standard_library_and_no_clock_chance_or_socket() -> None:
    modules = ", ".join(f"skerry.core.{path.stem}" for path in CORE if path.parent.name == "core" and path.stem != "__init__")
    names = loaded(f"import {modules}")
    assert names - sys.stdlib_module_names == {"skerry"}
    assert not names & (IMPURE - LOADED_BY_DATACLASSES)


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_no_file_of_the_core_imports_what_it_must_not(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.split(".")[0]
            assert top not in IMPURE and (top in sys.stdlib_module_names or name.startswith(("skerry.core", "skerry.errors")))


@pytest.mark.parametrize("code", ["import skerry; dir(skerry)", "from skerry import Policy, SkerryError, preset"])
def test_import_skerry_loads_neither_torch_nor_numpy(code: str) -> None:
    assert loaded(code) - sys.stdlib_module_names == {"skerry"}


@pytest.mark.parametrize(
    "arguments",
    [["simulate", "rounds", "--params", "24", "--steps", "2", "--rule", "grace"], ["plan", "--help"], ["train", "--help"],
     ["simulate", "rounds", "--help"], ["lab", "--learners", "0"], ["status", "nowhere"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_without_tensors_starts_without_torch(arguments: list[str], tmp_path: Path) -> None:
    """With site-packages, as its commands need some; and with what the command prints before the last line."""
    program = f"import sys, skerry.cli\ntry: skerry.cli.main({arguments!r})\nexcept SystemExit: pass\nprint(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(HOME.parent)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path,
                          env=environment)  # fmt: skip
    modules = set(done.stdout.splitlines()[-1].split())
    assert "skerry.cli.options" in modules and "torch" not in modules


def test_all_that_is_public_can_be_had_and_nothing_else() -> None:
    for name in skerry.__all__:
        assert getattr(skerry, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = skerry.Nothing
