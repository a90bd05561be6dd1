"""The recorder: answers pass untouched whatever happens to it, and the log says nothing without the key."""

from __future__ import annotations

import asyncio
import http.server
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from text_files import SECRETS, characters, forms, lines

from workloads import TraceError, load
from workloads.keys import load_key
from workloads.readers import openai_chat, recorded
from workloads.recording import journal, middleware
from workloads.recording.journal import Journal
from workloads.recording.middleware import Recorder
from workloads.text.tokenizer import load_tokenizer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples" / "recording"
CHAT = "/v1/chat/completions"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answering(
    *pieces: bytes, status: int = 200, kind: bytes = b"application/json", headers: tuple[Any, ...] = ()
) -> Any:
    """An application that reads the request and answers with these pieces."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        known = [(b"Content-Type", kind), *headers]
        await send({"type": "http.response.start", "status": status, "headers": known})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return app


def said(text: str, **usage: Any) -> bytes:
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]}
    return json.dumps(answer | ({"usage": usage} if usage else {})).encode()


def events(*words: str, usage: dict[str, int] | None = None) -> list[bytes]:
    pieces = [f"data: {json.dumps({'choices': [{'index': 0, 'delta': {'content': word}}]})}\n\n" for word in words]
    if usage:
        pieces.append(f"data: {json.dumps({'choices': [], 'usage': usage})}\r\n\r\n")
    whole = "".join([": comment\n\n", *pieces, "data: [DONE]\n\n"]).encode()
    return [whole[i : i + 7] for i in range(0, len(whole), 7)]  # pieces that do not keep to events


def ask(app: Any, body: bytes, path: str = CHAT, headers: tuple[Any, ...] = (), method: str = "POST") -> list[Any]:
    """Send one request, its body in two pieces; return the messages of the answer."""
    answer: list[Any] = []
    parts = iter([body[:5], body[5:]])

    async def receive() -> Any:
        piece = next(parts)
        return {"type": "http.request", "body": piece, "more_body": piece is not body[5:] and piece == body[:5]}

    async def send(message: Any) -> None:
        answer.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": list(headers)}
    asyncio.run(app(scope, receive, send))
    return answer


def chat(*texts: str, **more: Any) -> bytes:
    roles = ["user", "assistant"] * len(texts)
    return json.dumps(
        {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=False)], **more}
    ).encode()


Start = Callable[..., Recorder]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Put a recorder before an application; blocks of 4 tokens, a character each."""
    tokenizer, made = characters(tmp_path), list[Recorder]()

    def begin(app: Any) -> Recorder:
        made.append(Recorder(app, tmp_path / "log", tmp_path / "key", tokenizer, 4))
        return made[-1]

    yield begin
    for recorder in made:
        recorder.journal.close()


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("*.jsonl")) for line in file.read_bytes().splitlines()]


def done(recorder: Recorder) -> dict[str, int]:
    recorder.journal.close()
    return dict(recorder.journal.counts)


# ---- what is recorded ------------------------------------------------------------------------------------------------


