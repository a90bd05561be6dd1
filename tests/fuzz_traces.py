"""Coverage-guided fuzzing of the trace readers (`make fuzz`): a file is read, or refused with `TraceError`.

The first byte chooses the reader, the rest is the file; valid files are the seeds.
Usage: python tests/fuzz_traces.py [libFuzzer options, for example -max_total_time=60]
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from functools import partial
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["workloads"]):
    from workloads import Trace, load
    from workloads.errors import TraceError

MOONCAKE = b'{"timestamp": 0, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]}\n'
KVT1 = b'{"format": "kvt1", "name": "x", "block_size": 16}\n{"t": 0, "in": 40, "out": 2, "b": [[0, 2]]}\n'
KVSESS1 = (
    b'{"format": "kvsess1", "block_size": 16, "sessions": 1}\n'
    b'{"session": "a", "requests": [{"t": 0, "a": 0, "in": 40, "out": 2, "b": [[0, 2]]}]}\n'
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


def npz() -> bytes:
    """Return a small valid `.npz` trace."""
    trace = Trace.build(
        name="x",
        block_tokens=16,
        offsets=[0, 2],
        block_ids=[0, 1],
        arrival_s=[0.0],
        input_tokens=[40],
        output_tokens=[2],
    )
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        trace.save(Path(file.name))
        return Path(file.name).read_bytes()


SEEDS = (("mooncake:{}", MOONCAKE), ("kvt1:{}", KVT1), ("kvsess1:{}", KVSESS1), ("{}", npz()), ("{}", MOONCAKE))
SEEDS += (("weka:{}?window_s=9&think_s=1", WEKA), ("recorded:{}", RECORDED))
SEEDS += (("openai_chat:{}?window_s=9&think_s=1", CHAT), ("sharegpt:{}?window_s=9&think_s=1", SHAREGPT))


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
        options = ["-rss_limit_mb=4096", "-timeout=20", "-max_len=4096", *sys.argv[1:], str(corpus)]
        atheris.Setup([sys.argv[0], *options], partial(one_input, Path(folder) / "fuzz.npz"))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
