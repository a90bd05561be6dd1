"""Decisions of one kind, judged: how many were mistakes, in which groups, what tells the costly ones, the costliest.

Knows logs of decisions and fields of the contract; what a mistake is, `sim.explanation` says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt

from sim.core import fields
from sim.core.view import TICKS_PER_S
from sim.groups import Bools, Group, auc, by_label, by_size
from sim.shadow import Foreknowledge, Shadowed
from workloads.trace import Trace

Entries = npt.NDArray[np.void]

CLOCKS = ("last_access", "last_access_s", "inserted", "inserted_s", "released")
"""Fields whose value means nothing but in comparison with another block's; `age` and `residence` stand for them."""

NOT_THERE = ("residence", "residence_s")
"""Further fields without meaning for a block that is not in the cache."""

LABELS = {"turn": "turn", "tenant": "tenant", "type": "request_type"}
"""Fields known only if the trace has the column."""


@dataclass(frozen=True)
class Separation:
    """How one field of the contract tells costly decisions from the others.

    Costly are evictions and bypasses that lose a hit block, and blocks admitted in vain.

    Attributes:
        field: "block.age", "request.new_blocks", ...
        auc: P(its value in a costly decision > in another), ties half. 0.5 tells nothing.
        costly: Median in costly decisions.
        others: Median in the others.
        instead_higher: Evictions only: share of the costly ones in which the oracle's choice had a higher value than
            the block evicted, ties half; what a priority should have seen.
    """

    field: str
    auc: float
    costly: float
    others: float
    instead_higher: float | None = None


@dataclass(frozen=True)
class Costly:
    """Mistakes made for one request, regretted by the same later one.

    Attributes:
        request: Index of the request decided for.
        asked_by: Index of the request that asks for them next; None for blocks admitted in vain.
        blocks: How many.
        block: Id of the first of them in the prefix, in the trace's numbering.
        values: Fields of that block at the decision.
        instead: Id of the block the oracle would have evicted; None for admissions.
    """

    request: int
    asked_by: int | None
    blocks: int
    block: int
    values: Mapping[str, int]
    instead: int | None


@dataclass(frozen=True)
class Decisions:
    """All decisions of one kind.

    Attributes:
        decisions: How many.
        mistakes: Of them, see the module.
        hit_blocks_lost: By the mistakes.
        groups: By field, for each field the trace has.
        separations: Fields by |auc - 0.5|, most telling first; fields that never vary are left out.
        sampled_every: Separations read every so many-th decision.
        costliest: Dearest first.
    """

    decisions: int
    mistakes: int
    hit_blocks_lost: int
    groups: Mapping[str, tuple[Group, ...]]
    separations: tuple[Separation, ...]
    sampled_every: int
    costliest: tuple[Costly, ...]


class Judge:
    """Counts, groups and ranks judged decisions."""

    def __init__(self, trace: Trace, known: Foreknowledge, replay: Shadowed, most: int) -> None:
        self.trace, self.known, self.replay, self.most = trace, known, replay, most
        columns = {"depth": True, "seen": True} | {f: getattr(trace, c) is not None for f, c in LABELS.items()}
        self.fields = [name for name, there in columns.items() if there]
        served = known.best.hit_blocks_per_request >= 0
        self.now = np.cumsum(served).astype(np.float64)
        self.now_s = np.floor(trace.arrival_s * TICKS_PER_S) / TICKS_PER_S

    def decisions(self, log: Entries, chosen: Bools, mistake: Bools, lost: Bools) -> Decisions:
        """Return the decisions `chosen` from a log; `mistake` and `lost` are parts of them."""
        eviction = "instead" in (log.dtype.names or ())
        recency, costly = ("age", lost) if eviction else ("gap", mistake)
        groups = {}
        for name in (self.fields[0], recency, *self.fields[1:]) if chosen.any() else ():
            values = log[name][chosen], mistake[chosen], lost[chosen]
            labelled = name in ("tenant", "type")
            groups[name] = by_label(values[0], name, *values[1:]) if labelled else by_size(*values)
        return Decisions(
            decisions=int(np.count_nonzero(chosen)),
            mistakes=int(np.count_nonzero(mistake)),
            hit_blocks_lost=int(np.count_nonzero(lost)),
            groups=groups,
            separations=self._separations(log, chosen, costly),
            sampled_every=self.replay.stride,
            costliest=self._costliest(log, costly, (recency, *self.fields)),
        )

    def _separations(self, log: Entries, chosen: Bools, costly: Bools) -> tuple[Separation, ...]:
        kept = chosen[:: self.replay.stride]
        bad = costly[:: self.replay.stride][kept]
        if not bad.any() or bad.all():
            return ()
        request = log["request"][:: self.replay.stride][kept]
        moment = SimpleNamespace(
            now=self.now[request], now_s=self.now_s[request], block_tokens=float(self.trace.block_tokens)
        )
        eviction = "instead" in (log.dtype.names or ())
        records = self.replay.log
        of_block = _values("block", (records.victim if eviction else records.block)[kept], moment)
        other = _values("block", records.instead[kept], moment) if eviction else {}
        if not eviction:
            of_block = {
                name: values for name, values in of_block.items() if name.removeprefix("block.") not in NOT_THERE
            }
        of_request = {} if eviction else _values("request", records.request[kept], moment)
        found = []
        for name, values in (of_block | of_request).items():
            if values.min() == values.max():
                continue
            medians = float(np.median(values[bad])), float(np.median(values[~bad]))
            higher = _share_higher(other[name][bad], values[bad]) if eviction else None
            found.append(Separation(name, auc(values, bad), *medians, higher))
        return tuple(sorted(found, key=lambda s: (-abs(s.auc - 0.5), s.field)))

    def _costliest(self, log: Entries, which: Bools, names: tuple[str, ...]) -> tuple[Costly, ...]:
        """Take together what one request decided and the same later one regrets."""
        entries = log[which]
        asked_by = np.append(self.known.request_of, -1)[entries["next_use"]].astype(np.int64)
        key = entries["request"] * np.int64(self.trace.n_requests + 1) + asked_by + 1
        order = np.lexsort((entries["depth"], key))
        _, start, count = np.unique(key[order], return_index=True, return_counts=True)
        found = []
        for place in np.argsort(-count, kind="stable")[: self.most].tolist():
            i = order[start[place]]
            entry = entries[i]
            instead = int(entry["instead"]) if "instead" in (log.dtype.names or ()) else None
            asked = int(asked_by[i]) if asked_by[i] >= 0 else None
            values = {name: int(entry[name]) for name in names}
            found.append(Costly(int(entry["request"]), asked, int(count[place]), int(entry["block"]), values, instead))
        return tuple(found)


def _values(record: str, rows: Entries, moment: SimpleNamespace) -> dict[str, npt.NDArray[np.float64]]:
    """Return every field of the contract by its name there, clocks left out.

    A derived field is what `sim.core.fields` says: its expression, evaluated on columns instead of one record.
    """
    scope = {record: rows.view(np.recarray), "cache": moment}
    return {
        f"{record}.{field.name}": np.broadcast_to(
            eval(field.expression, {}, scope) if field.expression else rows[field.name], rows.shape
        )
        for field in fields.RECORDS[record]
        if field.name not in CLOCKS
    }


def _share_higher(values: npt.NDArray[np.float64], than: npt.NDArray[np.float64]) -> float:
    return float(np.mean((values > than) + 0.5 * (values == than)))
