"""Recorded KV-cache events: read in every form, compared with what a preset would report, rebuilt as a workload.

`tests/data/*_events.gz` are recordings of frames made by the engines' own unmodified code, vLLM 0.33.0 `KVCacheManager`
(and with `kv_cache_report_mode="full"`) and SGLang 0.5.23 `RadixCache`, on CPU: the prompts of `served()` one by one,
24 usable blocks of 4 tokens, nothing generated, a message every 0.5 s.
"""

from __future__ import annotations

import base64
import gzip
import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from conftest import extra
from hypothesis import given, settings
from hypothesis import strategies as st
from small_traces import dialogue_trace

from sim.cli import main
from sim.engine_events import engine_events
from sim.event_fidelity import compare
from workloads import Trace, TraceError, events, load
from workloads.events import files
from workloads.events.accesses import as_trace
from workloads.events.stream import CLEARED, HIT, NONE, REMOVED, STORED, Source, Stream

DATA = Path(__file__).parent / "data"
SIZE, CAPACITY = 4, 24
TAGS = {"BlockStored": STORED, "BlockRemoved": REMOVED, "AllBlocksCleared": CLEARED}


def pack(value: object) -> bytes:
    return extra("msgspec").msgpack.encode(value)


def stored(hashes: list, parent: object = None, tokens: int = SIZE, medium: str | None = "GPU", **more: object) -> dict:
    ids = list(range(70_000, 70_000 + tokens * len(hashes)))
    head = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": ids}
    return {**head, "block_size": tokens, "lora_id": None, "medium": medium, "lora_name": None, **more}


def removed(hashes: list, medium: str | None = "GPU", **more: object) -> dict:
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": medium, **more}


CLEAR = {"type": "AllBlocksCleared"}


def frames(payload: bytes, number: int, topic: bytes = b"kv-events") -> bytes:
    parts = (topic, number.to_bytes(8, "big", signed=number < 0), payload)
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def older(event: dict) -> list:
    """An event as engines wrote it before they wrote maps."""
    names = ["block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium", "lora_name"]
    if event["type"] == "BlockRemoved":
        names = ["block_hashes", "medium"]
    listed = [event["type"], *(event.get(name) for name in names if len(event) > 1)]
    if "group_idx" in event:
        listed += [[None]] * (event["type"] == "BlockStored") + [event["group_idx"]]
    return listed


def bits(value: object) -> int:
    return int.from_bytes(value[-8:], "big") if isinstance(value, bytes) else int(value) % 2**64  # type: ignore[call-overload]


def as_read(streams: dict[Source, Stream]) -> dict:
    """Return kind, hashes, parent and message of the events of each source."""
    found = {}
    for source, s in streams.items():
        rows = []
        for e in range(s.n_events):
            hashes = s.hashes[s.block[s.offsets[e] : s.offsets[e + 1]]].tolist()
            rows.append(
                (int(s.kind[e]), hashes, None if s.parent[e] == NONE else int(s.hashes[s.parent[e]]), s.batch[e])
            )
        found[source] = rows
    return found


def as_written(batches: list, topic: str) -> dict:
    """Return the same of batches, one by one."""
    found: dict[Source, list] = {}
    for batch in batches:
        for event in batch[1]:
            if event["type"] != "AllBlocksCleared":
                found.setdefault(Source(topic, batch[2], event["medium"] or "", event.get("group_idx", NONE)), [])
    for m, (_, listed, rank) in enumerate(batches):
        for event in listed:
            kind, parent = TAGS[event["type"]], event.get("parent_block_hash")
            row = (kind, [bits(h) for h in event.get("block_hashes", [])], None if parent is None else bits(parent), m)
            for source, rows in found.items():
                same = (source.medium, source.group) == (event.get("medium") or "", event.get("group_idx", NONE))
                if source.rank == rank and (same or kind == CLEARED):
                    rows.append(row)
    return found


