"""Record the traffic of an OpenAI-compatible server: lengths, times and keyed block ids, and nothing that was said.

With vLLM (its own tokenizer.json, so that lengths are exact for models that use ChatML):

    pip install 'kvevolve[traces]'
    export KVEVOLVE_RECORD_FOLDER=log KVEVOLVE_RECORD_KEY=record.key KVEVOLVE_RECORD_TOKENIZER=model/tokenizer.json
    vllm serve MODEL --middleware workloads.recording.middleware.Recorder

For other servers see proxy.py. Then, with the log alone (the key stays where it is):

    kvevolve trace info log
    kvevolve run log --policy arc --capacity 5%

This file records a made-up server in this process: python examples/recording/record.py FOLDER [TOKENIZER]
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from workloads import load
from workloads.recording.middleware import Recorder

SYSTEM = {"role": "system", "content": "You answer questions about the weather, briefly, and never about money. " * 8}


async def server(scope: Any, receive: Any, send: Any) -> None:
    """A server that always says the same, as a stream if asked to."""
    body = json.loads((await receive())["body"])
    usage = {"prompt_tokens": 1, "completion_tokens": 3}
    message = {"index": 0, "message": {"role": "assistant", "content": "It will rain."}}
    texts, kind = [json.dumps({"choices": [message], "usage": usage})], b"application/json"
    if body.get("stream"):
        pieces = [{"choices": [{"index": 0, "delta": {"content": word}}]} for word in ("It ", "will ", "rain.")]
        texts = [f"data: {json.dumps(piece)}\n\n" for piece in pieces] + ["data: [DONE]\n\n"]
        kind = b"text/event-stream"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    for text in texts:
        await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def ask(app: Any, body: dict[str, Any], session: str) -> bytes:
    """Send one request to an application, return the body of its answer."""
    answer = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": json.dumps(body).encode()}

    async def send(message: dict[str, Any]) -> None:
        answer.append(message.get("body", b""))

    headers = [(b"x-session-id", session.encode()), (b"authorization", b"Bearer secret")]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers}
    await app(scope, receive, send)
    return b"".join(answer)


async def record(app: Any) -> None:
    """Have two sessions of three turns each."""
    for session in ("alice-1", "bob-7"):
        messages = [SYSTEM]
        for turn in range(3):
            messages = [*messages, {"role": "user", "content": f"And in the town that {session} names, on day {turn}?"}]
            await ask(app, {"model": "m", "messages": messages, "stream": turn % 2 == 0}, session)
            messages = [*messages, {"role": "assistant", "content": "It will rain."}]


def main(folder: Path, tokenizer: str = "qwen") -> None:
    """Record, read the log, say what is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    recorder = Recorder(server, folder / "log", folder / "record.key", tokenizer)
    asyncio.run(record(recorder))
    recorder.journal.close()
    print(dict(recorder.journal.counts))
    trace = load(f"recorded:{folder / 'log'}")
    print(trace)
    print(f"{trace.n_refs - trace.n_blocks} of {trace.n_refs} blocks were in an earlier prompt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:3])
