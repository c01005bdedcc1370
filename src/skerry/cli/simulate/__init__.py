"""`skerry simulate WHAT`: fleets without tensors. This file only finds the command."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = {
    "goodput": "how much of a fleet's time trains, when chips fail",
    "rounds": "unequal learners through the real core: goodput, contributors, waiting, traffic",
    "bandwidth": "what training asks of the links between sites",
    "scavenging": "what extra learners bring that come for parts of the time",
}

_HELP = """usage: skerry simulate WHAT [OPTIONS]

Reckon with fleets before you have them: no tensors, virtual time, results in seconds.

{commands}

examples:
  skerry simulate goodput --chips 150k,1.2M --learners 1,8     how much of a fleet's time trains
  skerry simulate rounds --speeds 1,0.5 --link 100ms,1Gbit     two kinds of machines, one in two half as fast
  skerry simulate bandwidth --params 12B --latency 50ms        which links a model of 12B parameters needs
  skerry simulate scavenging --published                       what extra learners bring, beside published figures

Each prints a table, with --json or --csv the same for programs; --out DIR writes both and a picture.
skerry simulate WHAT --help tells its options and what its figures are."""


def main(arguments: list[str]) -> int:
    """The command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_HELP.format(commands="\n".join(f"  {name:<11} {text}" for name, text in COMMANDS.items())))
        return 0
    if arguments[0] not in COMMANDS:
        print(f"skerry: there is no simulate {arguments[0]!r}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        result: int = import_module(f"skerry.cli.simulate.{arguments[0]}").main(arguments[1:])
    except KeyboardInterrupt:
        print("skerry: interrupted; nothing of it is kept", file=sys.stderr)
        raise
    return result