hashes = st.one_of(st.integers(-(2**63), 2**64 - 1), st.integers(0, 5), st.binary(min_size=9, max_size=40))
media = st.sampled_from(["GPU", "CPU", None])
groups = st.sampled_from([{}, {"group_idx": 0}, {"group_idx": 300}])
event_lists = st.lists(
    st.one_of(
        st.builds(
            lambda h, p, m, g: stored(h, p, medium=m, **g),
            st.lists(hashes, max_size=20),
            st.none() | hashes,
            media,
            groups,
        ),
        st.builds(lambda h, m, g: removed(h, m, **g), st.lists(hashes, max_size=9), media, groups),
        st.just(CLEAR),
    ),
    max_size=6,
)
batch_lists = st.lists(st.tuples(st.floats(0, 1e10), event_lists, st.integers(0, 2)), min_size=1, max_size=8)


@settings(max_examples=50)
@given(batch_lists, st.booleans(), st.booleans(), st.sampled_from([64, 1 << 20]), st.data())
def test_what_is_written_is_read(tmp_path_factory, batches, framed, arrays, chunk, data):
    path = tmp_path_factory.mktemp("events") / "recording"
    whole = [[ts, [older(e) if arrays else e for e in listed], rank] for ts, listed, rank in batches]
    numbers = {rank: iter(range(99)) for rank in range(3)}
    payloads = [pack(batch) for batch in whole]
    if framed:
        payloads = [frames(p, next(numbers[batch[2]])) for p, batch in zip(payloads, whole, strict=True)]
    path.write_bytes(b"".join(payloads))
    expected = as_written(batches, "kv-events" if framed else "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK_BYTES", chunk)
        if not any(listed for _, listed, _ in batches):
            with pytest.raises(TraceError, match="no events in it"):
                events.read_streams(path)
            return
        streams = events.read_streams(path)
    assert as_read(streams) == expected
    for stream in streams.values():
        assert stream.time_s.tolist() == [ts for ts, _, _ in batches]
        assert np.array_equal(np.unique(stream.hashes).size, stream.n_blocks)
    cut = data.draw(st.integers(1, path.stat().st_size - 1))  # a message cut off is never silently lost
    path.write_bytes(path.read_bytes()[:cut])
    ends = set(np.cumsum([len(p) for p in payloads]).tolist())
    if cut not in ends:
        with pytest.raises(TraceError, match="the end of the file"):
            events.read_streams(path)


@pytest.mark.parametrize("shape", ["array", "object", "object, older events"])
def test_lines_of_json(tmp_path, shape):
    batches = [
        [1.5, [stored([1, -2, 2**64 - 1]), removed([-2])], 0],
        [2.5, [CLEAR, stored([7], 2**64 - 1, session_id="a"), stored([8], session_id="b")], 0],
    ]
    rows = batches if shape == "array" else [{"ts": b[0], "events": b[1], "data_parallel_rank": b[2]} for b in batches]
    if shape == "object, older events":
        for row in rows:
            row["events"] = [older(event) for event in row["events"]]
    path = tmp_path / "events.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    streams = events.read_streams(path)
    assert as_read(streams) == as_written(batches, "")
    session = streams[Source("", 0, "GPU")].session.tolist()
    assert session == ([-1] * 5 if "older" in shape else [-1, -1, -1, 0, 1])


def test_hashes_that_json_writes_as_text_keep_their_identity(tmp_path):
    names = [base64.b64encode(bytes([k]) * 32).decode() for k in (1, 2, 1)]
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps([1.0, [stored(names[:2]), removed(names[2:])], 0]))
    (stream,) = events.read_streams(path).values()
    assert stream.block.tolist() == [0, 1, 0]


