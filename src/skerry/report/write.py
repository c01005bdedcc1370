"""From a run's directory to summary.json, report.html and report.png."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skerry.errors import ConfigError, StorageError
from skerry.report.figures import draw
from skerry.report.html import page
from skerry.report.summary import summarise
from skerry.store.metrics import read_figures, read_run
from skerry.store.records import Amounts, Summary, pretty


@dataclass(frozen=True, kw_only=True)
class Written:
    """What was written. `picture` is None, and `note` says why, if there could be no picture."""

    summary: Summary
    files: list[Path]
    note: str = ""

    @property
    def text(self) -> str:
        """The main figures and where everything is, for the terminal."""
        width = max(len(name) for name, _ in _lines(self.summary))
        lines = [f"{name:<{width}}  {value}" for name, value in _lines(self.summary)]
        return "\n".join([*lines, *(str(path) for path in self.files), *([self.note] if self.note else [])])


def write_report(run_dir: Path, data_sha256: str | None = None) -> Written:
    """Write all three; without matplotlib all but the picture. Raises RunDirError, StorageError."""
    state = read_run(run_dir, keep=None)
    summary = summarise(read_figures(run_dir), state, data_sha256)
    config, files = run_dir / "config.toml", [run_dir / "summary.json"]
    try:
        files[0].write_bytes(pretty(summary))
        try:
            picture, note = draw(run_dir.name, state, summary), ""
            (run_dir / "report.png").write_bytes(picture)
            files.append(run_dir / "report.png")
        except ConfigError as error:
            picture, note = None, str(error)
        text = page(run_dir.name, summary, config.read_text() if config.exists() else "", picture)
        (run_dir / "report.html").write_text(text)
        files.append(run_dir / "report.html")
    except OSError as error:
        raise StorageError(f"cannot write the report into {run_dir}: {error.strerror}",
                           remedy="free space there; everything it is made from is kept") from error  # fmt: skip
    return Written(summary=summary, files=files, note=note)


def _lines(summary: Summary) -> list[tuple[str, str]]:
    ours = (summary.bytes_up or 0) + (summary.bytes_down or 0)
    gaps = [one.max_gap_ratio for one in summary.per_learner if one.max_gap_ratio is not None]
    lines = [
        ("eval loss", f"{_figure(summary.eval_loss_first)} -> {_figure(summary.eval_loss)} nats per byte"),
        ("goodput", _figure(summary.goodput)),
        ("rounds", f"{_figure(summary.rounds)}, mean contributors {_figure(summary.mean_contributors)}"),
        ("tokens", f"{_figure(summary.tokens_processed)} processed = {_figure(summary.tokens_merged)} merged + "
                   f"{_figure(summary.tokens_pending)} pending + {_figure(summary.tokens_lost)} lost"),
        ("ledger", _exact(summary.ledger)),
        ("longest gap", f"{max(gaps):.2f} median steps" if gaps else "-"),
        ("traffic", f"{ours / 1e9:.2f} GB, data-parallel {(summary.data_parallel_bytes or 0) / 1e9:.2f} GB"),
        ("wall", f"{_figure(summary.wall_s)} s"),
    ]  # fmt: skip
    for fault in summary.faults:
        back = "the next version" if fault.target == "syncer" else "merged again"
        back = f", {back} after {fault.recovered_s:.1f} s" if fault.recovered_s is not None else ""
        lines.append(("fault", f"{fault.kind} {fault.target} at {fault.at_s:.1f} s{back}"))
    return lines


def _exact(ledger: Amounts | None) -> str:
    if ledger is None:
        return "-"
    return "exact" if ledger.processed == ledger.merged + ledger.pending + ledger.lost else "DOES NOT ADD UP"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
