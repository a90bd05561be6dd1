"""Coverage-guided fuzzing of the trace readers (`make fuzz`): a file is read, or refused with `TraceError`.

The first byte chooses the reader, the rest is the file; valid files are the seeds.
Usage: python tests/fuzz_traces.py [libFuzzer options, for example -max_total_time=60]
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["workloads"]):
    import trace_files as files

    from workloads import Trace, formats, load
    from workloads.errors import TraceError

LINES = (
    ("{}?block=4", files.MOONCAKE),
    ("mooncake:{}?block=4", files.MOONCAKE),
    ("mooncake:{}?block=4&window_s=9&repair=clip_input", files.CLOSED_LOOP),
    ("mooncake:{}?block=4&prompts=delta", files.DELTA),
    ("kvt1:{}", files.KVT1),
    ("kvsess1:{}?window_s=9", files.KVSESS1),
    ("bailian:{}", files.BAILIAN),
    ("dynamo:{}", files.DYNAMO),
    ("agentic_mooncake:{}?block=4", files.AGENTIC_1),
    ("agentic_mooncake:{}", files.AGENTIC_2),
    ("lmcache:{}?repair=clip_input", files.LMCACHE),
    ("prefix_cache_evolve:{}?block=4", files.EVOLVE),
)
WEKA = (
    b'{"id": "a", "block_size": 4, "requests": [{"t": 0, "in": 9, "out": 3, "hash_ids": [1, 2]}, {"t": 2,'
    b' "type": "subagent", "requests": [{"t": 0, "in": 4, "out": 1, "hash_ids": [7]}]}]}\n'
)
RECORDED = (
    b'{"timestamp": 1, "input_length": 5, "output_length": 1, "block_size": 4, "session_id": "a", "hash_ids": [9, 1]}\n'
)
CHAT = b'{"messages": [{"role": "user", "content": "Hi"}], "time": 3, "session_id": "s", "output_tokens": 4}\n'
SHAREGPT = b'[{"id": "a_0", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}]'


def in_lines(records: files.Records) -> bytes:
    """Return records as JSON lines."""
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def binary() -> Iterator[tuple[str, bytes]]:
    """Yield small valid files of the binary formats, and how they are read."""
    trace = Trace.build(
        name="x",
        block_tokens=16,
        offsets=[0, 2, 4],
        block_ids=[0, 1, 0, 2],
        arrival_s=[0.0, 1.0],
        input_tokens=[40, 32],
        output_tokens=[2, 0],
    )
    with tempfile.TemporaryDirectory() as folder:
        for spec, suffix in (
            ("{}", ".npz"),
            ("oracle_general:{}", ".oracleGeneral"),
            ("oracle_general:{}?requests=marked", ".oracleGeneral.zst"),
            ("oracle_general:{}?requests=time&repair=rechain", ".oracleGeneral"),
        ):
            path = Path(folder) / f"x{suffix}"
            formats.writer(path).write(trace, path)
            yield spec, path.read_bytes()
        packed = io.BytesIO()
        files.ragpulse_folder(Path(folder) / "rag")
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            archive.add(Path(folder) / "rag", "raw")
        yield "ragpulse:{}?block=4", packed.getvalue()


MORE = (
    ("weka:{}?window_s=9&think_s=1", WEKA),
    ("recorded:{}", RECORDED),
    ("openai_chat:{}?window_s=9&think_s=1", CHAT),
    ("sharegpt:{}?window_s=9&think_s=1", SHAREGPT),
)
SEEDS = (*((spec, in_lines(records)) for spec, records in LINES), *MORE, *binary())


def one_input(path: Path, data: bytes) -> None:
    """Read one file; anything but a trace or a `TraceError` is a finding."""
    if not data:
        return
    path.write_bytes(data[1:])
    try:
        trace = load(SEEDS[data[0] % len(SEEDS)][0].format(path))
    except TraceError:
        return
    assert trace.n_requests == trace.arrival_s.size
    assert np.all(np.diff(trace.arrival_s) >= 0)


def main() -> None:
    """Fuzz from the seeds on."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for i, (_, start) in enumerate(SEEDS):
            (corpus / str(i)).write_bytes(bytes([i]) + start)
            (corpus / f"{i}.gz").write_bytes(bytes([i]) + gzip.compress(start))
        options = ["-rss_limit_mb=4096", "-timeout=20", "-max_len=16384", *sys.argv[1:], str(corpus)]
        atheris.Setup([sys.argv[0], *options], partial(one_input, Path(folder) / "fuzz"))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
