"""The library's errors as exceptions, with its sentences."""

from __future__ import annotations


class Moe4Error(RuntimeError):
    """Whatever the library reports; itself a mistake of the library's own."""


class UsageError(Moe4Error, ValueError):
    """An argument is wrong."""


class BadInputError(Moe4Error, ValueError):
    """A checkpoint, a file, a text or weights are bad."""


class UnavailableError(Moe4Error):
    """This machine cannot: device, memory, backend."""


_BY_STATUS: dict[int, type[Moe4Error]] = {2: UsageError, 3: BadInputError, 4: UnavailableError}


def error_of(status: int, line: str) -> Moe4Error:
    """The exception for a moe4_status and its line."""
    return _BY_STATUS.get(status, Moe4Error)(line)