def test_lines_of_dynamo(tmp_path):
    def line(number: int, data: object, worker: int = 1) -> str:
        event = {"event_id": number, "data": data, "dp_rank": 0}
        return json.dumps({"timestamp": 1500 + number, "event": {"worker_id": worker, "event": event}})

    blocks = [{"block_hash": h, "tokens_hash": 1} for h in (5, 6)]
    rows = [line(4, {"stored": {"parent_hash": None, "blocks": blocks}}), line(5, {"removed": {"block_hashes": [6]}})]
    rows += [line(7, "cleared"), line(0, {"stored": {"parent_hash": 5, "blocks": blocks}}, worker=2)]
    path = tmp_path / "recorded.jsonl"
    path.write_text("\n".join(rows))
    first, second = events.read_streams(path).values()
    assert (first.source.topic, second.source.topic) == ("worker 1", "worker 2")
    assert first.kind.tolist() == [STORED, REMOVED, CLEARED]
    assert first.time_s[0] == 1.504
    assert first.block_tokens == 0
    assert first.provenance["sequence_gaps"] == [{"message": 2, "rank": 0, "first": 6, "last": 6}]
    with pytest.raises(TraceError, match="messages are missing"):
        as_trace(first, str(path), "x")
    path.write_text(rows[-1])
    (whole,) = events.read_streams(path).values()
    with pytest.raises(TraceError, match="'block_size': expected in a stored event, got none"):
        as_trace(whole, str(path), "x")


def test_sequence_numbers(tmp_path):
    path = tmp_path / "events.bin"
    batch = [pack([1.0, [stored([k])], 0]) for k in range(9)]
    path.write_bytes(b"".join(frames(batch[k], k) for k in (2, 3, 3, 6)) + frames(b"", -1, b""))
    (stream,) = events.read_streams(path).values()
    assert stream.hashes.tolist() == [2, 3, 6]
    assert stream.provenance["sequence_gaps"] == [{"message": 3, "rank": 0, "first": 4, "last": 5}]
    assert stream.provenance["messages_received_twice"] == 1
    for numbers, told in (((2, 5, 3), "sort the messages"), ((2, 3, 0), "restarted")):
        path.write_bytes(b"".join(frames(batch[k], k) for k in numbers))
        with pytest.raises(TraceError, match=told):
            events.read_streams(path)
    path.write_bytes(frames(batch[0], 0) + frames(batch[1], 2**40))  # a gap costs no memory
    (stream,) = events.read_streams(path).values()
    assert stream.provenance["sequence_gaps"][0]["last"] == 2**40 - 1
    path.write_bytes(frames(batch[0], 7, b"pod-1") + frames(pack([1.0, [stored([1])], 1]), 0, b"pod-2"))
    assert [(s.topic, s.rank) for s in events.read_streams(path)] == [("pod-1", 0), ("pod-2", 1)]


def payload(*listed: object, ts: object = 1.0) -> bytes:
    return pack([ts, list(listed), 0])


