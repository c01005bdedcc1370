"""The hash of the code: it changes with whatever a run depends on, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

import skerry
from skerry.lab.code import closure, code_hash

FILES = {
    "__init__.py": "from skerry.unneeded import x\n",
    "start.py": '"""Doc."""\nimport skerry.plain\nfrom skerry.pack import name\nfrom typing import TYPE_CHECKING\n'
                "if TYPE_CHECKING:\n    from skerry.types import T\n"
                "def late():\n    from skerry.late import x\n    return x\n",
    "plain.py": "from . import near\nfrom .pack.deep import y\n\n\ndef f(a):\n    return a + 1\n",
    "near.py": "import numpy\n",
    "late.py": "x = 1\n",
    "types.py": "T = int\n",
    "unneeded.py": "x = 1\n",
    "pack/__init__.py": "from skerry.pack.inner import name\n",
    "pack/inner.py": "name = 1\n",
    "pack/deep.py": "from ..near import z\ny = 1\n",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "skerry" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "skerry"


def test_needed_is_what_is_imported_anywhere_but_for_types(root):
    names = {"start", "plain", "near", "late", "pack", "pack.inner", "pack.deep"}
    # `from . import near` names the package itself, and so its initialiser and what that imports.
    assert set(closure(root, ["skerry.start"])) == {"skerry", "skerry.unneeded", *(f"skerry.{name}" for name in names)}


def test_a_module_that_imports_only_modules_needs_no_initialiser(root):
    assert set(closure(root, ["skerry.pack.deep"])) == {"skerry.pack.deep", "skerry.near"}


@pytest.mark.parametrize("name", ["start.py", "plain.py", "late.py", "pack/inner.py"])
def test_it_changes_with_the_code_of_anything_needed(root, name):
    before = code_hash(root, ["skerry.start"])
    (root / name).write_text(FILES[name].replace("1", "2") + "\nmore = 1\n")
    assert code_hash(root, ["skerry.start"]) != before


def test_it_does_not_change_with_words_and_layout(root):
    before = code_hash(root, ["skerry.start"])
    (root / "start.py").write_text(FILES["start.py"].replace('"""Doc."""', '"""Another."""\n\n# a comment'))
    longer = '    """What it does."""\n    return (a +\n            1)  # so'
    (root / "plain.py").write_text(FILES["plain.py"].replace("    return a + 1", longer))
    (root / "late.py").write_text('x = 1\n"""What x is."""\n')
    assert code_hash(root, ["skerry.start"]) == before


def test_it_does_not_change_with_what_is_not_needed(root):
    before = code_hash(root, ["skerry.pack.deep"])
    (root / "types.py").write_text("T = str\n")
    (root / "plain.py").write_text("raise SystemExit\n")
    assert code_hash(root, ["skerry.pack.deep"]) == before


def test_a_string_that_is_a_value_counts(root):
    before = code_hash(root, ["skerry.late"])
    (root / "late.py").write_text("x = '1'\n")
    assert code_hash(root, ["skerry.late"]) != before


def test_a_run_depends_on_the_core_and_not_on_the_command_line():
    names = closure(Path(skerry.__file__).parent, ["skerry.lab.run", "skerry.recipe.task"])
    assert {"skerry.core.syncer", "skerry.core.learner", "skerry.core.policy", "skerry.world.world", "skerry.numerics.outer",
            "skerry.recipe.model", "skerry.recipe.data"} <= names.keys()  # fmt: skip
    assert not [name for name in names if name.startswith(("skerry.cli", "skerry.launch", "skerry.report", "skerry.lab.sweep"))]
