"""`make figures`: redraws the pictures of docs/, each by the command that its page names (seconds).

Those of a run are taken from it, if it was made here: docs/demo.png from `make demo`, docs/results/quality.png from `python -m
benchmarks.quality` (hours).
"""

from __future__ import annotations

import io
import shutil
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from skerry.cli import main as skerry

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"
COMMANDS = (
    "simulate goodput --chips 150k,300k,600k,1.2M,2.4M --learners 1,2,4,8,16 --kind rigid,decoupled",
    "simulate rounds",
    "simulate bandwidth",
    "simulate scavenging --published",
    f"plan {ROOT / 'examples' / 'fleet.toml'}",
)
OF_RUNS = {"docs/demo.png": "runs/demo/report.png", "docs/results/quality.png": "bench/lab/quality.png"}


def main() -> int:
    """Draw all."""
    PICTURES.mkdir(exist_ok=True)
    for command in COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            print(f"skerry {command}", flush=True)
            said = io.StringIO()
            with redirect_stdout(said), redirect_stderr(said):
                code = skerry([*command.split(), "--out", folder])
            if code:
                print(said.getvalue(), end="")
                return code
            for picture in Path(folder).glob("*.png"):
                shutil.move(picture, PICTURES / picture.name)
    for picture, drawn in OF_RUNS.items():
        if (ROOT / drawn).exists():
            shutil.copyfile(ROOT / drawn, ROOT / picture)
        print(f"{picture}: " + ("taken" if (ROOT / drawn).exists() else "as it was") + f" from {drawn}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
