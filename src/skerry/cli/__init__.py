"""The command line: `skerry COMMAND`. This file only finds the command and turns errors into one line and an exit code.

Rules: whatever a user can cause ends with one line on stderr and the exit code of its error (errors.py), never with a
traceback; a command's module is imported when it is called, so that `skerry status` does not wait for torch.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from skerry import __version__
from skerry.errors import SkerryError, StorageError

COMMANDS = {
    "train": "train a model on this machine: a syncer and several learners, from start to report",
    "syncer": "run a syncer alone; learners join it from anywhere",
    "join": "join a syncer with one learner of the reference recipe",
    "lab": "train with many learners in one process, in virtual time: experiments and sweeps",
    "simulate": "reckon with fleets before you have them: bandwidth, scavenged compute, failures",
    "plan": "choose sites, learners and policy for a fleet: time, cost, what limits it, and the config.toml",
    "sample": "write text with a model that a run exported",
    "status": "say how a run is doing",
    "readmit": "let a quarantined learner in again",
}
INTERRUPTED = 130

_HELP = """usage: skerry COMMAND [OPTIONS]

Train one model on islands of compute that come, go, slow down and fail; no learner ever waits for another.

commands:
{commands}

examples:
  skerry train                                         four learners on this machine, a small model, real text
  skerry train --config examples/demo.toml             the same from a file, with faults
  skerry syncer --run-dir runs/shared --host 0.0.0.0   a syncer for learners elsewhere
  skerry join 10.0.0.5:7000 --token-file token         one learner for it
  skerry lab --method diloco --fault-rate 0.1          what would become of it: any speeds, links and faults, one process

skerry COMMAND --help tells a command's options; skerry --version the version."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; gives the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(_HELP.format(commands="\n".join(f"  {name:<8} {text}" for name, text in COMMANDS.items())))
        return 0
    if given[0] in ("-V", "--version"):
        print(f"skerry {__version__}")
        return 0
    if given[0] not in COMMANDS:
        print(f"skerry: there is no command {given[0]!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        command: Callable[[list[str]], int] = import_module(f"skerry.cli.{given[0]}").main
        code = command(given[1:])
        sys.stdout.flush()  # here, where what goes wrong with it can still be said
        return code
    except SkerryError as error:
        print(f"skerry: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        if arguments is None:  # a second Ctrl-C, while Python winds up, ends it without a traceback
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has gone
        _drop_output()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        _drop_output()
        print(f"skerry: cannot write the output: {error.strerror}; free space where it goes", file=sys.stderr)
        return StorageError.exit_code


def _drop_output() -> None:
    """So that what is left of it does not fail once more when Python winds up."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