def test_a_log_is_what_a_reader_makes_of_the_same_text(start: Start, tmp_path: Path) -> None:
    recorder = start(answering(said("So", prompt_tokens=9, completion_tokens=40)))
    bodies = [chat("Hi"), chat("Hi", "Hello", "Why"), chat("Hi", model="m"), chat("Hi", model="m", cache_salt="x")]
    for body in bodies:
        ask(recorder, body)
    assert done(recorder) == {"recorded": 4}
    found = logged(tmp_path / "log")
    path = lines(tmp_path / "text.jsonl", [json.loads(body) for body in bodies])
    sessions = openai_chat.read(path, str(tmp_path / "tokenizer.json"), 4, key=load_key(tmp_path / "key"))
    keys = sessions.block_keys.tolist()  # type: ignore[attr-defined]
    starts, lengths, rows = (getattr(sessions, f"run_{n}").tolist() for n in ("starts", "lengths", "rows"))
    for number, line in enumerate(found):
        runs = range(rows[number], rows[number + 1])
        ids = [keys[block] for run in runs for block in range(starts[run], starts[run] + lengths[run])]
        assert line["hash_ids"][: line["input_length"] // 4] == ids
        assert line["input_length"] == sessions.input_tokens[number]
        assert (line["output_length"], line["reported_input_length"], line["block_size"]) == (40, 9, 4)
    trace = load(str(tmp_path / "log"))
    assert (trace.provenance["format"], trace.block_tokens, trace.n_requests) == ("recorded", 4, 4)
    assert trace.input_tokens.tolist() == sessions.input_tokens.tolist()
    assert trace.n_blocks == len(keys)


def test_streams_pass_untouched_and_are_counted(start: Start, tmp_path: Path) -> None:
    pieces = events("It ", "will ", "rain.")
    plain = answering(*pieces, kind=b"text/event-stream; charset=utf-8")
    recorder = start(plain)
    assert ask(recorder, chat("Hi", stream=True)) == ask(plain, chat("Hi", stream=True))
    recorder.app = answering(*events("It", usage={"completion_tokens": 7}), kind=b"text/event-stream")
    ask(recorder, chat("Hi"))
    assert done(recorder) == {"recorded": 2}
    assert [line["output_length"] for line in logged(tmp_path / "log")] == [len("It will rain."), 7]


def test_answers_are_counted_where_the_server_does_not(start: Start, tmp_path: Path) -> None:
    calls = [{"function": {"name": "f", "arguments": "{}"}}]
    two = {"choices": [{"index": i, "message": {"content": t, "reasoning_content": "hm"}} for i, t in enumerate("ab")]}
    recorder = start(answering(json.dumps(two).encode()))
    ask(recorder, chat("Hi"))
    recorder.app = answering(json.dumps({"choices": [{"message": {"content": None, "tool_calls": calls}}]}).encode())
    ask(recorder, chat("Hi"))
    recorder.app = answering(json.dumps({"choices": [{"text": "four"}], "usage": {"completion_tokens": "?"}}).encode())
    ask(recorder, json.dumps({"prompt": [5, 6, 7, 8, 9]}).encode(), "/root/v1/completions")
    ask(recorder, json.dumps({"prompt": ["abcde"]}).encode(), "/v1/completions")
    assert done(recorder) == {"recorded": 4}
    found = logged(tmp_path / "log")
    assert [line["output_length"] for line in found] == [6, 3, 4, 4]
    assert [line["input_length"] for line in found[2:]] == [5, 5]
    assert [len(line["hash_ids"]) for line in found[2:]] == [2, 2]


def test_sessions_and_tenants_are_keyed(start: Start, tmp_path: Path) -> None:
    recorder = start(answering(said("So")))
    header = (b"X-Session-Id", b"one")
    ask(recorder, chat("Hi", user="u"), headers=(header, (b"authorization", b"Bearer k")))
    ask(recorder, chat("Hi", session_id="one"), headers=((b"authorization", b"Bearer k"),))
    ask(recorder, chat("Hi", metadata={"session_id": "two"}, user="u"))
    ask(recorder, chat("Hi"))
    done(recorder)
    found = logged(tmp_path / "log")
    sessions, tenants = ([line.get(name) for line in found] for name in ("session_id", "tenant_id"))
    assert sessions[0] == sessions[1] != sessions[2]
    assert tenants[0] == tenants[2] != tenants[1]
    assert (sessions[3], tenants[3]) == (None, None)
    trace = load(f"recorded:{tmp_path / 'log'}")
    assert trace.session.tolist() == [0, 0, 1, -1]
    assert trace.turn.tolist() == [0, 1, 0, -1]
    assert trace.tenant.tolist() == [0, 1, 0, -1]


def test_the_log_says_nothing(start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text, who, address, session = SECRETS
    recorder = start(answering(said(text)))
    headers = ((b"x-session-id", session.encode()), (b"authorization", f"Bearer {address}".encode()))
    ask(recorder, chat(text * 3, model=who, user=who, tools=[{"name": text}]), headers=headers)
    for body in (
        text.encode(),
        chat(text)[:-3],
        b'{"messages": [{"role": "user", "content": {"%s": 1}}]}' % text.encode(),
    ):
        ask(recorder, body, headers=headers)
    recorder.app = answering(said(text)[:-4])
    ask(recorder, chat(text), headers=headers)
    counts = done(recorder)
    assert (counts.pop("recorded"), sum(counts.values())) == (1, 4)
    tokens = load_tokenizer(str(tmp_path / "tokenizer.json")).encode(text)
    written = b"".join(file.read_bytes() for file in (tmp_path / "log").iterdir())
    said_aloud = f"{caplog.text} {counts}".encode()
    assert written.count(b"\n") == 1
    for secret in SECRETS:
        assert not any(form in written or form in said_aloud for form in forms(secret, tokens))
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "log").iterdir()} == {0o600}
    assert caplog.text


