"""Readers of sessions and text: block ids and tokens per second of CPU time, peak memory, each in a process of its own.

WEKA sessions: the 30 raw ones of the shared traces, and a folder of clones with fresh names. Text: the raw LMCache
agent text as it is, and the same prompts as an OpenAI-style log and as a ShareGPT array (each prompt one user message),
beside nothing but the tokenizer on the same text. Then lines of a recorded log, written and read, and what the recorder
adds to a request.

    python tests/bench/text_bench.py [--clones 4]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import zstandard

from sim.tables import table
from workloads import locate

ROOT = Path(__file__).resolve().parents[2]
CALLS = 200
CHILD = """
import json, os, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from workloads import formats, materialise
kind, path, what = sys.argv[1:]
import orjson, numba
module = formats.module(kind)
encode = None
if kind not in ("weka", "recorded"):
    from workloads.text.tokenizer import load_tokenizer
    encode = load_tokenizer("qwen").encode
if what == "tokenizer":
    texts = orjson.loads(Path(path).read_bytes())
start = time.process_time()
if what == "tokenizer":
    tokens, ids = sum(len(encode(text)) for text in texts), 0
else:
    found = module.read(path)
    ids = int(found.run_lengths.sum()) if hasattr(found, "run_lengths") else found.n_refs
    tokens = int(found.input_tokens.sum()) + int(found.output_tokens.sum())
seconds = time.process_time() - start
peak = next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(json.dumps({"seconds": seconds, "peak": peak, "ids": ids, "tokens": tokens}))
"""


def measured(name: str, kind: str, path: Path, what: str = "read") -> list[object]:
    """Read a file in a process of its own; return a row of the table."""
    command = [sys.executable, "-c", CHILD, kind, str(path), what]
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    seconds = found["seconds"]
    ids = f"{found['ids'] / seconds / 1e6:.2f} M ids/s" if found["ids"] else ""
    tokens = f"{found['tokens'] / seconds / 1e6:.2f} M tok/s"
    size = sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size
    return [name, f"{size / 1e6:.1f} MB", f"{seconds:.2f} s", ids, tokens, f"{found['peak'] / 1e6:.0f} MB"]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack a .tar.zst; return its folder."""
    content = zstandard.ZstdDecompressor(max_window_size=1 << 31).stream_reader(archive.read_bytes()).read()
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        files.extractall(folder, filter="data")
    return folder / "raw"


def cloned(sessions: Path, folder: Path, copies: int) -> Path:
    """Write every session several times, a token longer each time, so that none is a duplicate."""
    folder.mkdir()
    for file in sorted(sessions.iterdir()):
        session = orjson.loads(file.read_bytes())
        for copy in range(copies):
            session["id"] = f"{file.stem}-{copy}"
            session["tool_tokens"] += copy
            (folder / f"{file.stem}-{copy}.json").write_bytes(orjson.dumps(session))
    return folder


def texts_of(calls: Path, folder: Path) -> dict[str, Path]:
    """Write the prompts and answers of agent calls in other formats; return their files."""
    records = [orjson.loads(line) for file in sorted(calls.rglob("*.jsonl")) for line in file.open("rb")]
    pairs = [(record["input"], record["output"]) for record in records]
    chat = [{"messages": [{"role": "user", "content": a}, {"role": "assistant", "content": b}]} for a, b in pairs]
    talk = [
        {"id": str(i), "conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]}
        for i, (a, b) in enumerate(pairs)
    ]
    paths = {name: folder / f"{name}.json" for name in ("tokenizer", "openai_chat", "sharegpt")}
    paths["tokenizer"].write_bytes(orjson.dumps([text for pair in pairs for text in pair]))
    paths["openai_chat"].write_bytes(b"\n".join(map(orjson.dumps, chat)))
    paths["sharegpt"].write_bytes(orjson.dumps(talk))
    return paths


def per_call_us(app: Any, body: dict[str, Any], calls: int) -> float:
    """Return the time that a request takes the event loop, microseconds."""
    raw = orjson.dumps(body)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": raw}

    async def send(_: Any) -> None:
        pass

    async def run() -> float:
        scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
        start = time.thread_time()
        for _ in range(calls):
            await app(scope, receive, send)
        return time.thread_time() - start

    return asyncio.run(run()) / calls * 1e6


def recorder(folder: Path, text: str) -> list[list[object]]:
    """Return rows on what the recorder costs a request, and how many tokens a second its thread takes."""
    from workloads.recording.middleware import Recorder

    answer = orjson.dumps({"choices": [{"message": {"content": "yes"}}], "usage": {"completion_tokens": 1}})

    async def app(_: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    body = {"messages": [{"role": "user", "content": text}]}
    bare = per_call_us(app, body, CALLS)
    made = Recorder(app, folder / "log", folder / "key", "qwen")
    start = time.process_time()
    watched = per_call_us(made, body, CALLS)
    while sum(made.journal.counts.values()) < CALLS:
        time.sleep(0.01)
    made.journal.close()
    seconds, lines = time.process_time() - start, made.journal.counts["recorded"]
    tokens = sum(orjson.loads(line)["input_length"] for file in (folder / "log").iterdir() for line in file.open("rb"))
    cost = f"+{watched - bare:.0f} us a request of {tokens // max(1, lines):,} tokens"
    return [["recorder", cost, f"{seconds:.2f} s", f"{lines} lines", f"{tokens / seconds / 1e6:.2f} M tok/s", ""]]


def recorded(folder: Path) -> list[list[object]]:
    """Return rows on a log of keyed ids: anonymised Claude Code sessions."""
    from workloads.anonymise import anonymise

    output = folder / "keyed.jsonl"
    start = time.process_time()
    made = anonymise("cc_weka_v8", output, bytes(32))
    seconds = time.process_time() - start
    rate, size = f"{made.n_refs / seconds / 1e6:.2f} M ids/s", f"{output.stat().st_size / 1e6:.1f} MB"
    return [["anonymize cc_weka_v8", size, f"{seconds:.2f} s", rate, "", ""], measured("recorded", "recorded", output)]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clones", type=int, default=4, help="of each WEKA session")
    options = parser.parse_args()
    weka, agent = (locate.require(name).parent for name in ("cc_weka_v8", "lmcache_agent"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sessions = unpack(weka / "cc_weka_v8_raw_30_sessions.tar.zst", folder / "weka")
        calls = unpack(agent / "lmcache_agent_raw.tar.zst", folder / "lmcache")
        texts = texts_of(calls, folder)
        rows = [
            measured("weka, 30 sessions", "weka", sessions),
            measured(f"weka x {options.clones}", "weka", cloned(sessions, folder / "clones", options.clones)),
            measured("tokenizer alone (qwen)", "sharegpt", texts["tokenizer"], "tokenizer"),
            measured("lmcache_text", "lmcache_text", calls),
            measured("openai_chat", "openai_chat", texts["openai_chat"]),
            measured("sharegpt array", "sharegpt", texts["sharegpt"]),
            *recorded(folder),
            *recorder(folder, orjson.loads(texts["tokenizer"].read_bytes())[0] * 20),
        ]
    print(table(["what", "input", "CPU", "block ids", "tokens", "peak RSS"], rows, "llrrrr"))


if __name__ == "__main__":
    main()
