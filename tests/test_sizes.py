"""What fits on a screen can be read: no file of src over 400 lines, no function over 50 (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
from pathlib import Path

import skerry

HOME = Path(skerry.__file__).parent
FILE, FUNCTION = 400, 50


def too_long(home: Path) -> list[str]:
    """Every file and function of the folder that is too long, with its lines."""
    found = []
    for path in sorted(home.rglob("*.py")):
        text = path.read_text()
        if len(text.splitlines()) > FILE:
            found.append(f"{path.relative_to(home)}: {len(text.splitlines())} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION:
                    found.append(f"{path.relative_to(home)}, {node.name}: {lines} lines")
    return found


def test_no_file_and_no_function_is_too_long() -> None:
    assert too_long(HOME) == []


def test_what_is_too_long_is_named(tmp_path: Path) -> None:
    fits = "def fits():\n" + "    1\n" * (FUNCTION - 1)
    (tmp_path / "fits.py").write_text(fits + "1\n" * (FILE - FUNCTION))
    (tmp_path / "long.py").write_text(fits + "    1\n" + "1\n" * (FILE - FUNCTION))
    assert too_long(tmp_path) == ["long.py: 401 lines", "long.py, fits: 51 lines"]
