"""Traces as Parquet files, for traces that do not fit in memory.

One row per request, in order of arrival, zstd. Version 2:

=============  =============  ==========================================================================================
arrival_s      double         seconds from any origin >= 0, not decreasing
input_tokens   int32          tokens of the prompt, >= 0
output_tokens  int32          generated tokens, >= 0
block_ids      list<uint64>   the prompt's full blocks, first block first: ``input_tokens // block_tokens`` ids, without
                              a partial tail. Any 64-bit numbers, hashes or dense; equal id, equal whole prefix
session        int32          optional, equal number, equal session; here and below -1 or null is unknown
turn           int32          optional, index of the request within its session, from 0
tenant         int32          optional
request_type   int32          optional, the source's own meaning
priority       int32          optional, the source's own meaning
=============  =============  ==========================================================================================

Other integer types are read too (ids of int64 as the same 64 bits), other columns are passed over. The file's metadata
has a key ``kvevolve`` with the manifest as JSON (:class:`workloads.manifest.Manifest`), with format and version. Knows
this layout; must not know caches.
"""

from workloads.formats import Head
from workloads.parquet.reader import ParquetTrace, open_parquet, read
from workloads.parquet.writer import write, write_batches

__all__ = ["ParquetTrace", "matches", "open_parquet", "read", "write", "write_batches"]

SUMMARY = "one row per request, for exchange and for what does not fit in memory"
SUFFIXES = (".parquet",)
KEEPS = ("session", "turn", "tenant", "request_type", "priority")


def matches(head: Head) -> bool:
    """Return whether a file is a Parquet file."""
    return head.raw[:4] == b"PAR1" or head.path.suffix == ".parquet"
