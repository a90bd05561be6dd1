"""Statistics of traces: against brute force, and the published table of the real traces, to all digits shown."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from small_traces import hand_trace, random_traces

from sim.trace_info import CAPACITIES, trace_info
from workloads import TraceError, load, statistics

SPECS = {
    "conversation": "mooncake_conversation?partial_tail=block",
    "toolagent": "mooncake_toolagent_1000?partial_tail=block",
    "synthetic": "mooncake_synthetic?partial_tail=block",
    "ragpulse": "ragpulse",
    "W2": "cc_weka_v8?window_s=86400&max_gap_s=none&shared_prefix=false",
    "W4": "cc_weka_v8",
    "L1": "lmcache_agent",
    "L2": "lmcache_agent?use_recorded_starts=true&window_s=none",
    "T1": "taubench_airline",
}
"""Timelines of traces.md, section 7; W1 and W3 are in test_materialise.py."""

LENGTHS = {
    "conversation": "12035 / 6909 / 27367 / 85400 | 343 / 350 / 597 / 1119",
    "toolagent": "9792 / 6558 / 19789 / 77828 | 199 / 34 / 534 / 831",
    "synthetic": "15326 / 11587 / 38611 / 66456 | 149 / 69 / 389 / 768",
    "ragpulse": "2944 / 3140 / 3958 / 5438 | 283 / 234 / 563 / 891",
    "W": "116831 / 102524 / 200016 / 464242 | 440 / 220 / 898 / 3639",
    "L": "2630 / 1051 / 6475 / 27346 | 325 / 146 / 461 / 10000",
    "T": "3137 / 2598 / 5751 / 8918 | 90 / 67 / 172 / 336",
}
SIZES = """
conversation | 12,031 | 3,537 | 288,500 | 182,790 | 36.64 | 39.00 | 75.8 | 12.2 | 30,667
toolagent | 1,000 | 177 | 19,686 | 12,207 | 37.99 | 45.45 | 85.5 | 30.1 | 2,048
synthetic | 3,993 | 1,022 | 121,877 | 43,924 | 63.96 | 85.11 | 58.5 | 6.8 | 7,369
ragpulse | 7,106 | 604,603 | 1,300,057 | 889,182 | 31.60 | 31.54 | 99.8 | 32.3 | 4,662
W2 | 29,622 | 169,291 | 6,744,495 | 255,433 | 96.21 | 96.30 | 6.8 | 7.5 | 42,855
W4 | 29,622 | 36,223 | 6,744,495 | 248,399 | 96.32 | 96.68 | 7.0 | 9.9 | 41,674
L1 | 1,805 | 1,443 | 295,842 | 59,487 | 79.89 | 91.06 | 66.7 | 7.3 | 312
L2 | 1,805 | 1,761,000,060 | 295,842 | 59,487 | 79.89 | 84.50 | 66.7 | 7.3 | 312
T1 | 2,454 | 790 | 480,010 | 35,030 | 92.70 | 93.23 | 8.3 | 42.1 | 184
"""
LRU = """
conversation | 4.19 | 4.40 | 5.25 | 7.92 | 19.58 | 27.89 | 34.53 | 36.31
toolagent | 12.12 | 21.81 | 25.20 | 27.12 | 28.17 | 28.28 | 28.76 | 34.60
synthetic | 0.36 | 1.99 | 3.81 | 7.78 | 15.66 | 26.23 | 39.31 | 58.88
ragpulse | 29.17 | 31.21 | 31.48 | 31.58 | 31.60 | 31.60 | 31.60 | 31.60
W2 | 6.74 | 50.08 | 79.69 | 92.67 | 95.80 | 96.17 | 96.20 | 96.21
W4 | 0.85 | 5.42 | 15.35 | 40.82 | 84.09 | 95.19 | 96.29 | 96.31
L1 | 2.56 | 16.49 | 27.19 | 45.04 | 70.56 | 79.39 | 79.69 | 79.69
L2 | 15.56 | 46.83 | 58.47 | 71.76 | 79.83 | 79.89 | 79.89 | 79.89
T1 | 17.89 | 40.65 | 41.26 | 43.25 | 56.81 | 80.70 | 92.55 | 92.70
"""
OPTIMUM = """
conversation | 8.72 | 18.29 | 24.64 | 31.42 | 36.64 | 36.64 | 36.64 | 36.64
toolagent | 23.57 | 29.04 | 29.97 | 31.39 | 34.35 | 37.45 | 37.99 | 37.99
synthetic | 3.69 | 12.46 | 18.54 | 26.13 | 39.56 | 50.63 | 60.80 | 63.96
ragpulse | 31.60 | 31.60 | 31.60 | 31.60 | 31.60 | 31.60 | 31.60 | 31.60
W2 | 26.42 | 72.17 | 88.28 | 95.00 | 96.21 | 96.21 | 96.21 | 96.21
W4 | 9.41 | 33.05 | 51.14 | 72.20 | 91.67 | 96.29 | 96.32 | 96.32
L1 | 8.42 | 30.55 | 43.32 | 59.47 | 76.62 | 79.89 | 79.89 | 79.89
T1 | 17.89 | 44.14 | 49.88 | 59.48 | 77.68 | 89.86 | 92.70 | 92.70
"""
REUSE = """
conversation | 1 / 4,282 / 8,295 / 17,830 / 31,435 / 85,219 | 114 / 267 / 519 / 1578 | 4.2 / 4.2 / 4.4 / 8.3 / 17.2 / 25.7
toolagent | 3 / 10 / 39 / 1,280 / 5,842 / 9,314 | 0.0 / 6.1 / 76.3 / 125.2 | 21.6 / 27.1 / 28.3 / 31.0 / 37.2 / 38.0
synthetic | 683 / 2,246 / 6,209 / 12,728 / 20,368 / 33,918 | 59.4 / 157.6 / 281.8 / 582.9 | 0.4 / 2.2 / 8.1 / 22.4 / 36.4 / 52.4
ragpulse | 9 / 22 / 50 / 226 / 683 / 5,407 | 59 / 185 / 496 / 4310 | 30.6 / 31.4 / 31.6 / 31.6 / 31.6 / 31.6
W2 | 333 / 668 / 1,226 / 2,086 / 3,309 / 9,241 | 20 / 41 / 127 / 1500 | 1.4 / 6.2 / 36.9 / 89.2 / 94.8 / 96.0
W4 | 1,810 / 3,391 / 5,684 / 8,947 / 13,842 / 25,546 | 19 / 40 / 122 / 300 | 0.3 / 0.8 / 3.8 / 28.6 / 64.5 / 88.5
L1 | 155 / 372 / 1,015 / 1,953 / 3,110 / 5,518 | 1.4 / 9.4 / 12.6 / 65.5 | 59.2 / 79.6 / 79.7 / 79.9 / 79.9 / 79.9
L2 | 28 / 81 / 211 / 641 / 1,197 / 2,133 | 1.4 / 9.7 / 12.6 / 98.7 | 78.4 / 79.9 / 79.9 / 79.9 / 79.9 / 79.9
T1 | 19 / 46 / 1,057 / 2,572 / 3,794 / 5,917 | 3.0 / 6.5 / 11.5 / 29.1 | 59.0 / 92.6 / 92.7 / 92.7 / 92.7 / 92.7
"""  # noqa: E501


def row_of(text: str, name: str) -> list[str] | None:
    """Return the cells of a row of a table, None if it has no such row."""
    rows = (line.split(" | ") for line in text.strip().splitlines())
    return next((cells for first, *cells in rows if first == name), None)


def as_shown(values: list[float], cells: list[str]) -> list[str]:
    """Return numbers with as many digits as published ones."""
    return [
        f"{value:,.{len(cell.partition('.')[2])}f}" if "," in cell else f"{value:.{len(cell.partition('.')[2])}f}"
        for value, cell in zip(values, cells, strict=True)
    ]


@pytest.mark.parametrize("name", SPECS)
def test_the_published_figures_are_reproduced(real_trace, name):
    found = trace_info(real_trace(SPECS[name])).to_dict()
    numbers = [found[key] for key in ("requests", "span_s", "block_refs", "unique_blocks", "infinite_hit_percent")]
    numbers += [found["infinite_hit_2nd_half_percent"], found["working_set_gb"]]
    *cells, once, top, working_set = row_of(SIZES, name)
    assert as_shown(numbers, [*cells, working_set]) == [*cells, working_set]
    # these two were rounded to two digits, as they are printed here, and then to one
    assert round(found["once_percent"], 2) == pytest.approx(float(once), abs=0.0501)
    assert round(found["top_1_percent"], 2) == pytest.approx(float(top), abs=0.0501)

    published = (LENGTHS.get(name) or LENGTHS[name[0]]).split(" | ")
    for key, text in zip(("input_tokens", "output_tokens"), published, strict=True):
        spread = found[key]
        numbers = [round(spread["mean"], 1), *(spread["percentiles"][percent] for percent in ("50", "90", "99"))]
        assert as_shown(numbers, text.split(" / ")) == text.split(" / ")

    hits = {row["capacity"]: row for row in found["hits"]}
    for table, key in ((LRU, "lru_percent"), (OPTIMUM, "optimum_percent")):
        if cells := row_of(table, name):
            assert as_shown([hits[capacity][key] for capacity in CAPACITIES[:8]], cells) == cells
    if published := row_of(REUSE, name):
        gaps = [found["reuse_gap_s"]["percentiles"][percent] for percent in ("50", "75", "90", "99")]
        distances = list(found["reuse_distance_blocks"]["percentiles"].values())
        absolute = [hits[capacity]["lru_percent"] for capacity in CAPACITIES[8:]]
        for numbers, text in zip((distances, gaps, absolute), published, strict=True):
            assert as_shown(numbers, text.split(" / ")) == text.split(" / ")


@given(random_traces())
def test_statistics_equal_brute_force(trace):
    found = statistics.measure(trace)
    prompts = [trace.block_ids[a:b].tolist() for a, b in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)]
    seen: dict[int, int] = {}
    hits, gaps, own = [], [], 0
    for i, prompt in enumerate(prompts):
        again = [block for block in prompt if block in seen]
        hits.append(len(again))
        gaps += [trace.arrival_s[i] - trace.arrival_s[seen[block]] for block in again]
        if trace.session is not None:
            own += sum(trace.session[seen[block]] == trace.session[i] for block in again)
        seen.update(dict.fromkeys(prompt, i))
    refs = sum(map(len, prompts))
    assert found.infinite_hit == pytest.approx(sum(hits) / refs if refs else 0.0)
    half = len(prompts) // 2
    later = sum(map(len, prompts[half:]))
    assert found.infinite_hit_2nd_half == pytest.approx(sum(hits[half:]) / later if later else 0.0)
    uses = Counter(block for prompt in prompts for block in prompt)
    assert found.once == (sum(count == 1 for count in uses.values()) / len(uses) if uses else 0.0)
    assert found.reuse_gap_s.largest == pytest.approx(max(gaps, default=0.0))
    assert found.reuse_gap_s.mean == pytest.approx(np.mean(gaps) if gaps else 0.0)
    some = [hit for hit, prompt in zip(hits, prompts, strict=True) if prompt]
    assert found.sharing["requests_without_hit"] == (some.count(0) / len(some) if some else 0.0)
    assert found.sharing["roots"] == len({prompt[0] for prompt in prompts if prompt})
    if trace.session is not None:
        assert found.sharing["hits_of_own_session"] == pytest.approx(own / sum(hits) if sum(hits) else 0.0)


def test_sessions_and_load_by_hand():
    trace = hand_trace(
        [[0], [0, 1], [2], [0, 1, 3], [4, 5], [6]],
        [15, 25, 10, 30, 20, 10],
        arrival_s=[0, 1, 1, 5, 6, 10],
        output_tokens=[40, 80, 0, 40, 40, 400],
        session=[7, 7, 3, 7, 3, -1],
        turn=[0, 1, 0, 2, 1, -1],
    )
    found = statistics.measure(trace)
    sessions = found.sessions
    assert sessions["requests"].mean == 2.5
    assert sessions["span_s"].largest == 5
    assert sessions["gap_s"].mean == (1 + 4 + 5) / 3
    assert sessions["growth_tokens"].mean == (10 + 5 + 10) / 3
    assert sessions["extends"] == 2 / 3  # [4, 5] does not begin with [2]
    assert (sessions["open_mean"], sessions["open_peak"]) == (1.0, 2)
    assert found.columns["session"] == {"distinct": 2, "known": 5 / 6}
    assert found.load["requests_per_s"] == pytest.approx(0.6)
    assert found.load["busiest_second"] == 2
    assert (found.load["running_mean"], found.load["running_peak"]) == (1.5, 3)  # of 1, 2, 0, 1, 1 and 10 s


def test_a_trace_without_blocks_has_statistics():
    found = trace_info(hand_trace([[], []], [3, 0]))
    content = json.loads(json.dumps(found.to_dict()))
    assert content["infinite_hit_percent"] == 0
    assert content["sessions"] is None
    assert all(row["optimum_percent"] == 0 for row in content["hits"])
    assert "unique blocks              0, 0 GB" in str(found)


@pytest.mark.parametrize("capacity", ["0GB", "xGB", "-1GB", "infGB", "0", "200%", "x"])
def test_sizes_that_make_no_sense_are_refused(capacity):
    with pytest.raises(ValueError, match="capacity"):
        trace_info(hand_trace([[0]], [10]), [capacity])


def test_lengths_a_reader_changed_are_those_recorded(tmp_path):
    lines = [f'{{"timestamp": {i}, "input_length": 15, "output_length": 1, "hash_ids": [0, 1]}}' for i in range(3)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    rounded = load(f"mooncake:{tmp_path}/t.jsonl?block=10&partial_tail=block")
    assert rounded.input_tokens.tolist() == [20, 20, 20]
    assert statistics.measure(rounded).input_tokens.mean == 15
    assert statistics.measure(rounded.slice(0, 2)).input_tokens.mean == 20
    broken = rounded.renamed("x", {"recorded_input_tokens": {"mean": 1}})
    with pytest.raises(TraceError, match="expected a spread"):
        statistics.measure(broken)
