"""What the commands that reckon (simulate, plan) do with their figures: a table, one line of JSON, CSV, files with a picture.

Rules: stdout is the result alone, in one form: a table, or what --json or --csv asks for. --out DIR writes NAME.json,
NAME.csv and NAME.png besides. A missing matplotlib costs the picture and one line on stderr, nothing else.
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skerry.cli.options import Maybe
from skerry.errors import ConfigError, StorageError, cannot_work

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """In which form the figures come. Raises ConfigError where that cannot be."""

    json: bool = False  # print one line of JSON
    csv: bool = False  # print CSV
    out: Maybe[Path] = None  # folder for NAME.json, NAME.csv and the picture NAME.png

    def __post_init__(self) -> None:
        if self.json and self.csv:
            raise ConfigError("--json and --csv do not go together", remedy="give one; --out DIR writes both")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise cannot_work("--out", str(self.out), "it is a file: name a folder")


def emit(options: OutputOptions, name: str, rows: Rows, *, text: str = "", more: Mapping[str, Any] | None = None,
         draw: Callable[[], bytes] | None = None) -> None:  # fmt: skip
    """Print `rows` and write them. `text`: printed instead of the table of the rows; `more`: what the JSON holds besides
    {"rows": [...]}; `draw`: makes the picture's PNG, and raises ConfigError if matplotlib is missing. Raises StorageError."""
    as_json = json.dumps(finite({"rows": [dict(row) for row in rows], **(more or {})}), allow_nan=False)
    if options.json:
        print(as_json)
    elif options.csv:
        print(_csv(rows), end="")
    else:
        print(text or table(rows))
    if options.out is None:
        return
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.json").write_text(as_json + "\n")
        (options.out / f"{name}.csv").write_text(_csv(rows))
        if draw is not None:
            (options.out / f"{name}.png").write_bytes(draw())
    except ConfigError as error:
        print(f"skerry: {error}", file=sys.stderr)
    except OSError as error:
        raise StorageError(f"cannot write into {options.out}: {error.strerror}", remedy="free space there, or name another") \
            from error  # fmt: skip
    print(f"written to {options.out}", file=sys.stderr)


def table(rows: Rows) -> str:
    """Columns of equal width, numbers to the right."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [names, *([cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in names]
    lines = [[text.rjust(width) if number else text.ljust(width)
              for text, width, number in zip(line, widths, right, strict=True)] for line in cells]  # fmt: skip
    return "\n".join("  ".join(line).rstrip() for line in lines)


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _csv(rows: Rows) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def finite(value: Any) -> Any:
    """Without what JSON cannot hold: a number that is none is null."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
