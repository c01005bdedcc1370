"""`skerry lab`: one run in virtual time; `skerry lab sweep`: many. This file only finds which."""

from __future__ import annotations


def main(arguments: list[str]) -> int:
    """The command."""
    if arguments[:1] == ["sweep"]:
        from skerry.cli.lab.sweep import main as sweep

        return sweep(arguments[1:])
    from skerry.cli.lab.run import main as run

    return run(arguments)
