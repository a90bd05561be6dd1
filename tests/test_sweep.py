"""Sweeps: equal to single replays, counted after the warm-up, resumed, stopped, printed; and the published curves."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import tarfile
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
from conftest import missing
from small_traces import hand_trace

import sim
from sim import cli, sweeper
from sim.bounds import ceiling, optimum
from sim.capacities import parse_capacities
from sim.core import replay, stack
from sim.curves import LRU_FLAT, OPTIMUM, Sweep
from sim.executor import run
from sim.lru_curve import stack_distances
from workloads import Trace, chains, load
from workloads.warmup import first_counted

SPEC = "synthetic:chat?seed=3&requests=600"
MINE = "def priority(block, cache):\n    return block.last_access + 5.0 * block.hits\n"


@pytest.fixture(scope="module")
def trace():
    return load(SPEC)


@pytest.fixture(scope="module")
def swept(trace):
    return sim.sweep(trace, ["lru", "fifo", LRU_FLAT], "1%,5%,90%", warmup="50%")


def counted_hits(result, first: int) -> int:
    return int(np.maximum(result.hit_blocks_per_request[first:], 0).sum()) * result.block_tokens


def test_a_point_is_a_replay(trace, swept):
    first = trace.n_requests // 2
    assert list(swept.policies) == ["vllm", "lru", "fifo", LRU_FLAT, OPTIMUM]
    assert swept.complete
    for policy in ("vllm", "lru", "fifo"):
        for capacity in swept.capacities:
            result = sim.simulate(trace, policy, capacity)
            point = swept.points[policy, capacity]
            assert point.hit_tokens == counted_hits(result, first)
            assert point.peak_used_blocks == result.peak_used_blocks
            assert point.filled == (result.peak_used_blocks == capacity)
    tokens = int(trace.input_tokens[first:].sum())
    assert swept.rate("lru", swept.capacities[0]) == swept.points["lru", swept.capacities[0]].hit_tokens / tokens


def test_a_cache_that_never_fills_is_marked(trace, swept):
    largest = max(swept.capacities)
    assert not sim.sweep(trace, capacities=trace.n_blocks * 2).points["vllm", trace.n_blocks * 2].filled
    assert swept.points["vllm", largest].filled == ("~" not in str(swept))
    assert "~" in str(sim.sweep(trace, capacities=trace.n_blocks * 2))


def test_the_optimum_bounds_what_is_counted(swept):
    for capacity in swept.capacities:
        best = swept.points[OPTIMUM, capacity].hit_tokens
        assert all(swept.points[policy, capacity].hit_tokens <= best for policy in ("vllm", "lru", "fifo"))
        assert best <= swept.ceiling_tokens


def test_the_optimum_after_a_warm_up_counts_nothing_else():
    trace = hand_trace([[0], [1], [2], [0], [1]], [11] * 5)
    assert optimum(trace, 3).hit_blocks_per_request.tolist() == [0, 0, 0, 1, 0]  # while 2 runs, 0 or 1 may be kept
    assert optimum(trace, 3, first_counted=4).hit_blocks_per_request.tolist() == [0, 0, 0, 0, 1]
    assert (ceiling(trace, 4).hit_blocks, ceiling(trace, 4).prompt_tokens) == (1, 11)


def test_capacities():
    assert parse_capacities("1%..100%", 3, 10_000) == (100, 1_000, 10_000)
    assert parse_capacities("10%,7,0.5%", 3, 1_000) == (5, 7, 100)
    assert parse_capacities([0.1, 7, "7"], 3, 1_000) == (7, 100)
    assert parse_capacities(4096, 3, 10) == (4096,)
    for wrong in ("5%..1%", "..3", "x", ""):
        with pytest.raises(ValueError, match=r"capacit"):
            parse_capacities(wrong, 3, 1_000)


def test_warm_up_by_requests_or_time():
    trace = hand_trace([[0]] * 5, [11] * 5, arrival_s=[0, 1, 2, 3, 100])
    assert [first_counted(trace, warmup) for warmup in (0, 3, "3", "50%", 0.5, "50%time", "0%")] == [
        0,
        3,
        3,
        2,
        2,
        4,
        0,
    ]
    for wrong in (5, -1, "100%", "x", "2.5", "10time"):
        with pytest.raises(ValueError, match=r"warmup"):
            first_counted(trace, wrong)


def interrupted_at_fifo(trace, job, replay_job=sweeper.replay_job):
    if job.label == "fifo":
        raise KeyboardInterrupt
    return replay_job(trace, job)


def interrupted(trace, job):
    raise KeyboardInterrupt


def test_a_stopped_sweep_keeps_what_is_done_and_goes_on(trace, swept, monkeypatch):
    whole = sweeper.replay_job
    monkeypatch.setattr(sweeper, "replay_job", interrupted_at_fifo)
    kept = []
    with pytest.raises(sweeper.SweepStopped) as stopped:
        sim.sweep(trace, ["lru", "fifo", LRU_FLAT], "1%,5%,90%", warmup="50%", keep=kept.append)
    assert len(stopped.value.sweep.points) == 2 + 3
    assert kept[-1].points == stopped.value.sweep.points
    assert not stopped.value.sweep.complete
    monkeypatch.setattr(sweeper, "replay_job", whole)
    done = Sweep.from_dict(json.loads(json.dumps(kept[-1].to_dict())))
    ticks = []
    again = sim.sweep(trace, ["lru", "fifo", LRU_FLAT], "1%,5%,90%", warmup="50%", done=done, progress=ticks.append)
    assert again.to_dict() == swept.to_dict()
    assert ticks[-1].done == ticks[-1].total == 12 - 2


def test_sampled_evictions_are_those_of_user_policies(trace):
    found = sim.sweep(trace, ["lru", "zoo:arc"], "5%", eviction_sample=4)
    (capacity,) = found.capacities
    drawn = sim.simulate(trace, "lru", capacity, eviction_sample=4)
    assert found.points["lru", capacity].hit_tokens == drawn.hit_tokens
    assert drawn.hit_tokens != sim.simulate(trace, "lru", capacity).hit_tokens
    for exact in ("vllm", "zoo:arc"):
        assert found.points[exact, capacity].hit_tokens == sim.simulate(trace, exact, capacity).hit_tokens
    with pytest.raises(ValueError, match="eviction_sample is for user policies"):
        sim.sweep(trace, capacities="5%", eviction_sample=4)


def test_a_file_called_like_a_column_gets_a_label_of_its_own(trace, tmp_path):
    for name in ("optimum", "mine"):
        (tmp_path / f"{name}.py").write_text(MINE)
    files = [tmp_path / "optimum.py", tmp_path / "mine.py", tmp_path / "mine.py"]
    found = sim.sweep(trace, files, "5%")
    labels = list(found.policies)
    assert [label.partition("@")[0] for label in labels] == ["vllm", "optimum", "mine", OPTIMUM]
    (capacity,) = found.capacities
    assert found.rate(labels[1], capacity) == found.rate("mine", capacity) != found.rate(OPTIMUM, capacity)


def test_a_prompt_too_large_is_not_called_a_cache_never_full():
    said = str(sim.sweep(hand_trace([[0, 1, 2], [0]], [30, 10]), capacities=2))
    assert "! some prompts are larger" in said
    assert "~" not in said


def test_points_of_other_settings_are_refused(trace, swept):
    with pytest.raises(ValueError, match=r"cannot resume: warmup was '50%' and is '0' now"):
        sim.sweep(trace, ["lru"], "1%", done=swept)
    other = replace(swept, fingerprint="0" * 64)
    with pytest.raises(ValueError, match=r"cannot resume: trace"):
        sim.sweep(trace, ["lru"], "1%", warmup="50%", done=other)


def test_points_of_a_changed_policy_are_replayed(trace, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    first = sim.sweep(trace, [file], "5%")
    file.write_text(MINE.replace("5.0", "-5.0"))
    ticks = []
    second = sim.sweep(trace, [file], "5%", done=first, progress=ticks.append)
    assert ticks[-1].total == 1
    assert second.curve("mine") != first.curve("mine")


def test_output_formats(swept):
    rows = list(csv.DictReader(io.StringIO(swept.csv())))
    assert len(rows) == 5 * 3
    assert {row["policy"] for row in rows} == set(swept.policies)
    first = rows[0]
    assert float(first["hit_rate"]) == pytest.approx(swept.rate("vllm", int(first["capacity_blocks"])), abs=1e-6)
    with pytest.raises(ValueError, match="not a sweep"):
        Sweep.from_dict({"format": "kvevolve-sweep/1"})


def test_unknown_executor(trace):
    with pytest.raises(ValueError, match="unknown executor 'threads'"):
        run(sweeper.replay_job, {"trace": trace}, [], "threads")


def test_command_line(tmp_path, capsys):
    kept, table, figure = tmp_path / "kept.json", tmp_path / "a.csv", tmp_path / "a.png"
    arguments = ["sweep", SPEC, "--policies", "lru", "--capacities", "2%,10%", "--resume", str(kept)]
    assert cli.main([*arguments, "--csv", str(table)]) == 0
    first = capsys.readouterr()
    assert "4/4" not in first.out
    assert "6/6 replays" in first.err
    assert len(table.read_text().splitlines()) == 1 + 6
    assert cli.main([*arguments, "--json", "--figure", str(figure)]) == 0
    second = capsys.readouterr()
    assert second.err == ""  # nothing left to replay
    assert json.loads(second.out) == json.loads(kept.read_text())
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert cli.main([*arguments, "--warmup", "50%"]) == 1
    assert "cannot resume" in capsys.readouterr().err
    kept.write_text("{")
    assert cli.main(arguments) == 1
    assert "kept.json" in capsys.readouterr().err


def test_an_interrupt_prints_the_table_so_far(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sweeper, "replay_job", interrupted)
    assert cli.main(["sweep", SPEC, "--policies", LRU_FLAT, "--capacities", "2%"]) == 130
    printed = capsys.readouterr()
    assert "- not replayed yet" in printed.out
    assert "interrupted with 1 points done" in printed.err


def test_a_missing_extra_is_named(swept, tmp_path, monkeypatch):
    from sim.figure import draw

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"kvevolve\[figures\]"):
        draw(swept, tmp_path / "a.png")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="no such figure format"):
        draw(swept, tmp_path / "a.xyz")


# ---- Published curves: RAGPulse of kvcache.ai, the one trace that lies both there and here ---------------------------


@pytest.fixture(scope="module")
def published(trace_path):
    """Return [fifo, lru, optimal] hit tokens by capacity: of a bag of chunks, and of strict prefixes.

    The file holds both under one key; the hits of the optimum tell them apart.
    """
    path = trace_path("ragpulse").parents[1] / "reference_curves" / "kvcache_ai_precomputed.json.gz"
    if not path.is_file():
        missing("reference_curves")
    entry = json.loads(gzip.decompress(path.read_bytes()))["traces"]["ragpulse"]
    results = {int(c): hits for c, hits in entry["capacityResults"].items()}
    prefix = {c: hits for c, hits in results.items() if hits[2] <= 1_877_444}
    return entry["summary"], {c: hits for c, hits in results.items() if c not in prefix}, prefix


@pytest.fixture(scope="module")
def chunks(trace_path):
    """Return (offsets, chunk ids, tokens per chunk) of the raw file, as the publisher reads it.

    A component id is one chunk, the prompt's tokens are spread evenly over its chunks and rounded, order is by time.
    """
    with tarfile.open(trace_path("ragpulse").parent / "raw.tar.gz") as archive:
        lines = archive.extractfile("raw/0_trace.jsonl").read().decode().splitlines()
    rows = sorted((json.loads(line) for line in lines if line), key=lambda row: float(row["timestamp"]))
    prompts = [[(kind, i) for kind, ids in row["hash_ids"].items() for i in ids] for row in rows]
    number: dict[tuple[str, int], int] = {}
    ids = np.array([number.setdefault(chunk, len(number)) for prompt in prompts for chunk in prompt])
    tokens = [int(row["input_length"] / len(prompt) + 0.5) for row, prompt in zip(rows, prompts, strict=True)]
    lengths = [len(prompt) for prompt in prompts]
    return np.cumsum([0, *lengths]), ids, np.repeat(tokens, lengths)


def test_published_lru_of_a_bag_of_chunks(published, chunks):
    """To the token: one request per chunk makes stack distances those of plain LRU; second half of the requests."""
    summary, bag, _ = published
    offsets, ids, tokens = chunks
    found = np.empty(ids.size, np.uint32)
    single = replay.frozen(np.arange(ids.size + 1), np.int64), replay.frozen(ids, np.uint32)
    stack.stack_distances(*single, stack.new_order(int(ids.max()) + 1, 1), found)
    counted = np.arange(ids.size) >= offsets[(offsets.size - 1) // 2]
    assert int(tokens[counted].sum()) == summary["totalMeasuredTokens"]
    assert int(tokens[counted & (found != replay.NONE)].sum()) == summary["infiniteHitTokens"]
    assert len(bag) > 100
    assert {c: int(tokens[counted & (found <= c)].sum()) for c in bag} == {c: hits[1] for c, hits in bag.items()}


@pytest.fixture(scope="module")
def prefixes(chunks):
    """Return the chunks as a trace: ids by whole prefix, two tokens per block, one more so that all may be hit."""
    offsets, ids, _ = chunks
    lengths = np.diff(offsets)
    return Trace.build(
        name="ragpulse chunks",
        block_tokens=2,
        offsets=offsets,
        block_ids=chains.rechain(offsets, chains.densify(ids)[0])[0],
        arrival_s=np.arange(lengths.size),
        input_tokens=2 * lengths + 1,
        output_tokens=np.zeros(lengths.size),
    )


def second_half(hit_blocks, chunks) -> int:
    offsets, _, tokens = chunks
    half = hit_blocks.size // 2
    return int((np.maximum(hit_blocks, 0) * tokens[offsets[:-1]])[half:].sum())


def test_published_curves_of_strict_prefixes(published, chunks, prefixes):
    """LRU to the token wherever the largest prompt fits the cache; one block more holds our partial tails.

    The published optimum charges nothing for the blocks of the running request: at most 0.05 points above ours, and
    equal from 100 blocks on.
    """
    summary, _, curves = published
    offsets, _, tokens = chunks
    first, longest = prefixes.n_requests // 2, int(np.diff(offsets).max())
    distances = stack_distances(prefixes)
    counted = np.arange(distances.size) >= offsets[first]
    fitting = {c: hits for c, hits in curves.items() if c >= longest}
    assert len(fitting) > 190
    flat = {c: int(tokens[counted & (distances <= c)].sum()) for c in fitting}
    assert flat == {c: hits[1] for c, hits in fitting.items()}
    for c in sorted(fitting)[::20]:
        engine = sim.simulate(prefixes, "vllm", c + 1).hit_blocks_per_request
        assert second_half(engine, chunks) == curves[c][1]
        best = optimum(prefixes, c + 1, first).hit_blocks_per_request
        above = curves[c][2] - second_half(best, chunks)
        assert 0 <= above <= (0.0005 * summary["totalMeasuredTokens"] if c < 100 else 0)


def test_published_fifo_forgets_the_head_of_a_prefix_first(published, chunks, prefixes):
    """Its rule, not ours: chunks leave in the order of the prompt, and what follows a lost head still holds its place.

    No engine works so. The shipped `fifo` drops leaves first and never hits less.
    """
    _, _, curves = published
    offsets, _, tokens = chunks
    ids, starts = prefixes.block_ids.tolist(), offsets.tolist()
    for c in (63, 1_415):
        cache: OrderedDict[int, None] = OrderedDict()
        total = 0
        for i in range(prefixes.n_requests):
            unbroken = True
            for k in range(starts[i], starts[i + 1]):
                unbroken = unbroken and ids[k] in cache
                total += int(tokens[k]) * (unbroken and i >= prefixes.n_requests // 2)
                if ids[k] not in cache:
                    if len(cache) >= c:
                        cache.popitem(last=False)
                    cache[ids[k]] = None
        assert total == curves[c][0]
        ours = second_half(sim.simulate(prefixes, "fifo", c + 1).hit_blocks_per_request, chunks)
        assert total < ours <= curves[c][2]
