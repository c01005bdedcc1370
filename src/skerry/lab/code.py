"""The hash of the code that a result depends on: what says whether a finished run may stand for one to be made.

Rules: static (nothing is imported) and the same in every process. Counted are the modules that are named, and everything
of the package that they import, at the top or inside a function; not what they import for types alone. Comments,
docstrings and layout do not count. The initialiser of a package counts where a name is imported from it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

PACKAGE = "skerry"


def code_hash(root: Path, starts: Iterable[str]) -> str:
    """Over the modules `starts` ("skerry.lab.run") of the package in the folder `root`, all they need, and torch's version."""
    digest = hashlib.sha256(f"torch {version('torch')}\n".encode())
    for name, path in sorted(closure(root, starts).items()):
        digest.update(f"{name} {_content(path)}\n".encode())
    return digest.hexdigest()


def closure(root: Path, starts: Iterable[str]) -> dict[str, Path]:
    """Every module of the package that is needed, and its file."""
    found: dict[str, Path] = {}
    waiting = list(starts)
    for name in waiting:
        assert _file(root, name), f"there is no module {name}"
    while waiting:
        name = waiting.pop()
        path = _file(root, name)
        if path is None or name in found:
            continue
        found[name] = path
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        waiting.extend(_imported(ast.parse(path.read_bytes()), package))
    return found


def _file(root: Path, name: str) -> Path | None:
    """The file of a module of the package; None for other packages, and for names that are no modules."""
    head, *rest = name.split(".")
    if head != PACKAGE:
        return None
    place = root.joinpath(*rest)
    return next((path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()), None)


def _imported(tree: ast.AST, package: str) -> Iterator[str]:
    """What might be modules among the names that are imported. Of `from a.b import c` that is both a.b and a.b.c."""
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        nodes: Iterable[ast.AST] = tree.orelse
    else:
        nodes = ast.iter_child_nodes(tree)
    if isinstance(tree, ast.Import):
        yield from (alias.name for alias in tree.names)
    elif isinstance(tree, ast.ImportFrom):
        above = package.split(".")[: len(package.split(".")) + 1 - tree.level] if tree.level else []
        home = ".".join([*above, *([tree.module] if tree.module else [])])
        yield home
        yield from (f"{home}.{alias.name}" for alias in tree.names)
    for node in nodes:
        yield from _imported(node, package)


def _content(path: Path) -> str:
    """What the file computes: its syntax tree, without the strings that stand for themselves (docstrings)."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            body[:] = [one for one in body if not _is_docstring(one)]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
