"""The record of a run: one SQLite store built from its raw logs, what can be read from it, and OpenEvolve's JSONL.

The logs are the record; the store is derived from them and can be deleted at any time.
"""

from sim.history.export import export
from sim.history.ingest import ingest
from sim.history.store import STORE, opened, query
from sim.history.summary import Summary, summarise

__all__ = ["STORE", "Summary", "export", "ingest", "opened", "query", "summarise"]
