"""The reference part of docs/configuration.md, made from the dataclasses and errors themselves.

`python -m skerry.cli.reference docs/configuration.md` writes it between the file's two marker lines; a test fails when
the file is not what this would write. A key's meaning is the comment beside its field, or the docstring under it.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Container
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from skerry import errors
from skerry.errors import SkerryError

BEGIN, END = "<!-- made by skerry.cli.reference -->", "<!-- end of what it made -->"


def meanings(cls: type[Any]) -> dict[str, str]:
    """What each field of a dataclass means, as its source says."""
    source = inspect.getsource(cls)
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    lines, found = source.splitlines(), {}
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)):
            continue
        text = lines[(node.end_lineno or node.lineno) - 1][node.end_col_offset or 0 :].partition("#")[2].strip()
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            text = inspect.cleandoc(after.value.value).replace("\n", " ")
        found[node.target.id] = text
    return found


def tables(root: Any, prefix: str = "", without: Container[str] = ()) -> str:
    """A Markdown table of the tree's simple keys, then one for each part under its own heading; some parts left out."""
    means, hints, rows, parts = meanings(type(root)), get_type_hints(type(root)), [], []
    for field in fields(root):
        value = getattr(root, field.name)
        if field.name in without:
            continue
        if is_dataclass(value):
            parts.append(f"### `[{prefix}{field.name}]`\n\n{_intro(type(value))}\n\n{tables(value, f'{prefix}{field.name}.')}")
        else:
            shown = "" if field.default is field.default_factory is MISSING else f"`{_toml(value)}`"
            rows.append(f"| `{prefix}{field.name}` | {_kind(hints[field.name], field.type)} | {shown} | {means[field.name]} |")
    head = "| key | type | default | meaning |\n| --- | --- | --- | --- |\n"
    return "\n".join(([head + "\n".join(rows) + "\n"] if rows else []) + parts)


def exit_codes() -> str:
    """A Markdown table of what the command line may end with."""
    kinds = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, SkerryError) and e is not SkerryError]
    rows = ["| 0 | | it did what it was asked to |", "| 1 | `SkerryError` | anything not named below |"]
    for kind in sorted(kinds, key=lambda kind: kind.exit_code):
        rows.append(f"| {kind.exit_code} | `{kind.__name__}` | {_intro(kind)} |")
    rows.append("| 130 | | the user ended it (Ctrl-C) |")
    return "| code | error | meaning |\n| --- | --- | --- |\n" + "\n".join(rows) + "\n"


def written(document: str, root: Any, lab: Any) -> str:
    """The document with everything between the markers made anew. `root`, `lab`: the tree of a run and that of the lab."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    shared = {field.name for field in fields(lab)} & {field.name for field in fields(root)}
    note = 'Besides `[policy]` and `[recipe]`, which are as above, but for `recipe.model`, which is `"nano"`.'
    own = f"## Every key of the lab\n\n{note}\n\n{tables(lab, without=shared)}"
    made = f"\n## Exit codes\n\n{exit_codes()}\n## Every key\n\n{tables(root)}\n{own}"
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def _intro(cls: type[Any]) -> str:
    return inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")


def _kind(hint: Any, written: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(f'`"{choice}"`' for choice in get_args(hint))
    return f"`{written}`".replace("|", "\\|")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return f'"{value}"' if isinstance(value, str | Path) else str(value)


if __name__ == "__main__":
    from skerry.recipe.lab import LabConfig
    from skerry.recipe.tree import RunConfig

    path = Path(sys.argv[1])
    path.write_text(written(path.read_text(), RunConfig(), LabConfig()))
