"""Fitted tables as a workload specification.

Knows the layout of a specification with one fitted source. Must not know how tables come about.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workloads.spec import FORMAT, VERSION, WorkloadSpec

FAMILY = "fitted"


def specification(name: str, tables: Mapping[str, Any], about: Mapping[str, Any]) -> WorkloadSpec:
    """Return the specification of traffic from fitted tables.

    Args:
        name: Name of the workload.
        tables: What :func:`workloads.fitted.fit` found.
        about: Where the real trace comes from: source, licence, citation.
    """
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "seed": 0,
        "requests": tables["requests"],
        "block_tokens": tables["block_tokens"],
        "about": dict(about),
        "sources": [{"family": FAMILY, "weight": 1, "parameters": {"tables": dict(tables)}}],
    }
    return WorkloadSpec.from_plain(content, name)
