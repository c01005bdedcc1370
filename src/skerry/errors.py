"""Errors meant for people. Each has one clear message, a remedy, and a documented exit code (docs/configuration.md).

Rules: anything a user can cause is a SkerryError; a broken assumption of our own is an `assert`.
"""

from __future__ import annotations


class SkerryError(Exception):
    """Base of all errors a user can meet. `exit_code` is what the command line ends with."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class ConfigError(SkerryError):
    """A configuration value is impossible, alone or together with others."""

    exit_code = 2


def cannot_work(name: str, value: object, allowed: str) -> ConfigError:
    """The error of a value that is impossible: its full name, and what may be given instead."""
    return ConfigError(f"{name} = {value!r} cannot work", remedy=allowed)


class DataError(SkerryError):
    """The training data is missing, empty or too short."""

    exit_code = 3


class RefusedError(SkerryError):
    """The other side refused us. `code`: certificate, or one that docs/protocol.md lists."""

    exit_code = 4

    def __init__(self, message: str, *, code: str = "", remedy: str = "") -> None:
        super().__init__(message, remedy=remedy)
        self.code = code


class UnreachableError(SkerryError):
    """The syncer cannot be reached, or an address cannot be listened on."""

    exit_code = 5


class RunDirError(SkerryError):
    """The run directory exists already, or holds no run that could be resumed."""

    exit_code = 6


class StorageError(SkerryError):
    """A disk or shared memory is full or cannot be written."""

    exit_code = 7


class ProtocolError(SkerryError):
    """A peer sent something the protocol does not allow; its connection ends."""

    exit_code = 8
