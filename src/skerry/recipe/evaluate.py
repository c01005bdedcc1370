"""The process that evaluates the global model while the run goes on:  python -m skerry.recipe.evaluate RUN_DIR

SIGTERM: evaluate the last snapshot, then end. Rules: one thread, low priority: it disturbs nobody. The signal is taken
before the imports that take seconds, since a short run may be over by then.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from skerry.errors import SkerryError

NICE = 10  # not 19: beside two busy trainers on its core that would be less than a hundredth of it


def main(arguments: list[str]) -> int:
    """The process."""
    told, tell = os.pipe()  # a threading.Event set by a handler may wait for itself
    signal.signal(signal.SIGTERM, lambda number, frame: os.write(tell, b"."))
    os.nice(NICE)
    import torch

    from skerry.recipe.evaluator import watch

    torch.set_num_threads(1)
    try:
        watch(Path(arguments[0]), lambda seconds: bool(select.select([told], [], [], seconds)[0]))
    except SkerryError as error:
        print(f"skerry: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
