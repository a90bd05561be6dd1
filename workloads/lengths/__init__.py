"""Traces of arrivals and lengths without block identity: Azure, BurstGPT, ServeGen.

They say when requests came and how long they were, not what they shared: no hit ratio follows from them. They are read
here, fitted by :func:`fit_lengths` into pieces of a workload specification, and refused by ``workloads.load``. Knows
which readers there are; must not know their formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import MappingProxyType

from workloads.errors import TraceError, unknown_name
from workloads.lengths.fitting import fit_lengths, specification
from workloads.lengths.trace import LengthTrace, RateTrace

__all__ = ["READERS", "LengthTrace", "RateTrace", "fit_lengths", "load", "specification"]

READERS: Mapping[str, str] = MappingProxyType(
    {
        "azure": "workloads.lengths.azure",
        "burstgpt": "workloads.lengths.burstgpt",
        "servegen": "workloads.lengths.servegen",
    }
)


def is_one(spec: str) -> bool:
    """Return whether what :func:`workloads.load` would be given names such a file, by its format or its contents."""
    from workloads import formats

    target = spec.partition("?")[0]
    kind, colon, _ = target.partition(":")
    if colon and kind in formats.MODULES:
        return kind in READERS
    return Path(target).exists() and formats.sniff(Path(target)) in READERS


def load(spec: str) -> LengthTrace | RateTrace:
    """Read arrivals and lengths.

    Args:
        spec: ``azure:FILE``, ``burstgpt:FILE``, ``servegen:FILE?workload=m-large`` or ``servegen:FOLDER``; without the
            format it is told from the contents.

    Raises:
        TraceError: unknown format or option, or whatever the reader refuses.
    """
    from workloads import formats

    target, _, query = spec.partition("?")
    kind, colon, rest = target.partition(":")
    if not (colon and kind in READERS):
        kind, rest = formats.sniff(Path(target)), target
    if kind not in READERS:
        raise unknown_name("format of lengths and rates", kind, READERS)
    options = dict(pair.partition("=")[::2] for pair in query.split("&") if pair)
    known = ("workload",) if kind == "servegen" else ()
    for key in options:
        if key not in known:
            raise unknown_name(f"option of {kind}", key, known)
    read: Callable[..., LengthTrace | RateTrace] = import_module(READERS[kind]).read_lengths
    return read(Path(rest), **options)


def refused(path: object, what: str) -> TraceError:
    """Return the refusal of such a file as a trace."""
    return TraceError(
        f"{path}: {what}: arrivals and lengths without block identity, so no request is known to share a prefix with"
        " another and there is no hit ratio to compute - fix: make a specification from it with kvevolve trace fit"
        " (its arrivals: and lengths), and generate a trace whose sharing you state yourself"
    )
