"""What every benchmark ends with: a table on stdout, bench/NAME.json, and an exit code that says whether the bars hold.

Rules: a row is one measured figure; `ok` says whether it keeps its bar (always True where it has none: a figure shown
for comparison). The JSON is a list of {name, value, unit, bar, ok}, written whole: a README can be filled from it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "bench"


@dataclass(frozen=True)
class Row:
    """One figure. `bar`: what it must keep, in words ("<= 3"); empty for a figure that is only shown."""

    name: str
    value: float | int | str
    unit: str = ""
    bar: str = ""
    ok: bool = True


def at_most(name: str, value: float, limit: float, unit: str = "") -> Row:
    """A row whose value must not exceed `limit`. NaN misses every bar."""
    return Row(name, value, unit, f"<= {limit:g}", value <= limit)


def at_least(name: str, value: float, limit: float, unit: str = "") -> Row:
    """A row whose value must reach `limit`. NaN misses every bar."""
    return Row(name, value, unit, f">= {limit:g}", value >= limit)


def report(name: str, rows: Sequence[Row]) -> int:
    """Print the table, write bench/NAME.json; 0 if every bar holds, else 1: `raise SystemExit(report(...))`."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps([_plain(row) for row in rows], indent=1, allow_nan=False) + "\n")
    lines = [(row.name, _shown(row.value), row.unit, row.bar, _mark(row)) for row in rows]
    widths = [max(len(line[i]) for line in [("figure", "value", "unit", "bar", ""), *lines]) for i in range(5)]
    for line in [("figure", "value", "unit", "bar", ""), *lines]:
        cells = (line[0].ljust(widths[0]), line[1].rjust(widths[1]), line[2].ljust(widths[2]), line[3].ljust(widths[3]))
        print("  ".join((*cells, line[4])).rstrip(), flush=True)
    missed = [row.name for row in rows if not row.ok]
    verdict = f"{len(missed)} bar(s) missed: {', '.join(missed)}" if missed else "every bar holds"
    print(f"bench {name}: {verdict}", flush=True)
    return 1 if missed else 0


def _plain(row: Row) -> dict[str, object]:
    plain = asdict(row)
    if isinstance(row.value, float) and not math.isfinite(row.value):
        plain["value"] = str(row.value)
    return plain


def _shown(value: float | int | str) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _mark(row: Row) -> str:
    return "" if not row.bar else "ok" if row.ok else "MISSED"
