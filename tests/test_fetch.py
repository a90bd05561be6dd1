"""Downloads against a local HTTP server: whole, cut short, altered, refused, unreachable."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from workloads import TraceError, fetch, load, locate

LINE = b'{"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [0, 1]}\n'
ONE, TWO = LINE * 3, LINE * 5


class Server:
    """A local server whose answers a test sets: path -> (status, announced length or None, body)."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, int | None, bytes]] = {}
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests.append(self.path)
                status, length, body = outer.answers.get(self.path, (404, 0, b""))
                self.send_response(status)
                if length is not None:
                    self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/repo"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def serve(self, path: str, body: bytes, length: int | None = -1, status: int = 200) -> None:
        """Answer a path with a body; length -1 announces the true one."""
        self.answers[f"/repo/{path}"] = (status, len(body) if length == -1 else length, body)


@pytest.fixture
def server(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with a collection of two small files, and an empty cache to put them in."""
    files = (
        fetch.RemoteFile("mooncake_conversation", "r1/conversation_trace.jsonl", hashlib.sha256(ONE).hexdigest()),
        fetch.RemoteFile("mooncake_synthetic", "r2/synthetic_trace.jsonl", hashlib.sha256(TWO).hexdigest()),
    )
    monkeypatch.setattr(
        fetch, "COLLECTIONS", {"mooncake": fetch.Collection("http://127.0.0.1:9/unset", files, "MIT", "A. Author")}
    )
    running = Server()
    running.serve("r1/conversation_trace.jsonl", ONE)
    running.serve("r2/synthetic_trace.jsonl", TWO)
    yield running
    running.http.shutdown()
    running.http.server_close()


def left_behind(cache: Path) -> list[str]:
    """Return the names of all files in the cache."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def test_whole_files_arrive_and_are_found(server: Server, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int, int | None]] = []
    paths = fetch.fetch("mooncake", server.url, progress=lambda name, done, total: seen.append((name, done, total)))
    assert [path.read_bytes() for path in paths] == [ONE, TWO]
    assert left_behind(own_cache) == ["conversation_trace.jsonl", "synthetic_trace.jsonl"]
    assert seen == [("conversation_trace.jsonl", len(ONE), len(ONE)), ("synthetic_trace.jsonl", len(TWO), len(TWO))]
    monkeypatch.delenv(locate.TRACES_VARIABLE, raising=False)
    monkeypatch.setattr(locate, "trace_dirs", lambda: [locate.fetched_dir()])
    assert load("mooncake_synthetic").n_requests == 5


def test_base_url_from_the_environment_and_no_second_download(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fetch.BASE_URL_VARIABLE, server.url + "/")
    paths = fetch.fetch("mooncake")
    assert len(server.requests) == 2
    fetch.fetch("mooncake")
    assert len(server.requests) == 2
    paths[0].write_bytes(b"altered on disk")
    fetch.fetch("mooncake")
    assert len(server.requests) == 3
    assert paths[0].read_bytes() == ONE


@pytest.mark.parametrize(
    ("body", "length", "words"),
    [
        (ONE[:50], len(ONE), "truncated, 50 of"),  # the connection ends early
        (ONE[:50], None, "SHA-256 is"),  # ends early, length not announced
        (ONE[:50], -1, "SHA-256 is"),  # a shorter file
        (ONE.replace(b"600", b"601"), -1, "SHA-256 is"),  # altered, same length
        (ONE + b"\n", -1, "SHA-256 is"),
        (b"", -1, "SHA-256 is"),
    ],
)
def test_cut_or_altered(server: Server, own_cache: Path, body: bytes, length: int | None, words: str) -> None:
    server.serve("r1/conversation_trace.jsonl", body, length)
    with pytest.raises(TraceError, match=words):
        fetch.fetch("mooncake", server.url)
    assert left_behind(own_cache) == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_http_errors(server: Server, own_cache: Path, status: int) -> None:
    server.serve("r2/synthetic_trace.jsonl", b"no", status=status)
    with pytest.raises(TraceError, match=f"HTTP {status}"):
        fetch.fetch("mooncake", server.url)
    assert left_behind(own_cache) == ["conversation_trace.jsonl"]  # whole and checked before the second one failed


def test_a_failed_update_keeps_nothing_of_the_new_file(server: Server, own_cache: Path) -> None:
    target = own_cache / "traces" / "mooncake_conversation" / "conversation_trace.jsonl"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"old")
    server.serve("r1/conversation_trace.jsonl", ONE[:60], len(ONE))
    with pytest.raises(TraceError, match="truncated"):
        fetch.fetch("mooncake", server.url)
    assert target.read_bytes() == b"old"
    assert left_behind(own_cache) == ["conversation_trace.jsonl"]


def test_endless_answers_are_cut_off(server: Server, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 100)
    with pytest.raises(TraceError, match="more than 100 bytes"):
        fetch.fetch("mooncake", server.url)
    assert left_behind(own_cache) == []


def test_no_network_and_no_answer(own_cache: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(TraceError, match=r"cannot download .*check the network"):
            fetch.fetch("mooncake", f"http://127.0.0.1:{taken.getsockname()[1]}")
    with pytest.raises(TraceError, match="cannot download"):
        fetch.fetch("mooncake", "http://host.invalid")
    with socket.socket() as silent:  # accepts, says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(TraceError, match="timed out"):
            fetch.fetch("mooncake", f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.2)
    assert left_behind(own_cache) == []


def test_unwritable_cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv(locate.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(TraceError, match="cannot write"):
        fetch.fetch("mooncake", server.url)


def test_bad_arguments(own_cache: Path) -> None:
    with pytest.raises(TraceError, match="did you mean 'mooncake'"):
        fetch.fetch("moncake")
    with pytest.raises(TraceError, match="http"):
        fetch.fetch("mooncake", "file:///etc")
    with pytest.raises(TraceError, match="unknown trace of mooncake 'bailian_a'"):
        fetch.fetch("mooncake", only=["bailian_a"])


def test_one_of_a_collection(server: Server) -> None:
    (path,) = fetch.fetch("mooncake", server.url, only=["mooncake_synthetic"])
    assert path.read_bytes() == TWO
    assert server.requests == ["/repo/r2/synthetic_trace.jsonl"]


def test_pins_match_the_real_files(trace_path: Callable[[str], Path]) -> None:
    pins = {file.trace: file.sha256 for file in fetch.COLLECTIONS["mooncake"].files}
    assert set(pins) == {"mooncake_arxiv", "mooncake_conversation", "mooncake_synthetic", "mooncake_toolagent"}
    for name in ("mooncake_conversation", "mooncake_synthetic"):
        data = trace_path(name).read_bytes()
        plain = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        assert hashlib.sha256(plain).hexdigest() == pins[name]


def test_what_is_fetched_has_a_name_and_says_so() -> None:
    for name, collection in fetch.COLLECTIONS.items():
        for file in collection.files:
            entry = locate.KNOWN_TRACES.get(file.trace)
            if entry is None:
                assert name in ("azure2023", "burstgpt")  # lengths only: no trace to load
            else:
                assert Path(file.path).name in entry.files
                assert (entry.collection, entry.licence) == (name, collection.licence)
