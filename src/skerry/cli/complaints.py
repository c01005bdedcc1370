"""What is wrong with a command line, in one line that names the option, its value and what is allowed: tyro's errors as
ConfigErrors, and ConfigErrors in the words of the command line.

Rule: tyro tells what is wrong by events (`tyro._errors.on_parse_error`: made for this, though not promised for ever). Nothing
of what it prints is read but --help, for names like an unknown one. Without these events tyro's own words stand.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from skerry.errors import ConfigError

try:
    from tyro import _errors as events
except ImportError:  # another tyro
    events = None  # type: ignore[assignment]

_ALLOWED = {int: "a whole number", float: "a number", Path: "a path", str: "text"}


@contextlib.contextmanager
def in_one_line(command: str, given: Sequence[str], show_help: Callable[[], Any]) -> Iterator[None]:
    """Within it, a command line that tyro refuses is a ConfigError. `show_help`: prints the command's --help."""
    if events is None:
        yield
        return

    def hear(event: Any) -> None:
        if isinstance(event, events.MissingArgs) and not event.unrecognized_tokens:
            raise _missing(command, [one.arg for one in event.missing_arguments])
        if isinstance(event, events.MissingArgs | events.UnrecognizedArgs):
            tokens = event.tokens if isinstance(event, events.UnrecognizedArgs) else event.unrecognized_tokens
            raise _unknown(command, tokens, show_help)
        argument = getattr(event, "argument", None)
        if argument is not None and argument.is_positional():  # its place is there, but what stands there looks like an option
            strange = [one for one in given if one.startswith("-") and one.partition("=")[0] not in _options(show_help)]
            raise _unknown(command, strange, show_help) if strange else _missing(command, [argument])
        if argument is not None:
            raise _impossible(argument, given)

    with events.on_parse_error(hear):
        yield


@contextlib.contextmanager
def as_typed(command: Any, options: Mapping[str, str]) -> Iterator[None]:
    """Within it, a ConfigError about a name in `options` speaks of that option of `command` and of what was given for it."""
    try:
        yield
    except ConfigError as error:
        name, equals, rest = error.message.partition(" = ")
        if name not in options or not equals:
            raise
        value = getattr(command, options[name])
        if rest.endswith(" cannot work"):
            rest = f"{' '.join(map(str, value)) if isinstance(value, tuple) else value!r} cannot work"
        raise ConfigError(f"--{options[name].replace('_', '-')} = {rest}", remedy=error.remedy) from error


def _missing(command: str, arguments: Sequence[Any]) -> ConfigError:
    first = arguments[0]
    name = first.lowered.metavar if first.is_positional() else first.lowered.name_or_flags[0]
    text = first.field.helptext() if callable(first.field.helptext) else first.field.helptext
    about = " ".join((text or "").split()).rstrip(".")
    return ConfigError(f"{command} needs {name}: {about}", remedy=f"skerry {command} --help tells more")


def _unknown(command: str, tokens: Sequence[str], show_help: Callable[[], Any]) -> ConfigError:
    name = next((token for token in tokens if token.startswith("-")), tokens[0])
    if not name.startswith("-"):
        return ConfigError(f"{command} takes no argument {name!r} here", remedy=f"skerry {command} --help tells what it takes")
    name = name.partition("=")[0]
    near = get_close_matches(name, _options(show_help), n=3)
    remedy = f"did you mean {' or '.join(near)}? " if near else ""
    return ConfigError(f"{command} has no option {name}", remedy=f"{remedy}skerry {command} --help tells all")


def _options(show_help: Callable[[], Any]) -> list[str]:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        show_help()
    return sorted(set(re.findall(r"(?<!\S)--[a-z][\w.-]*", text.getvalue())))


def _impossible(argument: Any, given: Sequence[str]) -> ConfigError:
    """What was given last for an option, and what its type allows."""
    flags, values = list(argument.lowered.name_or_flags), list[str]()
    name = flags[-1]
    for place, token in enumerate(given):
        flag, equals, value = token.partition("=")
        if flag.replace("_", "-") in flags:
            name, after = flag, given[place + 1 :]
            end = next((i for i, other in enumerate(after) if other.startswith("--")), len(after))
            values = [value] if equals else list(after[:end])
    allowed = _allowed(argument.field.type_stripped)
    if not values:
        return ConfigError(f"{name} has no value", remedy=allowed)
    return ConfigError(f"{name} = {' '.join(values)!r} cannot work", remedy=allowed)


def _allowed(kind: Any) -> str:
    """In words: what a value of that type looks like."""
    origin, parts = get_origin(kind), [part for part in get_args(kind) if part is not type(None)]
    if origin is Literal:
        return f"choose one of {', '.join(map(str, parts))}"
    if origin is tuple:
        count = "" if Ellipsis in parts else f" {len(parts)}"
        return f"give{count} values apart by spaces, each {_ALLOWED.get(parts[0], 'a value')}"
    if parts:  # X | None
        return _allowed(parts[0])
    return f"give {_ALLOWED.get(kind, 'a value that it takes')}"
