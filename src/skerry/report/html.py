"""report.html: one file that needs nothing else, with the picture and every figure of summary.json, and what each means."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import msgspec

from skerry.report.summary import FAULT_KEYS, KEYS, LEARNER_KEYS
from skerry.store.records import Record, Summary

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { margin-bottom: 0; } .sub { color: #666; margin-top: 0; } img { width: 100%; }
table { border-collapse: collapse; margin: 1em 0; font-size: 14px; }
td, th { border-bottom: 1px solid #ddd; padding: .25em .8em; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; } td.w { color: #666; }
.cards { display: flex; flex-wrap: wrap; gap: .8em; margin: 1.2em 0; }
.card { border: 1px solid #ddd; border-radius: 8px; padding: .5em 1em; } .card b { display: block; font-size: 22px; }
"""


def page(name: str, summary: Summary, config: str, picture: bytes | None) -> str:
    """The whole page. `config`: config.toml's text; `picture`: a PNG, or None."""
    image = base64.b64encode(picture).decode() if picture else ""
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Skerry: {escape(name)}</title>",
        f"<style>{STYLE}</style><h1>{escape(name)}</h1><p class='sub'>a Skerry run: decoupled DiLoCo, {summary.learners} "
        "learners</p>",
        _cards(summary),
        f"<img alt='loss, timeline, contributors, traffic' src='data:image/png;base64,{image}'>" if image else "",
        "<h2>Learners</h2>", _rows(summary.per_learner, LEARNER_KEYS),
        "<h2>Faults</h2>", _rows(summary.faults, FAULT_KEYS) if summary.faults else "<p>None struck.</p>",
        "<h2>All figures</h2>", _figures(summary),
        f"<h2>Configuration</h2><pre>{escape(config)}</pre></html>",
    ]  # fmt: skip
    return "\n".join(parts)


def _cards(summary: Summary) -> str:
    shown = [("eval_loss", "nats per byte at the end"), ("eval_loss_first", "at the beginning"), ("goodput", "goodput"),
             ("rounds", "rounds"), ("mean_contributors", "contributors a round"), ("wall_s", "seconds")]  # fmt: skip
    cards = [f"<div class='card'><b>{value(getattr(summary, key))}</b>{text}</div>" for key, text in shown]
    return f"<div class='cards'>{''.join(cards)}</div>"


def _rows(entries: Sequence[Record], keys: Iterable[str]) -> str:
    head = "".join(f"<th>{key}</th>" for key in keys)
    rows = ("".join(f"<td class='n'>{value(getattr(entry, key))}</td>" for key in keys) for entry in entries)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _figures(summary: Summary) -> str:
    rows = []
    for key, meaning in KEYS.items():
        if key not in ("per_learner", "faults"):
            figure = value(getattr(summary, key))
            rows.append(f"<tr><td>{key}</td><td class='n'>{figure}</td><td class='w'>{escape(meaning)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def value(figure: Any) -> str:
    """A figure as a person reads it."""
    if isinstance(figure, Record):
        figure = msgspec.structs.asdict(figure)
    if isinstance(figure, dict):
        return "<br>".join(f"{escape(key)} {value(item)}" for key, item in figure.items())
    if isinstance(figure, float):
        return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:.4g}"
    return f"{figure:,}" if isinstance(figure, int) else "" if figure is None else escape(str(figure))
