"""The part of the traffic that is held out: read when a run reports, once for each policy, and every read logged.

Knows panels, comparisons and the log. Must not choose anything by what it reads.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from sim import jsonlines
from sim.comparison import Comparison, compare
from sim.journal import sha
from sim.policy.program import Policy

FILE = "held_out.jsonl"


def report(run_dir: Path, which: str, columns: Sequence[Policy], best: Policy) -> str:
    """Return the table of the held-out part, from the log if this policy was read on it before.

    Args:
        run_dir: Directory of the run, for the log.
        which: Name or file of the panel; its test split is read.
        columns: Policies to show, the best one among them.
        best: The policy that was chosen, without this part.

    Raises:
        ValueError: If the panel has no test split.
    """
    log = run_dir / FILE
    reads = jsonlines.read(log)
    known = next((entry["text"] for entry in reads if entry.get("policy_sha") == sha(best.source)), None)
    if known is not None:
        return str(known)
    text, content = _read(which, columns, best)
    if reads:
        text += f"\nread {len(reads) + 1} of this part in this run: other policies were shown on it before"
    entry = {"time": round(time.time(), 3), "read": len(reads) + 1, "policy_sha": sha(best.source), "text": text}
    jsonlines.append(log, entry | content)
    return text


def _read(which: str, columns: Sequence[Policy], best: Policy) -> tuple[str, dict[str, object]]:
    try:
        found = compare(list(columns), "test", which)
    except ValueError as error:
        if "no cell counts" not in str(error):
            raise
        return "HELD OUT: LRU is within one point of the optimum at every size, nothing could be won or lost", {}
    return f"{_head(found)}\n{found}\n\n{_verdict(found, best)}", {"comparison": found.to_dict()}


def _head(found: Comparison) -> str:
    panel = found.marks.panel
    return f"HELD OUT ({panel.name} {panel.split}, fingerprint {panel.fingerprint[:12]}, {panel.traffic})"


def _verdict(found: Comparison, best: Policy) -> str:
    scores = dict(zip(found.names, found.scores, strict=True))
    mine = scores[best.name].combined
    others = {name: score.combined for name, score in scores.items() if name not in ("seed", best.name)}
    rival = max(others, key=lambda name: others[name])
    verdict = "beats" if mine > max(others[rival], 0.0) else "does NOT beat"
    worse = [cell for cell in found.cells[found.names.index(best.name)] if cell.hit_tokens < cell.lru_hit_tokens]
    lines = [
        f"{best.name} {verdict} every baseline on the held-out part: {mine:+.4f}, best baseline {rival} "
        f"{others[rival]:+.4f}, vllm +0.0000"
    ]
    for cell in worse:
        lines.append(f"worse than LRU: {cell.trace}, {cell.capacity_blocks} blocks: {-100 * cell.lost:+.2f} points")
    return "\n".join(lines)
