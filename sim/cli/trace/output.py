"""What the actions that write a trace have in common: where to, in which format, and what to say about its origin.

Knows arguments and files; must not know what was done to the trace.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from workloads.trace import Trace

SUFFIXES = "told by its suffix, see `kvevolve trace formats`, or by --to"


def add_output(action: Any, flag: bool = False, required: bool = True) -> None:
    """Add the file and what goes with it.

    Args:
        action: Parser of an action.
        flag: The file is an option, -o, not the last argument.
        required: Whether that option must be given.
    """
    names = ("-o", "--output") if flag else ("output",)
    more = {"required": required, "metavar": "FILE"} if flag else {}
    action.add_argument(*names, type=Path, help=f"file to write; its format is {SUFFIXES}", **more)
    action.add_argument("--to", metavar="FORMAT", help="format to write (default: as the suffix says)")
    action.add_argument("--name", help="name of the trace")
    action.add_argument("--source", help="where it comes from, for the manifest (default: as the trace says)")
    action.add_argument("--licence", help="under which it may be used, for the manifest")
    action.add_argument("--citation", help="what to cite, for the manifest")


def check(options: argparse.Namespace) -> None:
    """Refuse a file that could not be written, before the work.

    Raises:
        TraceError: no such format.
        OSError: the file cannot be written.
    """
    from workloads import formats
    from workloads.atomic import check_writable

    formats.writer(options.output, options.to)
    check_writable(options.output)


def write(trace: Trace, options: argparse.Namespace) -> int:
    """Write a trace as asked for and say so on stderr; return the exit code."""
    from workloads import formats
    from workloads.manifest import stated
    from workloads.trace import OPTIONAL_COLUMNS

    trace = trace.renamed(options.name) if options.name else trace
    trace = stated(trace, source=options.source, licence=options.licence, citation=options.citation)
    target = formats.writer(options.output, options.to)
    with _terminable():
        target.write(trace, options.output)
    print(f"{options.output}: {trace!r}", file=sys.stderr)
    left_out = [name for name in OPTIONAL_COLUMNS if name in trace.columns() and name not in target.KEEPS]
    if left_out:
        print(f"left out, the format has no place for it: {', '.join(left_out)}", file=sys.stderr)
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a request to end (SIGTERM) be an interrupt, so that what is half written goes."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: who started it handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
