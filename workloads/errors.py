"""The one exception of this package.

Knows how a refusal is worded. Must not know any file format or array layout.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TraceError(ValueError):
    """A trace, trace file or trace request is not usable as it stands; the message says why and what to do.

    Attributes:
        request: Index of the offending request (row), or None if the error is not about one request.
        field: Name of the offending field, or None.
    """

    def __init__(self, message: str, *, request: int | None = None, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.request = request
        self.field = field

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (self.message, self.request, self.field))


def _rebuild(message: str, request: int | None, field: str | None) -> TraceError:
    """Unpickle helper: keyword-only arguments do not survive the default protocol."""
    return TraceError(message, request=request, field=field)


def unknown_name(kind: str, name: str, known: Iterable[str]) -> TraceError:
    """Build the error for a name that is not in a fixed set, with a suggestion.

    Args:
        kind: What the name stands for, for example ``"trace"`` or ``"option"``.
        name: What was given.
        known: Every accepted name.

    Returns:
        The error, to be raised by the caller.
    """
    choices = sorted(known)
    close = get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return TraceError(f"unknown {kind} {name!r}: {hint}known: {', '.join(choices) or '(none)'}")
