"""`workloads.checking`: every fault of a file with its line, repairs counted, oddities named."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from small_traces import hand_trace, random_traces

from sim.cli import main
from workloads import TraceError, load
from workloads.checking import check, oddities

GOOD = {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]}


def lines(*changes: dict | str) -> str:
    """Return good lines a second apart, each with changes, or text as it is."""
    rows = []
    for i, change in enumerate(changes):
        own = GOOD | {"timestamp": 1000 * i, "hash_ids": [0, 10 + i, 50 + i]}
        rows.append(change if isinstance(change, str) else json.dumps(own | change))
    return "\n".join(rows) + "\n"


@pytest.fixture
def file(tmp_path):
    """Return a function that writes a file and returns its specification."""

    def write(text: str) -> str:
        (tmp_path / "t.jsonl").write_text(text)
        return f"mooncake:{tmp_path}/t.jsonl"

    return write


def test_a_good_file_has_nothing(file):
    found = check(file(lines({}, {}, {})))
    assert (found.sound, found.problems, found.repairs, found.oddities) == (True, (), {}, ())
    assert str(found).endswith("t.jsonl: ok")


def test_every_fault_is_found_with_its_line(file):
    text = lines({}, {"input_length": -1}, "{", {}, {"hash_ids": [0]}, {"output_length": "x"}, {"timestamp": None})
    found = check(file(text))
    assert [problem.split(": ")[0].rpartition(":")[2] for problem in found.problems] == ["2", "3", "5", "6", "7"]
    assert all("fix: " in problem for problem in found.problems)
    assert found.repairs == {"clip_input": 1}
    assert "3 requests" in found.trace  # with that repair made
    assert not found.more
    assert "5 problems" in str(found)


def test_repairs_are_counted_not_made(file):
    spec = file(lines({}, {"timestamp": 5000}, {"timestamp": 1500}, {"timestamp": 1600}, {"hash_ids": [3, 10, 99]}))
    found = check(spec)
    assert found.repairs == {"sort_time": 3, "rechain": 1}
    assert len(found.problems) == 2
    assert "repair=sort_time would change 3" in str(found)
    with pytest.raises(TraceError):
        load(spec)
    assert check(f"{spec}?repair=sort_time,rechain").sound


def test_a_log_backwards_is_recognised(file):
    found = check(file(lines(*({"timestamp": 9000 - 1000 * i} for i in range(9)))))
    assert any("newest first" in text for text in found.oddities)


def test_it_stops_at_the_most_asked_for(file):
    found = check(file(lines(*["{"] * 9)), most=4)
    assert (len(found.problems), found.more) == (4, True)
    assert "... and more" in str(found)


@pytest.mark.parametrize("spec", ["/nowhere/t.jsonl", "no_such_trace", "mooncake:/nowhere"])
def test_what_cannot_be_read_at_all_is_one_problem(spec):
    found = check(spec)
    assert (len(found.problems), found.trace) == (1, "")


def test_a_file_cut_short_is_one_problem(tmp_path):
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(lines(*[{}] * 500).encode())[:-300])
    found = check(f"mooncake:{tmp_path}/t.jsonl.gz")
    assert len(found.problems) == 1
    assert "truncated or damaged" in found.problems[0]


def test_the_clip_of_ragpulse_is_offered(trace_path):
    found = check(f"kvt1:{trace_path('ragpulse')}")
    assert found.repairs["clip_input"] > 100
    assert "repair='clip_input'" in found.problems[0]


ODD = {
    "no request has a full block": hand_trace([[], []], [3, 4]),
    "no block is ever used again": hand_trace([[i] for i in range(12)], [10 + i % 3 for i in range(12)]),
    "arrive at the same time": hand_trace([[0], [0]], [10, 10], arrival_s=[5, 5]),
    "is the unit of time right": hand_trace([[0]] * 200, [10, 11] * 100, arrival_s=np.arange(200) / 1e6),
    "hours: is the unit": hand_trace([[0]] * 200, [10, 11] * 100, arrival_s=np.arange(200) * 2e4),
    "times are a date": hand_trace([[0], [0]], [10, 12], arrival_s=[1.7e9, 1.7e9 + 1]),
    "1 requests equal the one before": hand_trace([[0], [0], [0]], [10, 10, 10], arrival_s=[0, 0, 1]),
    "generate nothing": hand_trace([[0], [0]], [10, 12]),
    "every prompt has 10 tokens": hand_trace([[0]] * 10, [10] * 10),
    "no later turn": hand_trace([[0], [0]], [10, 12], session=[0, 0], turn=[1, 1]),
}


@pytest.mark.parametrize("text", ODD)
def test_oddities_are_named(text):
    assert any(text in said for said in oddities(ODD[text]))


@given(random_traces())
def test_looking_for_oddities_never_fails(trace):
    assert all(isinstance(said, str) for said in oddities(trace))


def test_the_command(file, capsys):
    assert main(["trace", "validate", file(lines({}, {}))]) == 0
    assert "ok" in capsys.readouterr().out
    assert main(["trace", "validate", file(lines({}, "{", "[")), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], len(found["problems"])) == (False, 2)
    assert main(["trace", "validate", file(lines({})), "--most", "0"]) == 1
