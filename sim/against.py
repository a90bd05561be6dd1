"""Sets a comparison against an earlier one of the same panel.

Knows the JSON of comparisons. Refuses a result of another panel, split or fingerprint: its numbers do not compare.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.comparison import Comparison
from sim.tables import table
from workloads.panel import Panel


@dataclass(frozen=True)
class Earlier:
    """A comparison read from a file.

    Attributes:
        file: Where from.
        panel, split, fingerprint: Of what panel it is.
        policies: As in `Comparison.to_dict`, by name.
    """

    file: Path
    panel: str
    split: str
    fingerprint: str
    policies: dict[str, dict[str, Any]]

    def refuse_another(self, panel: Panel) -> None:
        """Refuse a panel that is not the one of this comparison.

        Raises:
            ValueError: If it is another.
        """
        if self.fingerprint != panel.fingerprint:
            raise ValueError(
                f"{self.file}: is of panel {self.panel} {self.split}, fingerprint {self.fingerprint[:12]}, and this of"
                f" {panel.name} {panel.split}, fingerprint {panel.fingerprint[:12]}: traces, capacities or what counts"
                " differ, and so the numbers do not compare; fix: name the panel and split it was made with (--traces,"
                " --panel), or make it anew"
            )


def read_earlier(path: Path) -> Earlier:
    """Read what `kvevolve compare --json` printed, or the provenance.json of an evolution run (its validation).

    Raises:
        ValueError: If the file holds no comparison.
    """
    try:
        content = json.loads(path.read_bytes())
        content = content.get("validation", content)
        found = Earlier(path, content["panel"], content["split"], content["fingerprint"], dict(content["policies"]))
        for entry in found.policies.values():
            float(entry["combined_score"])
            if not all(type(tokens) is int for tokens in entry["hit_tokens"]):
                raise TypeError("hit_tokens")
            str(entry["source_sha256"])
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}; fix: check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path}: holds no comparison ({error}); fix: give what `kvevolve compare --json` printed"
        ) from None
    return found


def differences(now: Comparison, earlier: Earlier) -> dict[str, Any]:
    """Return what changed, fit for JSON.

    Args:
        now: A comparison.
        earlier: One of the same panel.

    Returns:
        Per policy that both have: scores, whether its source is the same, and hit tokens of the cells where they
        differ; and the policies that only one of them has.

    Raises:
        ValueError: If they are of different panels.
    """
    earlier.refuse_another(now.marks.panel)
    changed: dict[str, Any] = {}
    for name, digest, cells, score in zip(now.names, now.digests, now.cells, now.scores, strict=True):
        before = earlier.policies.get(name)
        if before is None:
            continue
        if len(before["hit_tokens"]) != len(cells):
            raise ValueError(f"{earlier.file}: policy {name!r} has {len(before['hit_tokens'])} cells, not {len(cells)}")
        moved = [
            {"trace": cell.trace, "capacity_blocks": cell.capacity_blocks, "before": tokens, "now": cell.hit_tokens}
            for cell, tokens in zip(cells, before["hit_tokens"], strict=True)
            if cell.hit_tokens != tokens
        ]
        changed[name] = {
            "same_source": digest == before["source_sha256"],
            "score_before": before["combined_score"],
            "score_now": score.combined,
            "cells_that_differ": moved,
        }
    return {
        "file": str(earlier.file),
        "policies": changed,
        "only_before": sorted(set(earlier.policies) - set(now.names)),
        "only_now": sorted(set(now.names) - set(earlier.policies)),
    }


def describe(found: dict[str, Any]) -> str:
    """Return differences as text."""
    rows = []
    for name, change in found["policies"].items():
        before, now = change["score_before"], change["score_now"]
        source = "same" if change["same_source"] else "changed"
        moved = len(change["cells_that_differ"])
        rows.append([name, source, f"{before:+.4f}", f"{now:+.4f}", f"{now - before:+.4f}", moved])
    lines = [f"against {found['file']}:"]
    if rows:
        lines.append(table(["policy", "source", "score before", "now", "difference", "cells that differ"], rows))
    for name, change in found["policies"].items():
        for cell in change["cells_that_differ"]:
            where = f"{cell['trace']}, {cell['capacity_blocks']:,} blocks"
            lines.append(f"{name}: {where}: hit tokens {cell['before']:,}, now {cell['now']:,}")
    lines += [f"only in it: {', '.join(found['only_before'])}"] * bool(found["only_before"])
    lines += [f"not in it: {', '.join(found['only_now'])}"] * bool(found["only_now"])
    return "\n".join(lines)