# ---- what is not, and never disturbs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "answer", "why"),
    [
        (chat("Hi"), answering(b"{}", status=400), "status 400"),
        (b"[1]", answering(b"{}"), "request is no JSON object"),
        (b"{" * 100_000, answering(b"{}"), "request is no JSON object"),
        (b'{"messages": 3}', answering(b"{}"), "prompt is neither one text nor tokens"),
        (b'{"prompt": [1, true]}', answering(b"{}"), "prompt is neither one text nor tokens"),
        (b'{"prompt": ["a", "b"]}', answering(b"{}"), "prompt is neither one text nor tokens"),
        (b'{"messages": [3]}', answering(b"{}"), "messages without roles"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
            answering(b"{}"),
            "messages with more",
        ),
        (chat("Hi"), answering(b"no"), "answer is no JSON object"),
        (chat("Hi"), answering(b'{"choices": [{"index": []}]}'), "failed: TypeError"),
        (chat("Hi"), answering(b"x", headers=((b"content-encoding", b"gzip"),)), "packed answer"),
        (chat("Hi"), answering(b"x" * 300), "longer than the recorder keeps"),
        (chat("Hi"), answering(b"{}", headers=(("not", "bytes"),)), "failed: TypeError"),
    ],
)
def test_what_cannot_be_recorded(
    start: Start, monkeypatch: pytest.MonkeyPatch, body: bytes, answer: Any, why: str
) -> None:
    if "longer" in why:
        monkeypatch.setattr(middleware, "MAX_BODY_BYTES", 200)
    recorder = start(answer)
    assert ask(recorder, body) == ask(answer, body)
    counts = done(recorder)
    assert len(counts) == 1
    assert next(iter(counts)).startswith(why)


def test_other_requests_are_not_looked_at(start: Start, tmp_path: Path) -> None:
    recorder = start(answering(said("So")))
    for path, method in (("/health", "POST"), ("/v1/models", "GET"), (CHAT, "GET")):
        ask(recorder, chat("Hi"), path, method=method)
    assert done(recorder) == {}
    assert list((tmp_path / "log").iterdir()) == []


def test_errors_of_the_server_and_clients_pass(start: Start) -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise LookupError("the server's own")

    recorder = start(failing)
    with pytest.raises(LookupError, match="the server's own"):
        ask(recorder, chat("Hi"))
    assert done(recorder) == {"status none": 1}


def test_a_full_disk_is_not_the_servers_trouble(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, write = start(answering(said("So"))), os.write
    monkeypatch.setattr(journal.os, "write", lambda handle, data: write(handle, data[:10]))
    first = ask(recorder, chat("Hi"))
    while not recorder.journal.counts:
        threading.Event().wait(0.01)
    monkeypatch.setattr(journal.os, "write", write)
    assert ask(recorder, chat("Hi")) == first
    assert done(recorder) == {"disk full": 1, "recorded": 1}
    files = sorted((tmp_path / "log").iterdir())
    assert [len(file.read_bytes().splitlines()) for file in files] == [1, 1]
    trace = load(f"recorded:{tmp_path / 'log'}")
    assert (trace.n_requests, trace.provenance["unfinished_lines_dropped"]) == (1, 1)


def test_the_queue_is_bounded(tmp_path: Path) -> None:
    hold, begun = threading.Event(), threading.Event()

    def slow() -> bytes:
        begun.set()
        hold.wait(10)
        return b"{}\n"

    with closing(Journal(tmp_path / "a", max_jobs=2, max_queued_bytes=100)) as many:
        many.submit(slow, 1)
        begun.wait(10)
        for size in (1, 60, 60, 1, 1):  # the third is too much, the last finds two waiting
            many.submit(lambda: b"{}\n", size)
        hold.set()
    assert many.counts == {"recorded": 3, "queue full": 3}


def test_files_rotate(tmp_path: Path) -> None:
    with closing(Journal(tmp_path, file_bytes=20)) as made:
        for number in range(7):
            made.submit(lambda number=number: b'{"number": %d}\n' % number, 10)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 4
    assert b"".join(file.read_bytes() for file in files).count(b"\n") == 7


KILLED = """
import os, sys, threading, time
from pathlib import Path
from workloads.recording.journal import Journal
journal = Journal(Path(sys.argv[1]))
line = b'{"timestamp":1,"input_length":4,"output_length":1,"block_size":4,"hash_ids":[7]}' + chr(10).encode()
for _ in range(500):
    journal.submit(lambda: line, 1)
while journal.counts["recorded"] < 500:
    time.sleep(0.01)
threading.Timer(0.05, lambda: os.kill(os.getpid(), 9)).start()
while True:
    journal.submit(lambda: line, 1)
"""


def test_a_killed_recorder_leaves_whole_lines(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[1]
    died = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "log")], cwd=root, capture_output=True)
    assert died.returncode == -9
    assert load(f"recorded:{tmp_path / 'log'}").n_requests >= 500


