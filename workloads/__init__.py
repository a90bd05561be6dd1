"""Request traces over prefix-chained KV blocks: read, cut, generate, and laid out as panels."""

from workloads.errors import TraceError
from workloads.loading import known_traces, load
from workloads.materialise import materialise
from workloads.panel import Cell, Panel, describe, load_panel
from workloads.sessions import SessionSet
from workloads.trace import Trace

__all__ = [
    "Cell",
    "Panel",
    "SessionSet",
    "Trace",
    "TraceError",
    "describe",
    "known_traces",
    "load",
    "load_panel",
    "materialise",
]
