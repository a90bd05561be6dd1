"""How far long work on a trace is, told to whoever listens.

Knows a name, a count and a total. Must not know terminals: whoever wants to see progress wraps the call in
`listening(sink)`. Nobody listening costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Sink = Callable[[str, float, float | None], None]
"""Called with what is being done, how much of it is done, and of how much (None: unknown)."""

_SINK: ContextVar[Sink | None] = ContextVar("progress", default=None)


@contextmanager
def listening(sink: Sink) -> Iterator[None]:
    """Send what is told in this block to `sink`, which is called often and thins the calls out itself."""
    token = _SINK.set(sink)
    try:
        yield
    finally:
        _SINK.reset(token)


def tell(what: str, done: float, total: float | None = None) -> None:
    """Tell how far the work is; a no-op if nobody listens.

    Args:
        what: The work and its unit, for example ``"reading trace.jsonl, MB"``.
        done: How much of it is done.
        total: Of how much, None if unknown.
    """
    sink = _SINK.get()
    if sink is not None:
        sink(what, done, total)