# ---- settings --------------------------------------------------------------------------------------------------------


def test_settings_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"FOLDER": str(tmp_path / "log"), "KEY": str(tmp_path / "key"), "TOKENIZER": characters(tmp_path)}
    for name, value in {**given, "BLOCK": "8"}.items():
        monkeypatch.setenv(f"KVEVOLVE_RECORD_{name}", value)
    recorder = Recorder(app=answering(said("So")))  # as vLLM makes it
    ask(recorder, chat("Hi"))
    assert done(recorder) == {"recorded": 1}
    assert logged(tmp_path / "log")[0]["block_size"] == 8
    for name, value, problem in (
        ("BLOCK", "many", "KVEVOLVE_RECORD_BLOCK"),
        ("BLOCK", "0", "block_tokens"),
        ("TOKENIZER", "absent", "neither a file"),
        ("KEY", "", "KVEVOLVE_RECORD_KEY"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(f"KVEVOLVE_RECORD_{name}", value)
            with pytest.raises(TraceError, match=problem):
                Recorder(answering())


def test_the_end_of_the_server_is_the_end_of_the_log(start: Start, tmp_path: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "lifespan.shutdown.complete"})

    recorder = start(answering(said("So")))
    ask(recorder, chat("Hi"))
    recorder.app = app
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(recorder({"type": "lifespan"}, None, send))  # type: ignore[arg-type]
    assert sent == [{"type": "lifespan.shutdown.complete"}]
    assert len(logged(tmp_path / "log")) == 1


# ---- the reader of logs ----------------------------------------------------------------------------------------------

LINE = {"timestamp": 2.5, "input_length": 5, "output_length": 1, "block_size": 4, "hash_ids": [2**63 - 1, 1]}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ({"block_size": 0}, "field 'block_size'"),
        ({"block_size": 8, "hash_ids": [1]}, "field 'block_size': expected 4, as before"),
        ({"hash_ids": [1]}, "2 ids = input_length 5 / block_size 4"),
        ({"hash_ids": [1, 2**63]}, "field 'hash_ids'"),
        ({"timestamp": "now"}, "field 'timestamp'"),
        ({"input_length": -5}, "field 'input_length'"),
        ({"output_length": None}, "field 'output_length'"),
        ({"session_id": [1]}, "field 'session_id'"),
        ({"priority": 1.5}, "field 'priority'"),
    ],
)
def test_logs_that_are_refused(tmp_path: Path, broken: dict[str, Any], problem: str) -> None:
    path = lines(tmp_path / "log.jsonl", [LINE, LINE | broken])
    with pytest.raises(TraceError, match=problem) as refused:
        recorded.read(path)
    assert f"{path}:2" in str(refused.value)


def test_logs_that_are_cut(tmp_path: Path) -> None:
    path = lines(tmp_path / "log.jsonl", [LINE | {"timestamp": 9}, LINE | {"priority": 3, "cached_tokens": 4}])
    path.write_text(path.read_text() + '{"timestamp": 1')
    trace = recorded.read(path)
    assert trace.arrival_s.tolist() == [0.0025, 0.009]
    assert trace.priority.tolist() == [3, -1]
    assert trace.provenance["requests_sorted_by_time"] == 1
    assert trace.provenance["unused_fields"] == {"cached_tokens": 1}
    lines(path, ['{"timestamp": 1', json.dumps(LINE)])
    with pytest.raises(TraceError, match=r"log\.jsonl:1"):
        recorded.read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match="no requests"):
        recorded.read(tmp_path / "empty")


# ---- examples --------------------------------------------------------------------------------------------------------


def test_the_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("record").main(tmp_path / "out", characters(tmp_path))
    assert "{'recorded': 6}" in capsys.readouterr().out
    assert load(str(tmp_path / "out" / "log")).n_requests == 6


class _Upstream(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for piece in events(body["messages"][0]["content"], self.path):
            self.wfile.write(piece)

    def log_message(self, *_: Any) -> None:
        pass


def test_the_proxy(start: Start, tmp_path: Path) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        recorder = start(example("proxy").forward(host))
        answer = ask(recorder, chat("Hi"))
        server.shutdown()
    assert answer[0]["status"] == 200
    assert b"".join(part.get("body", b"") for part in answer[1:]) == b"".join(events("Hi", CHAT))
    assert ask(recorder, chat("Hi"))[0]["status"] == 502  # nobody there any more
    assert done(recorder) == {"recorded": 1, "status 502": 1}
