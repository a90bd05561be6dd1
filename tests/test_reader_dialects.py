"""Readers of formats whose real files are not at hand: by hand, what each field means, and what is refused."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_traces import random_traces
from trace_files import (
    AGENTIC_1,
    AGENTIC_2,
    BAILIAN,
    CLOSED_LOOP,
    DELTA,
    DYNAMO,
    EVOLVE,
    LMCACHE,
    MOONCAKE,
    RAGPULSE,
    READERS,
    changed,
    chat,
    dependency,
    ended,
    lookup,
    played,
    ragpulse_folder,
    row,
    without,
    write,
)

from workloads import Trace, TraceError, load
from workloads.readers import agentic_mooncake, bailian, dynamo, lmcache, mooncake, prefix_cache_evolve, ragpulse

SELFISH = played("a", "p", "s", 0.0, dependency("a", "completion", 1.0))


def ids(trace: Trace) -> list[list[int]]:
    """Return the block ids of each request."""
    cuts = trace.offsets.tolist()
    return [trace.block_ids[start:stop].tolist() for start, stop in pairwise(cuts)]


def listed(column: Any) -> list[Any]:
    """Return a column that must be there as a list."""
    assert column is not None
    return column.tolist()


# ---- Mooncake --------------------------------------------------------------------------------------------------------


def test_closed_loop_rows_are_laid_on_the_clock(tmp_path: Path) -> None:
    trace = mooncake.read(write(tmp_path / "c", CLOSED_LOOP), 4)
    # session a: 1 s + 40 tokens / 40 per s + 0.5 s; then 20 tokens and no delay. Session b arrives in between.
    assert trace.arrival_s.tolist() == [1.0, 2.2, 2.5, 3.0]
    assert listed(trace.session) == [0, 1, 0, 0]
    assert listed(trace.turn) == [0, 0, 1, 2]
    assert listed(trace.priority) == [0, 0, 0, 7]
    assert trace.provenance["closed_loop"] == {
        "rule": "arrival = previous arrival + previous output_tokens / decode_tokens_per_s + delay",
        "decode_tokens_per_s": 40.0,
        "requests_following": 2,
    }
    faster = load(f"mooncake:{tmp_path / 'c'}?block=4&decode_tokens_per_s=80")
    assert faster.arrival_s.tolist() == [1.0, 2.0, 2.2, 2.25]


def test_sessions_without_a_start_need_a_window(tmp_path: Path) -> None:
    rows = [{k: v for k, v in r.items() if k not in ("created_time", "timestamp")} for r in CLOSED_LOOP]
    path = write(tmp_path / "c", rows)
    with pytest.raises(TraceError, match=r"c:1: field 'timestamp': .*pass window_s"):
        mooncake.read(path, 4)
    trace = mooncake.read(path, 4, window_s=10.0, seed=3)
    again = mooncake.read(path, 4, window_s=10.0, seed=3)
    assert trace.fingerprint == again.fingerprint != mooncake.read(path, 4, window_s=10.0, seed=4).fingerprint
    assert trace.arrival_s[0] <= 10.0
    said = trace.provenance["closed_loop"]
    assert isinstance(said, dict)
    assert (said["sessions_drawn"], said["window_s"], said["seed"]) == (2, 10.0, 3)


def test_a_recorded_time_wins_over_a_delay_and_is_counted(tmp_path: Path) -> None:
    rows = changed(CLOSED_LOOP, 2, timestamp=1700)
    trace = mooncake.read(write(tmp_path / "c", rows), 4)
    assert trace.arrival_s.tolist() == [1.0, 1.7, 2.2, 2.2]  # the third row follows the second's end: 1.7 + 0.5
    assert trace.provenance["delays_beside_timestamps"] == 1


def test_chat_columns(tmp_path: Path) -> None:
    chats = [{"chat_id": 5, "parent_chat_id": -1, "turn": 1, "type": "text"}, {}, {"chat_id": 6, "parent_chat_id": 5}]
    rows = [{**row, **chat} for row, chat in zip(MOONCAKE, chats, strict=True)]
    trace = mooncake.read(write(tmp_path / "m", rows), 4)
    assert listed(trace.session) == [0, -1, 0]
    assert listed(trace.turn) == [0, -1, -1]
    assert listed(trace.request_type) == [0, -1, -1]
    assert trace.provenance["request_types"] == ["text"]


def test_deltas_become_whole_prompts(tmp_path: Path) -> None:
    trace = mooncake.read(write(tmp_path / "d", DELTA), 4, prompts="delta")
    # a: 6 tokens, 3 generated, 5 new. b shares its first block alone: the second is 2 tokens of id 2 and 2 generated.
    assert trace.input_tokens.tolist() == [6, 8, 14]
    assert trace.arrival_s.tolist() == [0.0, 0.01, 0.08]  # 3 tokens at 40/s and 5 ms
    assert ids(trace) == [[0], [0, 1], [0, 2, 3]]
    assert trace.provenance["partial_tail_ids_dropped"] == 2


@given(data=st.data())
def test_deltas_equal_prompts_written_out_token_by_token(tmp_path: Path, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([1, 2, 3, 5]))
    rows, prompts, history = [], [], dict[str, list[object]]()
    for number in range(data.draw(st.integers(1, 8))):
        session = data.draw(st.sampled_from("ab"))
        tokens, output = data.draw(st.integers(0, 9)), data.draw(st.integers(0, 5))
        names = data.draw(st.lists(st.integers(0, 2), min_size=-(-tokens // size), max_size=-(-tokens // size)))
        lengths = {"input_length": tokens, "output_length": output, "hash_ids": names}
        rows.append({"session_id": session, "timestamp": number, **lengths})
        past = history.setdefault(session, [])
        for i, name in enumerate(names):
            length = min(size, tokens - i * size)
            past += [(name, length, k) for k in range(length)]
        prompts.append(tuple(past))
        past += [("output", number, k) for k in range(output)]
    trace = mooncake.read(write(tmp_path / "d", rows), size, prompts="delta")
    known: dict[object, int] = {}
    ends = [range(size, len(prompt) + 1, size) for prompt in prompts]
    want = [[known.setdefault(p[:end], len(known)) for end in e] for p, e in zip(prompts, ends, strict=True)]
    assert ids(trace) == want
    assert trace.input_tokens.tolist() == [len(prompt) for prompt in prompts]


# ---- agentic_mooncake ------------------------------------------------------------------------------------------------


def test_agentic_requests_wait_for_others(tmp_path: Path) -> None:
    trace = agentic_mooncake.read(write(tmp_path / "a", AGENTIC_1), 4)
    # root 1000 ms + 2 tokens (50 ms); sub 1050 + 8 tokens (200 ms); child waits for both, + 5 ms; its 7 ms is unused
    assert trace.arrival_s.tolist() == [1.0, 1.05, 1.255]
    assert ids(trace) == [[0], [0], [0, 1]]
    assert listed(trace.session) == [0, 1, 0]
    assert listed(trace.request_type) == [0, 1, 0]
    assert trace.provenance["timestamps_not_used"] == 1


def test_agentic_version_2_has_plays_and_triggers(tmp_path: Path) -> None:
    path = write(tmp_path / "a", AGENTIC_2)
    trace = load(str(path))
    # q1 at 0; r1 at 10; r2 12 ms after r1 was dispatched; r3 not before 500
    assert trace.arrival_s.tolist() == [0.0, 0.01, 0.022, 0.5]
    assert trace.block_tokens == 4
    assert ids(trace) == [[0, 1], [2, 3], [2, 3], [2, 3]]  # equal ids of another play: other blocks
    assert listed(trace.session) == [0, 1, 2, 1]  # "main" of two plays is two sessions
    assert listed(trace.request_type) == [0, 0, 1, 0]
    slow = agentic_mooncake.read(path, decode_tokens_per_s=4.0)
    assert slow.arrival_s.tolist() == [0.0, 0.01, 0.022, 1.022]  # r2 ends at 22 + 1000 ms


# ---- Dynamo ----------------------------------------------------------------------------------------------------------


def test_dynamo_request_trace(tmp_path: Path) -> None:
    trace = load(str(write(tmp_path / "d", [*DYNAMO, {"verification": "x"}])))
    assert trace.arrival_s.tolist() == [0.0, 0.5, 1.0]
    assert ids(trace) == [[0, 1], [0, 1], [2, 3]]  # the same hashes of another model are other blocks
    assert listed(trace.session) == [0, 1, 0]
    assert listed(trace.request_type) == [0, 1, 0]
    assert trace.output_tokens.tolist() == [2, 2, 2]
    assert trace.provenance["first_request_unix_ms"] == 1000.0
    assert trace.provenance["models"] == ["m", "other"]
    assert trace.provenance["events_passed_over"] == {"tool_end": 1, "no event": 1}
    assert trace.provenance["partial_tail_ids_dropped"] == 1
    assert load(f"dynamo:{tmp_path / 'd'}?model=other").n_requests == 1
    with pytest.raises(TraceError, match="did you mean 'other'"):
        dynamo.read(tmp_path / "d", model="othr")


def test_dynamo_shards(tmp_path: Path) -> None:
    for number, record in enumerate(DYNAMO):
        shard = tmp_path / f"request-trace.{number:06d}.jsonl.gz"
        shard.write_bytes(gzip.compress(json.dumps(record).encode() + b"\n"))
    whole = write(tmp_path / "whole", DYNAMO)
    trace = load(str(tmp_path))
    assert trace.fingerprint == dynamo.read(whole).fingerprint
    source = trace.provenance["source"]
    assert isinstance(source, dict)
    assert len(source["files"]) == 4
    bad = tmp_path / "request-trace.000002.jsonl.gz"
    bad.write_bytes(gzip.compress(b"\n" + json.dumps(ended("x", -1, 4, 1)).encode()))
    with pytest.raises(TraceError, match=r"request-trace\.000002\.jsonl\.gz:2: field 'request_received_ms'"):
        load(str(tmp_path))


# ---- Bailian ---------------------------------------------------------------------------------------------------------


def test_bailian(tmp_path: Path) -> None:
    trace = load(str(write(tmp_path / "b", BAILIAN)))
    assert trace.block_tokens == 16
    assert trace.arrival_s.tolist() == [0.25, 0.5, 1.0, 2.0]
    assert ids(trace) == [[0, 1], [2, 3], [0, 1, 4, 5], [0]]
    assert listed(trace.session) == [0, 1, 0, 2]
    assert listed(trace.turn) == [0, 0, 1, 5]
    assert listed(trace.request_type) == [0, 1, 0, 0]
    assert trace.provenance["request_types"] == ["text", "file"]
    assert trace.provenance["repairs"] == {"rechain": 2}  # 4 distinct ids in full blocks became 6
    assert trace.provenance["partial_tail_ids_dropped"] == 1
    assert trace.provenance["chats_with_parent_before_the_trace"] == 1


def test_bailian_chains_of_parents(tmp_path: Path) -> None:
    """In any order, however long, and repeated; never in a circle."""
    chain = [chat(n, n - 1 if n else -1, 0.0, 16, n + 1, n) for n in range(3000)]
    trace = bailian.read(write(tmp_path / "b", [*reversed(chain), chain[5]]))
    assert set(listed(trace.session)) == {0}
    assert trace.provenance["repeated_chat_ids"] == 1
    for circle in ([chat(1, 1, 0.0, 16, 1, 1)], [chat(1, 2, 0.0, 16, 1, 1), chat(2, 1, 0.0, 16, 1, 1)]):
        with pytest.raises(TraceError, match=r"b:1: field 'parent_chat_id': .*its own ancestor"):
            bailian.read(write(tmp_path / "b", circle))


# ---- LMCache ---------------------------------------------------------------------------------------------------------


def test_lmcache_lookups(tmp_path: Path) -> None:
    for number, record in enumerate(LMCACHE):
        write(tmp_path / f"lookup_hashes_20260401_14302{number}_{number:06d}.jsonl", [record])
    trace = load(str(tmp_path))
    assert trace.block_tokens == 4
    assert trace.arrival_s.tolist() == [0.0, 0.5, 1.5]
    assert trace.provenance["first_lookup_unix_s"] == 1711929600.5
    assert ids(trace) == [[0, 1], [2, 3], [0, 1, 4]]  # the same hashes of another model are other blocks
    assert listed(trace.request_type) == [0, 1, 0]
    assert trace.provenance["request_types"] == ["m", "other"]
    assert trace.output_tokens.tolist() == [0, 0, 0]
    one = lmcache.read(tmp_path, model="m")
    assert ids(one) == [[0, 1], [0, 1, 2]]
    assert one.fingerprint == lmcache.read(write(tmp_path / "one", [LMCACHE[0], LMCACHE[2]])).fingerprint
    with pytest.raises(TraceError, match="unknown model"):
        lmcache.read(tmp_path, model="x")
    with pytest.raises(TraceError, match=r"no lookup_hashes_\*\.jsonl in this folder"):
        lmcache.read(tmp_path / "..")


# ---- prefix-cache-evolve ---------------------------------------------------------------------------------------------


def test_prefix_cache_evolve(tmp_path: Path) -> None:
    trace = prefix_cache_evolve.read(write(tmp_path / "e", EVOLVE), 4)
    assert ids(trace) == [[0, 1], [2, 3]]
    assert listed(trace.tenant) == [0, 1]
    assert listed(trace.session) == [0, 0]
    assert listed(trace.priority) == [2, 0]
    assert listed(trace.request_type) == [0, -1]
    assert trace.provenance["repairs"] == {"rechain": 2}
    assert trace.provenance["unused_fields"] == {"predicted_output_length": 1}


@given(trace=random_traces())
def test_prefix_cache_evolve_there_and_back(tmp_path: Path, trace: Trace) -> None:
    path = tmp_path / "x.pce.jsonl"
    if trace.input_tokens.min() < 1:
        with pytest.raises(TraceError, match="no requests without tokens"):
            prefix_cache_evolve.write(trace, path)
        return
    prefix_cache_evolve.write(trace, path)
    back = prefix_cache_evolve.read(path, trace.block_tokens)
    for name in ("offsets", "block_ids", "input_tokens", "output_tokens"):
        assert (getattr(back, name) == getattr(trace, name)).all()
    assert back.arrival_s == pytest.approx(trace.arrival_s)
    if trace.session is not None:
        assert (back.turn == trace.turn).all()


# ---- RAGPulse --------------------------------------------------------------------------------------------------------


def test_ragpulse_by_hand(tmp_path: Path) -> None:
    trace = load(f"{ragpulse_folder(tmp_path / 'rag')}?block_tokens=4")
    # a: 6 + 3 + 5 + 0 + 2 = 16 tokens; b: 6 + 3 + 1 + 2 = 12, of which 9 are those of a
    assert trace.arrival_s.tolist() == [3.0, 90.0]
    assert ids(trace) == [[0, 1, 2, 3], [0, 1, 4]]
    assert trace.input_tokens.tolist() == [19, 14]
    assert listed(trace.session) == [0, 1]
    assert trace.provenance["repairs"] == {"clip_input": 1, "clip_input_tokens": 1, "sort_time": 1}


def test_ragpulse_that_lacks_a_file(tmp_path: Path) -> None:
    ragpulse_folder(tmp_path)
    (tmp_path / "3_history.jsonl").unlink()
    with pytest.raises(TraceError, match=r"3_history\.jsonl: No such file .*check the path"):
        ragpulse.read(tmp_path)


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "records", "line", "field", "words"),
    [
        ("closed_loop", changed(without(MOONCAKE, 2, "timestamp"), 2, delay=5), 2, "timestamp", "session_id to follow"),
        ("closed_loop", changed(without(CLOSED_LOOP, 1, "created_time"), 1, delay=3), 1, "delay", "first row"),
        ("closed_loop", changed(CLOSED_LOOP, 2, delay_ms=-1), 2, "delay_ms", "got -1"),
        ("closed_loop", changed(CLOSED_LOOP, 2, session_id=1.5), 2, "session_id", "string or an integer"),
        ("closed_loop", changed(CLOSED_LOOP, 3, priority=2**31), 3, "priority", "integer from"),
        ("mooncake", changed(MOONCAKE, 2, wait_for=["x"]), 2, "wait_for", "read agentic_mooncake:"),
        ("mooncake", changed(MOONCAKE, 1, input_length=30), 1, "hash_ids", "repair='clip_input'"),
        ("delta", changed(DELTA, 3, hash_ids=[3]), 3, "hash_ids", "expected 2 ids"),
        ("delta", without(DELTA, 2, "hash_ids"), 2, "hash_ids", "no block identity"),
        ("bailian", changed(BAILIAN, 2, hash_ids=[8]), 2, "hash_ids", "repair='clip_input'"),
        ("bailian", changed(BAILIAN, 2, hash_ids=[8, 7, 6]), 2, "hash_ids", "block_tokens"),
        ("bailian", changed(BAILIAN, 2, timestamp="1"), 2, "timestamp", "seconds"),
        ("bailian", changed(BAILIAN, 3, timestamp=0.1), 3, "arrival_s", "repair='sort_time'"),
        ("bailian", changed(BAILIAN, 3, turn=0), 3, "turn", "from 1"),
        ("bailian", changed(BAILIAN, 3, chat_id=[1]), 3, "chat_id", "string or an integer"),
        ("dynamo", changed(DYNAMO, 1, schema="dynamo.request.trace.v2"), 1, "schema", "version is not known"),
        ("dynamo", changed(DYNAMO, 1, event_type="request_start"), 1, "event_type", "request_end"),
        ("dynamo", changed(DYNAMO, 1, request=3), 1, "request", "an object"),
        ("dynamo", changed(DYNAMO, 1, request={"replay": None}), 1, "replay", "an object"),
        ("dynamo", [DYNAMO[0], ended("x", 5, 9, 1, 2)], 2, "input_sequence_hashes", "expected 3 hashes"),
        ("dynamo", [DYNAMO[0], ended("x", 5, 4, 2**64)], 2, "input_sequence_hashes", "integer block ids"),
        ("dynamo", [DYNAMO[0], ended("x", 5, 8, 22, 2**64 - 1)], 1, "block_ids", "repair='rechain'"),
        ("agentic_1", changed(AGENTIC_1, 2, wait_for=["gone"]), 2, "wait_for", "a request id of this file"),
        ("agentic_1", changed(AGENTIC_1, 1, wait_for=["child"]), 1, "wait_for", "circle"),
        ("agentic_1", changed(AGENTIC_1, 3, request_id="root"), 3, "request_id", "not used before"),
        ("agentic_1", without(AGENTIC_1, 1, "timestamp"), 1, "created_time", "milliseconds"),
        ("agentic_1", changed(AGENTIC_1, 3, tool_wait_ms=-1), 3, "tool_wait_ms", "got -1"),
        ("agentic_2", changed(AGENTIC_2, 1, version=3), 1, "version", "version 2"),
        ("agentic_2", changed(AGENTIC_2, 1, block_size=0), 1, "block_size", "from 1"),
        ("agentic_2", [*AGENTIC_2, AGENTIC_2[0]], 6, "schema", "first line only"),
        ("agentic_2", without(AGENTIC_2, 5, "not_before_ms"), 5, "not_before_ms", "missing"),
        ("agentic_2", [AGENTIC_2[0], SELFISH], 2, "dependencies", "circle"),
        ("agentic_2", changed(AGENTIC_2, 3, dependencies=[{"request_id": "r1"}]), 3, "dependencies", "trigger"),
        ("lmcache", changed(LMCACHE, 2, chunk_size=8), 2, "chunk_size", "4 as in the lines before"),
        ("lmcache", changed(LMCACHE, 2, chunk_hashes=["0xaa", "xyz"]), 2, "chunk_hashes", "hex"),
        ("lmcache", changed(LMCACHE, 2, chunk_hashes=["0xaa", 7]), 2, "chunk_hashes", "hex"),
        ("lmcache", changed(LMCACHE, 2, chunk_hashes=["0xaa"]), 2, "chunk_hashes", "repair='clip_input'"),
        ("lmcache", changed(LMCACHE, 2, chunk_hashes=["0xaa"] * 3), 2, "chunk_hashes", "expected 2 hashes"),
        ("lmcache", changed(LMCACHE, 3, timestamp=5), 3, "arrival_s", "repair='sort_time'"),
        ("lmcache", [lookup(1.0, 8, "0xa", "0xb"), lookup(2.0, 8, "0xb", "0xa")], 2, "block_ids", "prefix-chained"),
        ("evolve", changed(EVOLVE, 2, prompt="the secret"), 2, "prompt", "metadata only"),
        ("evolve", changed(EVOLVE, 2, prefix_path=["y", "x"]), 2, "prefix_path", "exactly one of"),
        ("evolve", changed(EVOLVE, 2, prefix_hashes=["y", None]), 2, "prefix_hashes", "strings or integers"),
        ("evolve", changed(EVOLVE, 2, prefix_hashes=["y"]), 2, "prefix_hashes", "expected 2 names"),
        ("evolve", without(EVOLVE, 1, "tenant_id"), 1, "tenant_hash", "exactly one of"),
        ("evolve", changed(EVOLVE, 1, priority=-1), 1, "priority", "from 0"),
        ("ragpulse", changed(RAGPULSE, 1, timestamp="soon"), 1, "timestamp", "number of seconds"),
        ("ragpulse", changed(RAGPULSE, 1, timestamp="nan"), 1, "timestamp", "finite"),
        ("ragpulse", changed(RAGPULSE, 1, hash_ids=[1]), 1, "hash_ids", "an object of lists"),
        ("ragpulse", changed(RAGPULSE, 1, hash_ids={"sys_prompt": [99]}), 1, "hash_ids", "token_length is known"),
        ("ragpulse", changed(RAGPULSE, 2, input_length=3), 2, "hash_ids", "at most input_length 3"),
    ],
)  # fmt: skip
def test_refusals_say_where_and_what(
    tmp_path: Path, reader: str, records: list[Any], line: int, field: str, words: str
) -> None:
    path = ragpulse_folder(tmp_path, records) if reader == "ragpulse" else write(tmp_path / "bad.jsonl", records)
    with pytest.raises(TraceError) as caught:
        READERS[reader][1](path)
    message = str(caught.value)
    assert message.startswith(f"{path}:{line}: "), message
    assert words in message, message
    assert "fix: " in message
    assert caught.value.field == field


def test_content_is_not_repeated_in_the_refusal(tmp_path: Path) -> None:
    path = write(tmp_path / "e", changed(EVOLVE, 2, prompt="xyzzy"))
    with pytest.raises(TraceError) as caught:
        prefix_cache_evolve.read(path, 4)
    assert "xyzzy" not in str(caught.value)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_rates_that_are_none(tmp_path: Path, rate: float) -> None:
    path = write(tmp_path / "c", CLOSED_LOOP)
    with pytest.raises(TraceError, match="decode_tokens_per_s"):
        mooncake.read(path, 4, decode_tokens_per_s=rate)
    with pytest.raises(TraceError, match="window_s"):
        mooncake.read(path, 4, window_s=rate)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    path = write(tmp_path / "d", DELTA)
    with pytest.raises(TraceError, match="prompts='half'; fix: give full or delta"):
        mooncake.read(path, 4, prompts="half")
    with pytest.raises(TraceError, match="has no meaning"):
        mooncake.read(path, 4, prompts="delta", partial_tail="block")
    with pytest.raises(TraceError, match="field 'block_size': expected block_tokens 8 as given"):
        agentic_mooncake.read(write(tmp_path / "a", AGENTIC_2), block_tokens=8)
    long = [row("x", 2**31 - 1, 1, 0, session_id="s", timestamp=0)] * 2
    with pytest.raises(TraceError, match=r"h:2: field 'input_length': expected prompts of at most"):
        mooncake.read(write(tmp_path / "h", long), 2**31 - 1, prompts="delta")
