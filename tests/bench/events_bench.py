"""How fast recordings of KV-cache events are read, by how many blocks an event lists; how fast they are compared.

Rates are of CPU time. Parsing walks every byte, and most are token ids, 16 a block: MB/s is the steadier figure.

    python tests/bench/events_bench.py [--blocks 2000000]
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from sim.engine_events import engine_events
from sim.event_fidelity import compare
from sim.tables import table
from workloads import events, load
from workloads.events.layout import room
from workloads.events.msgpack import parse

BLOCK_TOKENS = 16


def recording(path: Path, blocks: int, per_event: int, stored: bool, lines: bool) -> None:
    """Write events, an event a message; random hashes, and token ids below 50,000 as most are."""
    rng = random.Random(0)
    parts = []
    for _ in range(blocks // per_event):
        event: dict[str, object] = {"type": "BlockStored" if stored else "BlockRemoved"}
        event |= {"block_hashes": [rng.getrandbits(64) for _ in range(per_event)], "medium": "GPU", "group_idx": 0}
        if stored:
            tokens = rng.choices(range(50_000), k=BLOCK_TOKENS * per_event)
            event |= {"parent_block_hash": 1, "token_ids": tokens, "block_size": BLOCK_TOKENS, "lora_id": None}
        batch = [1.0, [event], 0]
        parts.append(msgspec.json.encode(batch) + b"\n" if lines else msgspec.msgpack.encode(batch))
    path.write_bytes(b"".join(parts))


def best(action: object, times: int = 3) -> float:
    """Return the least CPU time in s."""
    spent = []
    for _ in range(times):
        start = time.process_time()
        action()  # type: ignore[operator]
        spent.append(time.process_time() - start)
    return min(spent)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=2_000_000)
    blocks = parser.parse_args().blocks
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for stored, per_event, lines in ((1, 1, 0), (1, 16, 0), (1, 256, 0), (0, 1, 0), (0, 256, 0), (1, 16, 1)):
            path = Path(folder) / "recording"
            n = blocks // (8 if lines or per_event == 1 else 1)
            recording(path, n, per_event, bool(stored), bool(lines))
            read_s, size = best(lambda path=path: events.read_streams(path)), path.stat().st_size
            raw = np.fromfile(path, np.uint8)
            space = room(len(raw))
            parsed = "-" if lines else f"{n / best(lambda raw=raw, space=space: parse(raw, False, space)) / 1e6:.1f}"
            kind = f"{'stored' if stored else 'removed'}, {per_event} an event{', JSON' * bool(lines)}"
            rows.append([kind, f"{n / read_s / 1e6:.1f}", f"{size / read_s / 1e6:.0f}", parsed])
    print(table(["recording", "read, M blocks/s", "MB/s", "of that parsing, M blocks/s"], rows))
    trace = load("synthetic:chat?seed=1&requests=3000")
    simulated = engine_events(trace, trace.n_blocks // 20)
    spent = best(lambda: compare(simulated, simulated), 1)
    print(f"compared: {len(simulated.block) / spent / 1e6:.2f} M blocks/s, {len(simulated.block):,} blocks")


if __name__ == "__main__":
    main()
