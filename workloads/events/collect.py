"""From parsed messages to streams, one per source.

Knows sources and columns. Must not know bytes, files or requests.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from workloads.columns import F64, I64, INT32_MAX
from workloads.errors import TraceError
from workloads.events import msgpack as wire
from workloads.events.intern import U64, numbered
from workloads.events.layout import Parsed
from workloads.events.sequence import Sequences
from workloads.events.stream import CLEARED, NONE, STORED, Source, Stream

_KIND, _PARENT, _HAS_PARENT, _BLOCK_TOKENS, _SESSION, _SIZE, _MESSAGE, _SOURCE = range(8)
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Collector:
    """Keeps what was parsed, a chunk at a time, and makes streams of it at the end.

    Args:
        file: Name of the recording, for messages.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self.sequences = Sequences(file)
        self.messages = 0
        self._events: list[I64] = []
        self._hashes: list[U64] = []
        self._time_s: list[F64] = []
        self._publishers: dict[tuple[str, int], int] = {}
        self._sources: dict[Source, int] = {}

    def add(self, buffer: npt.NDArray[np.uint8], parsed: Parsed, messages: int) -> None:
        """Take whole messages out of `buffer`, of which `parsed` holds the columns."""
        head, first = parsed.messages[:messages], parsed.messages[: messages + 1, wire.FIRST_EVENT]
        n = int(first[-1])
        events, sizes = parsed.events[:n], np.diff(parsed.events[: n + 1, wire.FIRST_HASH])
        publishers, labels = self._publisher(buffer, head)
        kept = np.ones(messages, np.bool_)
        for m in np.flatnonzero(head[:, wire.SEQUENCE] >= 0).tolist():
            kept[m] = self.sequences.take(labels[publishers[m]], int(head[m, wire.SEQUENCE]), self.messages + m)
        message = np.repeat(np.arange(messages), np.diff(first))
        found = np.empty((n, 8), np.int64)
        found[:, :5] = events[:, [wire.KIND, wire.PARENT, wire.HAS_PARENT, wire.BLOCK_TOKENS, wire.SESSION]]
        found[:, _SIZE], found[:, _MESSAGE] = sizes, message + self.messages
        found[:, _SOURCE] = self._source(buffer, events, publishers[message], labels)
        new = kept[message]
        self._hashes.append(parsed.hashes[: sizes.sum()][np.repeat(new, sizes)])
        self._events.append(found[new])
        self._time_s.append(head[:, wire.TIME].copy().view(np.float64))
        self.messages += messages

    def _publisher(self, buffer: npt.NDArray[np.uint8], head: I64) -> tuple[I64, list[tuple[str, int]]]:
        """Return a number per message, and what it means by number."""
        keys, firsts = _labelled(head[:, wire.TOPIC], head[:, wire.RANK])
        numbers = np.empty(len(firsts), np.int64)
        for k, m in enumerate(firsts):
            at = slice(head[m, wire.TOPIC_AT], head[m, wire.TOPIC_END])
            topic = _decoded(buffer[at]) if head[m, wire.TOPIC] else ""
            numbers[k] = self._publishers.setdefault((topic, int(head[m, wire.RANK])), len(self._publishers))
        return numbers[keys], list(self._publishers)

    def _source(self, buffer: npt.NDArray[np.uint8], events: I64, publisher: I64, labels: list[tuple[str, int]]) -> I64:
        """Return the number of the source of each event; of a clear, which names none, -1 - its publisher."""
        clears = events[:, wire.KIND] == CLEARED
        keys, firsts = _labelled(events[:, wire.MEDIUM], events[:, wire.GROUP], publisher, clears.astype(np.int64))
        numbers = np.empty(len(firsts), np.int64)
        for k, e in enumerate(firsts):
            topic, rank = labels[publisher[e]]
            at = slice(events[e, wire.MEDIUM_AT], events[e, wire.MEDIUM_END])
            medium = _decoded(buffer[at]) if events[e, wire.MEDIUM] else ""
            source = Source(topic, rank, medium, int(events[e, wire.GROUP]))
            numbers[k] = -1 if clears[e] else self._sources.setdefault(source, len(self._sources))
        return np.where(clears, -1 - publisher, numbers[keys])

    def streams(self, provenance: dict[str, object]) -> dict[Source, Stream]:
        """Return the stream of each source, by source.

        Raises:
            TraceError: no events, too many of them, or a source with blocks of several sizes.
        """
        if sum(map(len, self._events)) == 0:
            raise TraceError(f"{self._file}: no events in it - fix: check that this is the right file")
        events, hashes = np.concatenate(self._events), np.concatenate(self._hashes)
        time_s = np.concatenate(self._time_s)
        if max(len(events), len(hashes)) > INT32_MAX // 2:
            raise TraceError(f"{self._file}: {len(hashes)} blocks listed, at most {INT32_MAX // 2} are supported")
        owner = np.repeat(events[:, _SOURCE], events[:, _SIZE])
        return {
            source: self._stream(source, events, hashes[owner == number], time_s, number, provenance)
            for source, number in sorted(self._sources.items())
        }

    def _stream(
        self, source: Source, events: I64, hashes: U64, time_s: F64, number: int, provenance: dict[str, object]
    ) -> Stream:
        publisher = self._publishers[source.topic, source.rank]
        rows = events[(events[:, _SOURCE] == number) | (events[:, _SOURCE] == -1 - publisher)]
        stored = rows[:, _KIND] == STORED
        sizes = np.unique(rows[stored, _BLOCK_TOKENS]).tolist()
        if len(sizes) > 1:
            raise TraceError(
                f"{self._file}: {source}: field 'block_size': expected one size, got {sizes} - fix: record a model"
                " without partial blocks; events of hybrid models list several"
            )
        follows = stored & (rows[:, _HAS_PARENT] != 0)
        dense, known = numbered(np.concatenate([hashes, rows[follows, _PARENT].view(np.uint64)]))
        parent = np.full(len(rows), NONE, np.int32)
        parent[follows] = dense[len(hashes) :]
        session, _ = numbered(np.concatenate([np.zeros(1, np.uint64), rows[:, _SESSION].view(np.uint64)]))
        return Stream(
            source,
            sizes[0] if sizes else 0,
            rows[:, _KIND].astype(np.uint8),
            np.concatenate([[0], np.cumsum(rows[:, _SIZE])]),
            dense[: len(hashes)],
            parent,
            rows[:, _MESSAGE].astype(np.int32),
            time_s,
            session[1:] - 1,
            known,
            provenance,
        )


def _labelled(*columns: I64) -> tuple[npt.NDArray[np.int32], list[int]]:
    """Number equal rows of columns; return the number of each, and where each number is first."""
    key = np.zeros(len(columns[0]), np.uint64)
    for column in columns:
        key = (key ^ np.ascontiguousarray(column).view(np.uint64)) * _MIX
    numbers, known = numbered(key)
    firsts = np.empty(len(known), np.int64)
    firsts[numbers[::-1]] = np.arange(len(numbers))[::-1]
    return numbers, firsts.tolist()


def _decoded(text: npt.NDArray[np.uint8]) -> str:
    return bytes(text).decode(errors="replace")
