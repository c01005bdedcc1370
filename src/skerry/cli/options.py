"""How every command reads its options (by tyro): a dataclass whose fields are the options and whose docstring is the help.

A command that works on the config tree is read in two passes: the options that say where to start from (`start_from`),
then everything, with that as the defaults; so that --help shows the values as they stand.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from skerry.cli.complaints import in_one_line
from skerry.config.toml import read
from skerry.config.tree import Values, load
from skerry.fabric.tls import TlsConfig
from skerry.recipe.tree import PRESET, RunConfig

T = TypeVar("T")
R = TypeVar("R", bound=RunConfig)
Shown: TypeAlias = tyro.conf.AvoidSubcommands[T]
"""A part of the tree as flags: what may be none and is a table of its own (tls) is for the file."""


def hint(value: str) -> str:
    """What --help says of a default, unless there is none."""
    return "" if value == "None" else f"(default: {value})"


Maybe: TypeAlias = Annotated[T | None, tyro.conf.arg(help_behavior_hint=hint)]
"""A flag that need not be given: its help says what holds then."""
_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """An empty path is none, rather than the current folder."""
    if info.type is not Path:
        return None

    def read(given: list[str]) -> Path:
        if not given[0]:
            raise ValueError("it is empty")
        return Path(given[0])

    return PrimitiveConstructorSpec(nargs=1, metavar="PATH", instance_from_str=read,
                                    is_instance=lambda value: isinstance(value, Path),
                                    str_from_instance=lambda value: [str(value)])  # fmt: skip


@_REGISTRY.primitive_rule
def _texts(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[tuple[str, ...]] | None:
    """No texts are shown as "none", rather than as nothing at all."""
    if info.type != tuple[str, ...] or tyro.conf.UseAppendAction in info.markers:
        return None
    return PrimitiveConstructorSpec(nargs="*", metavar="[STR [STR ...]]", instance_from_str=tuple,
                                    is_instance=lambda value: isinstance(value, tuple),
                                    str_from_instance=lambda value: list(value) or ["none"])  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TlsOptions:
    """Encryption. Nothing given: plain TCP."""

    on: bool = False  # encrypt even if no file is named: certificates are checked against the system's authorities
    cert: str = ""  # own certificate (PEM)
    key: str = ""  # its key (PEM)
    ca: str = ""  # certificate of the authority that signed the other side's (PEM)

    def config(self) -> TlsConfig | None:
        """As the fabric wants it."""
        if not (self.on or self.cert or self.key or self.ca):
            return None
        return TlsConfig(cert=self.cert, key=self.key, ca=self.ca)


def parse(kind: type[T], arguments: Sequence[str], *, command: str, examples: str, default: T | None = None) -> T:
    """Read a command's options into the dataclass `kind`; what is not given is as in `default`, or in its fields.

    Raises ConfigError for a command line that cannot be read, and whatever the dataclasses raise. --data is short for
    --recipe.data.
    """
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    description = f"{cleandoc(kind.__doc__ or '')}\n\nexamples:\n{lines}"
    given = ["--recipe.data" + a.removeprefix("--data") if a.split("=")[0] == "--data" else a for a in arguments]

    def read(args: Sequence[str]) -> Any:
        return tyro.cli(kind, prog=f"skerry {command}", description=description, args=args, default=default,
                        config=(tyro.conf.DisallowNone,), registry=_REGISTRY)  # fmt: skip

    with in_one_line(command, given, lambda: read(["--help"])):
        found: T = read(given)
        return found


def start_from(kind: type[R], arguments: Sequence[str]) -> tuple[R, dict[str, Any]]:
    """The tree to start from, and what --config and --preset said. With --resume and without --config that is the run's own
    config.toml."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--config", "--preset", "--name"):
        first.add_argument(option)
    first.add_argument("--syncer.run-dir", "--run-dir", dest="run_dir")
    first.add_argument("--resume", "--syncer.resume", action="store_true")
    found, _ = first.parse_known_args(list(arguments))
    config = Path(found.config) if found.config else None
    named = [("--preset", {PRESET: found.preset})] if found.preset else []
    tree = load(kind, *([(str(config), read(config))] if config else []), *named)
    if config is None and found.resume:
        folder = Path(found.run_dir) if found.run_dir else tree.syncer.run_dir
        own = (Path("runs") / found.name if found.name else folder) / "config.toml"
        if own.exists():
            config, tree = own, load(kind, (str(own), read(own)), *named)
    return tree, {"config": config, "preset": found.preset}


def by_key(command: Any, flags: Mapping[str, str]) -> Values:
    """What the options say, by the key of the tree that each stands for (`flags`: the option's name by the key)."""
    return {key: value for key, name in flags.items() if (value := getattr(command, name)) is not None}