GOOD = {"block_hashes": [1], "parent_block_hash": None, "block_size": 4}
MALFORMED = {
    "empty": (lambda: b"", "no events in it"),
    "truncated": (lambda: payload(stored([1, 2]))[:-3], "message 0, byte 0: expected the rest"),
    "trailing bytes": (lambda: payload(stored([1])) + b"\x93", "message 1, byte .* the end of the file"),
    "no batch": (lambda: pack({"ts": 1.0}), "byte 0: expected a batch"),
    "a number": (lambda: pack(5), "expected a batch"),
    "short batch": (lambda: pack([1.0]), "expected a batch"),
    "time is text": (lambda: payload(stored([1]), ts="now"), "byte 1: expected a time"),
    "time is an integer": (lambda: payload(stored([1]), ts=1), "expected a time"),
    "time is NaN": (lambda: payload(stored([1]), ts=float("nan")), "expected a time"),
    "time in ns": (lambda: payload(stored([1]), ts=1.7e18), "expected a time"),
    "negative time": (lambda: payload(stored([1]), ts=-1.0), "expected a time"),
    "events no array": (lambda: pack([1.0, {}, 0]), "expected an array of events"),
    "event a number": (lambda: payload(3), "expected an event"),
    "unknown tag": (lambda: payload({"type": "CacheEviction", **GOOD}), "expected a tag BlockStored"),
    "unknown tag, older": (lambda: payload(["CacheEviction", [1]]), "expected a tag BlockStored"),
    "no tag": (lambda: payload(GOOD), "expected an event with its tag"),
    "empty event": (lambda: payload({}), "expected an event with its tag"),
    "no hashes": (lambda: payload({"type": "BlockRemoved", "medium": "GPU"}), "block_hashes"),
    "hashes no array": (lambda: payload({"type": "BlockRemoved", "block_hashes": 5}), "expected an array of block"),
    "hash a float": (lambda: payload(stored([1.5])), "expected a block hash"),
    "hash nil": (lambda: payload(stored([None])), "expected a block hash"),
    "hash empty": (lambda: payload(stored([b""])), "expected a block hash"),
    "parent a float": (lambda: payload(stored([1], 1.5)), "expected a block hash"),
    "no tokens a block": (lambda: payload(stored([1], tokens=0)), "expected a number of tokens"),
    "block size text": (lambda: payload({**stored([1]), "block_size": "16"}), "expected a number of tokens"),
    "block size huge": (lambda: payload({**stored([1]), "block_size": 2**40}), "expected a number of tokens"),
    "two block sizes": (lambda: payload(stored([1]), stored([2], tokens=8)), "expected one size, got \\[4, 8\\]"),
    "medium a number": (lambda: payload(stored([1], medium=7)), "expected a text or nil"),
    "group negative": (lambda: payload(stored([1], group_idx=-1)), "expected an integer"),
    "rank text": (lambda: pack([1.0, [stored([1])], "0"]), "expected an integer"),
    "key a number": (lambda: payload({"type": "AllBlocksCleared", 5: 5}), "the name of a field"),
    "no msgpack": (lambda: b"\x93\xcb" + bytes(8) + b"\x90\xc1", "byte .*: expected"),
    "no msgpack inside": (lambda: payload(stored([1], extra="x")).replace(b"\xa1x", b"\xc1x"), "a msgpack value"),
    "array of 2**32": (lambda: b"\x93\xcb" + bytes(8) + b"\xdd\xff\xff\xff\xff", "expected the rest"),
    "text of 2**32": (lambda: b"\x93\xcb" + bytes(8) + b"\x91\x81\xdb\xff\xff\xff\xff", "expected the rest"),
    "frame of 2**24": (lambda: b"\x00\xff\xff\xff" + bytes(50), "expected the rest"),
    "sequence of 4 bytes": (lambda: b"\0\0\0\0" + b"\0\0\0\4" + bytes(30), "byte 0: expected three frames"),
    "payload short": (lambda: frames(payload(stored([1]))[:-2], 0), "expected a payload that fills its frame"),
    "payload long": (lambda: frames(payload(stored([1])) + b"\x90", 0), "expected a payload that fills its frame"),
    "payload empty": (lambda: frames(b"", 3), "expected a payload that fills"),
    "zeros": (lambda: bytes(100), "expected three frames"),
    "text": (lambda: b"timestamp,input\n1,2\n", "byte 0: expected a batch"),
    "gzip cut": (lambda: gzip.compress(payload(stored([1])) * 99)[:-9], "data ends or breaks"),
    "line cut": (lambda: b'{"ts": 1, "events": [{"type": "BlockRem', ":1: expected one JSON object"),
    "line no batch": (lambda: b'{"ts": 1}', ":1: field 'events': expected a list"),
    "line no time": (lambda: b'{"events": []}', ":1: field 'ts': expected a time, got nothing"),
    "line unknown tag": (lambda: b'[1.0, [{"type": "X", "block_hashes": []}], 0]', ":1: expected a tag"),
    "line huge integer": (lambda: b'[1.0, [{"type": "BlockRemoved", "block_hashes": [%d]}], 0]' % 2**70, ":1: "),
    "line number": (lambda: b"[1.0]", ":1: field 'events'"),
    "line dynamo": (lambda: b'{"timestamp": 1, "event": {"worker_id": 1}}', ":1: field 'event': expected"),
    "line dynamo data": (
        lambda: b'{"timestamp": 1, "event": {"event": {"event_id": 1, "data": {"stored": 5}}}}',
        ":1: field 'data': expected",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_recordings_are_refused(tmp_path, case):
    make, told = MALFORMED[case]
    path = tmp_path / "recording"
    path.write_bytes(make())
    with pytest.raises(TraceError, match=told) as caught:
        events.read_streams(path)
    assert str(caught.value).startswith(str(path))
    assert "fix: " in str(caught.value)


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_read_or_refused(tmp_path_factory, tail, framed):
    path = tmp_path_factory.mktemp("events") / "recording"
    head = frames(payload(stored([1])), 0) if framed else payload(stored([1]))
    path.write_bytes(head + tail)
    refusal, streams = "", {}
    try:
        streams = events.read_streams(path)
    except TraceError as error:
        refusal = str(error)
    if refusal:
        assert refusal.startswith(str(path))
        assert "fix: " in refusal
    else:
        assert any(1 in stream.hashes for stream in streams.values())


def test_sources_are_kept_apart(tmp_path):
    path = tmp_path / "recording"
    path.write_bytes(pack([1.0, [stored([1]), stored([1], medium="CPU"), stored([2], group_idx=1)], 0]))
    streams = events.read_streams(path)
    assert [s.n_blocks for s in streams.values()] == [1, 1, 1]
    assert events.choose(streams, "x", medium="CPU").source.medium == "CPU"
    assert events.choose(streams, "x", group=1).hashes.tolist() == [2]
    with pytest.raises(TraceError, match=r"expected one source of events, got 2 .*group=1 medium=GPU rank=0"):
        events.choose(streams, "x")
    with pytest.raises(TraceError, match="expected one source of events with rank=3, got 0"):
        events.choose(streams, "x", rank=3)
    path.write_bytes(pack([1.0, [CLEAR], 0]))
    with pytest.raises(TraceError, match="none that stores blocks"):
        events.choose(events.read_streams(path), "x")


def test_chains_are_rebuilt(tmp_path):
    path = tmp_path / "recording"
    path.write_bytes(pack([1.0, [stored([1, 2]), stored([3, 4], 1), removed([9]), stored([2], 1), stored([5], 8)], 0]))
    (stream,) = events.read_streams(path).values()
    parents = stream.parents()
    named = {int(stream.hashes[b]): int(stream.hashes[p]) if p >= 0 else int(p) for b, p in enumerate(parents)}
    assert named == {1: -1, 2: 1, 3: 1, 4: 3, 9: -2, 5: 8, 8: -2}


# ---- against engines -------------------------------------------------------------------------------------------------


def served() -> list[list[int]]:
    """The prompts the recorded engines served."""
    rng = random.Random(3)
    bases = [[rng.randrange(1000) for _ in range(rng.randrange(2, 40))] for _ in range(8)]
    prompts = []
    for _ in range(70):
        base = rng.choice(bases)
        prompts.append(
            base[: rng.randrange(1, len(base) + 1)] + [rng.randrange(1000) for _ in range(rng.randrange(12))]
        )
    return prompts


def served_trace() -> Trace:
    known: dict[tuple[int, ...], int] = {}
    prompts = served()
    ids = [[known.setdefault(tuple(p[: k * SIZE + SIZE]), len(known)) for k in range(len(p) // SIZE)] for p in prompts]
    return Trace.build(
        name="served",
        block_tokens=SIZE,
        offsets=np.cumsum([0, *map(len, ids)]),
        block_ids=[block for row in ids for block in row],
        arrival_s=np.arange(len(prompts)) * 0.5,
        input_tokens=[len(p) for p in prompts],
        output_tokens=[1] * len(prompts),
    )


@pytest.mark.parametrize(
    ("file", "engine", "hits"),
    [("vllm033", "vllm>=0.23", False), ("vllm033_full", "vllm>=0.23", True), ("sglang0523", "sglang", False)],
)
def test_presets_follow_the_engines_event_by_event(file, engine, hits):
    stream = events.choose(events.read_streams(DATA / f"{file}_events.gz"), file)
    found = compare(stream, engine_events(served_trace(), CAPACITY, engine=engine))
    assert found.first_difference is None
    assert found.unmatched_blocks == 0
    assert found.equal_events == sum(found.stored + found.removed) // 2 + (found.hit or (0, 0))[0]
    assert found.removed[0] == found.removed[1] == found.equal_removals == found.common_removals > 100
    assert found.resident_overlap == (1.0, 1.0)
    assert (found.hit is not None) == hits
    if hits:
        assert found.hit[0] == found.hit[1] > 40


def test_another_preset_parts_with_the_engine():
    stream = events.choose(events.read_streams(DATA / "vllm033_events.gz"), "x")
    found = compare(stream, engine_events(served_trace(), CAPACITY, engine="vllm<=0.22"))
    parted = found.first_difference
    assert parted is not None
    assert parted.time_s == parted.request * 0.5  # a message each, no request without
    assert found.resident_overlap[0] < 0.9
    assert found.equal_events == parted.event < found.stored[0]
    text = str(found)
    assert f"first difference: event {parted.event:,}" in text
    engine, simulator = next(row[1:] for row in parted.context if row[0] == parted.event)
    assert engine != simulator
    assert all(row[1].split(",")[0] == row[2].split(",")[0] for row in parted.context if row[0] < parted.event)
    smaller = compare(stream, engine_events(served_trace(), CAPACITY - 1))
    assert smaller.first_difference.event < found.stored[0] + found.removed[0]


def test_full_reports_are_a_workload():
    path = DATA / "vllm033_full_events.gz"
    trace, truth = load(f"vllm_events:{path}"), served_trace()
    assert load(str(path)).fingerprint == trace.fingerprint
    seen = truth.full_blocks > 0
    assert trace.n_requests == seen.sum()
    assert np.array_equal(trace.block_ids, truth.block_ids)
    assert np.array_equal(trace.full_blocks, truth.full_blocks[seen])
    exact = truth.input_tokens[seen] % SIZE == 0
    assert (trace.input_tokens % SIZE == 0).sum() <= exact.sum()
    assert np.allclose(trace.arrival_s, truth.arrival_s[seen] - truth.arrival_s[seen][0])


@pytest.mark.parametrize("spec", ["vllm_events:vllm033_events.gz", "sglang_events:sglang0523_events.gz"])
def test_stores_and_removes_are_no_workload(spec):
    name, _, file = spec.partition(":")
    with pytest.raises(TraceError, match=r"not what was asked for, and are no workload - fix: .*--events"):
        load(f"{name}:{DATA / file}")


def published(simulated: Stream, path: Path) -> None:
    """Write what a simulator would report as vLLM does, hits as full reports."""
    batches: list[list] = []
    for e in range(simulated.n_events):
        blocks = (
            simulated.block[simulated.offsets[e] : simulated.offsets[e + 1]].astype(object) * 2654435761 + 7
        ).tolist()
        parent = None if simulated.parent[e] == NONE else int(simulated.parent[e]) * 2654435761 + 7
        event = removed(blocks) if simulated.kind[e] == REMOVED else stored(blocks, parent, simulated.block_tokens)
        if e == 0 or simulated.batch[e] != simulated.batch[e - 1]:
            batches.append([])
        batches[-1].append(event)
    path.write_bytes(b"".join(frames(pack([100.0 + k, listed, 0]), k) for k, listed in enumerate(batches)))


@pytest.mark.parametrize(
    "options", [{}, {"mode": "overlap"}, {"decode": "infer"}, {"mode": "overlap", "decode": "private"}]
)
def test_a_preset_equals_itself(tmp_path, options):
    trace = dialogue_trace()
    simulated = engine_events(trace, 60, **options)
    published(simulated, tmp_path / "recording")
    recorded = events.choose(events.read_streams(tmp_path / "recording"), "x")
    found = compare(recorded, simulated)
    assert found.first_difference is None
    assert found.hit is not None
    assert min(*found.hit, *found.removed) > 0


def test_a_cleared_cache_is_a_difference(tmp_path):
    path = tmp_path / "recording"
    trace = dialogue_trace()
    simulated = engine_events(trace, 60)
    published(simulated, path)
    raw = path.read_bytes()
    path.write_bytes(frames(pack([99.0, [CLEAR], 0]), 0, b"other") + raw)  # another publisher's
    assert compare(events.choose(events.read_streams(path), "x"), simulated).first_difference is None
    path.write_bytes(raw + frames(pack([1e6, [CLEAR], 0]), 10**6))
    found = compare(events.choose(events.read_streams(path), "x"), simulated)
    assert found.first_difference.request is None
    assert found.first_difference.context[-1][1:] == (f"cleared, message {found.first_difference.message}", "-")


def test_unlike_blocks_and_unknown_policies_are_refused():
    stream = events.choose(events.read_streams(DATA / "vllm033_events.gz"), "x")
    with pytest.raises(ValueError, match="blocks have 4 tokens, the trace's"):
        compare(stream, engine_events(dialogue_trace(), 60))
    for engine, policy in (("vllm>=0.23", "gdsf"), ("vllm>=0.23", "arc")):
        with pytest.raises(ValueError, match="events are known of"):
            engine_events(dialogue_trace(), 60, policy, engine=engine)


def test_command(tmp_path, capsys):
    path = tmp_path / "served.npz"
    served_trace().save(path)
    recording = DATA / "vllm033_full_events.gz"
    assert main(["fidelity", str(path), "--events", str(recording), "--capacity", str(CAPACITY)]) == 0
    assert "no difference" in capsys.readouterr().out
    arguments = ["fidelity", str(path), "--events", str(recording), "--capacity", "20", "--json"]
    assert main(arguments) == 2
    content = json.loads(capsys.readouterr().out)
    assert content["first_difference"]["event"] == content["equal_events"]
    assert 0 < content["resident_overlap_min"] < 1
    for wrong, told in (
        (["--events", str(recording)], "--events needs one --capacity"),
        (["--engine", "sglang"], "--engine goes with --events"),
        (["--rank", "0"], "--rank goes with --events"),
        (["--events", str(path), "--capacity", "9"], "expected a batch"),
    ):
        assert main(["fidelity", str(path), *wrong]) == 1
        assert told in capsys.readouterr().err


def test_memory_is_bounded_by_what_is_kept(tmp_path):
    path = tmp_path / "recording"
    batch = [pack([1.0, [stored(list(range(k, k + 100)), tokens=64)], 0]) for k in range(0, 3000, 100)]
    path.write_bytes(b"".join(batch) * 40)
    events.read_streams(path)
    tracemalloc.start()
    (stream,) = events.read_streams(path).values()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(stream.block) == 120_000
    assert path.stat().st_size > 30e6
    assert peak < 25e6  # room for a chunk takes 14 MB, whatever the file; 16 bytes a block are kept, and twice joined


def test_hits_need_proof():
    def stream(*rows: tuple[int, list[int], int]) -> Stream:
        sizes = [len(blocks) for _, blocks, _ in rows]
        kind = np.array([kind for kind, _, _ in rows], np.uint8)
        block = np.array([b for _, blocks, _ in rows for b in blocks], np.int32)
        parent = np.array([parent for _, _, parent in rows], np.int32)
        n = len(rows)
        zeros = np.zeros(n, np.int32)
        return Stream(
            Source(),
            4,
            kind,
            np.cumsum([0, *sizes]),
            block,
            parent,
            zeros,
            np.zeros(1),
            zeros - 1,
            np.arange(9, dtype=np.uint64),
        )

    copy = stream((STORED, [0], -1), (STORED, [0], -1))
    assert copy.with_hits().kind.tolist() == [STORED, STORED]
    proven = stream(
        (STORED, [0, 1], -1), (STORED, [0], -1), (STORED, [0, 1], -1), (REMOVED, [1], -1), (STORED, [0, 1], -1)
    )
    assert proven.with_hits().kind.tolist() == [STORED, HIT, HIT, REMOVED, STORED]
    cleared = stream((STORED, [0, 1], -1), (CLEARED, [], -1), (STORED, [0, 1], -1))
    assert cleared.with_hits().kind.tolist() == [STORED, CLEARED, STORED]
