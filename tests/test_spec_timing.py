"""When the requests of a specification arrive: shares, phases, processes, and what survives of the sources' times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import Trace, TraceError, combine, validation
from workloads.spec import WorkloadSpec, generate
from workloads.spec.timing import Warp, apportion, plan
from workloads.synthetic import GENERATORS
from workloads.synthetic.draws import weibull_shape

MOVES = ("sessions", "requests")
PROCESSES: list[dict[str, Any]] = [
    {"process": "as-generated", "requests_per_s": 7.0},
    {"process": "poisson"},
    {"process": "gamma", "burstiness": 3.0, "requests_per_s": 2.0},
    {"process": "weibull", "burstiness": 2.0},
    {"process": "diurnal", "period_s": 600, "peak_s": 100, "burstiness": 1.0},
    {"process": "bursts", "every_s": 60, "lasting_s": 5, "factor": 10},
    {"process": "table", "t_s": [10, 20, 50], "rate_per_s": [1, 0, 3]},
]
PHASES = [
    {"share": 0.25, "weights": [1, 2, 1]},
    {"share": 0.5, "weights": [1, 0, 3], "rate": 3.0},
    {"share": 0.25, "rate": 0.5},
]


def spec(*families: str, arrivals: dict[str, Any] | None = None, requests: int = 800, **fields: Any) -> WorkloadSpec:
    """Return a specification of families in equal shares."""
    sources = [{"family": family} for family in families]
    about = {"format": "kvevolve-workload", "version": 1, "name": "x", "requests": requests, "sources": sources}
    return WorkloadSpec.from_plain(about | ({"arrivals": arrivals} if arrivals else {}) | fields)


def parts(trace: Trace) -> list[tuple[Trace, np.ndarray]]:
    """Return, for each source of a mixture, its family's own trace and its rows in the mixture."""
    assert trace.tenant is not None
    facts = trace.provenance["sources"]
    assert isinstance(facts, list)
    found = []
    for fact in facts:
        low, high = fact["tenants"]
        rows = np.flatnonzero((trace.tenant >= low) & (trace.tenant <= high))
        seed, count = fact["defaults"]["seed"], fact["requests"]
        found.append((GENERATORS[fact["family"]](seed, requests=count, block_tokens=trace.block_tokens), rows))
    return found


def by_session(trace: Trace, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return times, output lengths and session boundaries of rows, grouped by session in the order given."""
    assert trace.session is not None
    session = trace.session[rows]
    order = np.argsort(session, kind="stable")
    return trace.arrival_s[rows][order], trace.output_tokens[rows][order], np.diff(session[order]) != 0


# ---- shares ----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.lists(st.floats(0, 1e6), min_size=1, max_size=9).filter(lambda w: sum(w) > 1e-3))
def test_shares_are_exact_within_rounding(total: int, weights: list[float]) -> None:
    counts = apportion(total, weights)
    assert sum(counts) == total
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - total * weight / sum(weights)) < 1 + 1e-9 * total
        assert weight > 0 or count == 0


@settings(max_examples=40)
@given(
    st.integers(1, 5_000),
    st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3).filter(any), min_size=1, max_size=5),
)
def test_phases_split_exactly(requests: int, weights: list[list[int]]) -> None:
    shares = np.arange(1, len(weights) + 1) / np.arange(1, len(weights) + 1).sum()
    phases = [{"share": float(share), "weights": row} for share, row in zip(shares, weights, strict=True)]
    found = plan(spec("chat", "scan", "rag", requests=requests, phases=phases).fields)
    assert found.counts.sum() == requests
    for share, row, counts in zip(shares, weights, found.counts, strict=True):
        assert abs(counts.sum() - share * requests) <= 1
        assert all(abs(count - counts.sum() * w / sum(row)) < 1 for count, w in zip(counts, row, strict=True))


def test_a_mixture_has_its_shares_throughout() -> None:
    trace = generate(spec("zero_reuse", "rag", arrivals={"process": "as-generated"}, requests=3_000))
    assert trace.tenant is not None
    assert trace.span_s == pytest.approx(sum(alone.span_s for alone, _ in parts(trace)), rel=0.01)
    for start in range(0, 3_000, 500):
        assert 0.4 < trace.tenant[start : start + 500].mean() < 0.6


def test_sources_without_requests_are_left_out() -> None:
    phases = [{"share": 1.0, "weights": [0, 1]}]
    trace = generate(spec("chat", "rag", requests=50, phases=phases))
    facts = trace.provenance["sources"]
    assert isinstance(facts, list)
    assert [(fact["source"], fact["family"], fact["requests"]) for fact in facts] == [(1, "rag", 50)]
    assert generate(spec("chat", "rag", "scan", requests=1)).n_requests == 1


# ---- what survives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process["process"])
@pytest.mark.parametrize("phases", [[], PHASES], ids=["", "phases"])
def test_sessions_move_as_a_whole(process: dict[str, Any], phases: list[dict[str, Any]]) -> None:
    trace = generate(spec("chat", "scan", "agent", arrivals=process, phases=phases))
    validation.check_stored(trace)
    for alone, rows in parts(trace):
        want_s, want_tokens, ends = by_session(alone, np.arange(alone.n_requests))
        have_s, have_tokens, have_ends = by_session(trace, rows)
        assert have_tokens.tolist() == want_tokens.tolist()
        assert have_ends.tolist() == ends.tolist()
        gaps = np.abs(np.diff(have_s) - np.diff(want_s))[~ends]
        assert gaps.max(initial=0) < 1.01e-4  # both rounded to 0.1 ms
        assert np.abs(np.diff(have_s) - np.diff(want_s))[ends].max() > 1  # but sessions did move
        starts = np.concatenate(([0], np.flatnonzero(ends) + 1))
        assert (np.diff(have_s[starts]) >= 0).all()  # sessions start in the order of the family


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process["process"])
@pytest.mark.parametrize("phases", [[], PHASES], ids=["", "phases"])
def test_requests_keep_their_order(process: dict[str, Any], phases: list[dict[str, Any]]) -> None:
    chosen = spec("chat", "scan", "agent", arrivals=process | {"moves": "requests"}, phases=phases)
    trace = generate(chosen)
    assert trace.tenant is not None
    for alone, rows in parts(trace):
        for column in ("output_tokens", "turn", "input_tokens"):
            assert getattr(trace, column)[rows].tolist() == getattr(alone, column).tolist()
    start = 0
    for counts in plan(chosen.fields).counts:  # each phase holds exactly its requests
        own = trace.tenant[start : start + counts.sum()]
        assert np.bincount(own, minlength=3).tolist() == counts.tolist()
        start += counts.sum()


def test_blocks_do_not_change_with_the_times() -> None:
    still, moved = (generate(spec("chat", arrivals=process)) for process in (None, {"process": "poisson"}))
    assert still.n_blocks == moved.n_blocks
    assert sorted(still.input_tokens.tolist()) == sorted(moved.input_tokens.tolist())


# ---- processes -------------------------------------------------------------------------------------------------------


def gaps_of(process: dict[str, Any], requests: int = 6_000, **fields: Any) -> np.ndarray:
    """Return the times between independent requests under a process."""
    return np.diff(generate(spec("measured_lengths", arrivals=process, requests=requests, **fields)).arrival_s)


@pytest.mark.parametrize(("kind", "burstiness"), [("poisson", 1.0), ("gamma", 0.3), ("gamma", 4.0), ("weibull", 2.0)])
def test_burstiness_and_rate(kind: str, burstiness: float) -> None:
    given = {} if kind == "poisson" else {"burstiness": burstiness}
    gaps = gaps_of({"process": kind, "requests_per_s": 5.0} | given)
    assert gaps.mean() == pytest.approx(0.2, rel=0.01)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.15)


@given(st.floats(0.05, 50))
def test_weibull_shape(burstiness: float) -> None:
    from math import lgamma, log

    shape = weibull_shape(burstiness)
    assert lgamma(1 + 2 / shape) - 2 * lgamma(1 + 1 / shape) == pytest.approx(log(1 + burstiness**2), abs=1e-6)


def test_diurnal_swings_between_trough_and_peak() -> None:
    process = {"process": "diurnal", "period_s": 1_000, "peak_s": 250, "trough": 0.2, "requests_per_s": 10.0}
    trace = generate(spec("measured_lengths", arrivals=process, requests=20_000))
    assert trace.span_s == pytest.approx(2_000, rel=0.01)
    counts, _ = np.histogram(trace.arrival_s % 1_000, bins=10, range=(0, 1_000))
    assert counts.argmax() == 2
    assert counts.argmin() == 7
    assert counts.min() / counts.max() == pytest.approx(0.2, abs=0.05)


def test_bursts_burst() -> None:
    process = {"process": "bursts", "every_s": 100, "lasting_s": 10, "factor": 20, "requests_per_s": 10.0}
    trace = generate(spec("measured_lengths", arrivals=process, requests=30_000))
    counts, _ = np.histogram(trace.arrival_s, bins=int(trace.span_s))
    assert np.quantile(counts, 0.99) > 8 * np.median(counts) > 0
    assert trace.n_requests / trace.span_s == pytest.approx(10, rel=0.35)


def test_table_gives_its_windows_their_requests() -> None:
    process: dict[str, Any] = {"process": "table", "t_s": [100, 200, 400], "rate_per_s": [3, 0, 6], "end_s": 500}
    trace = generate(spec("measured_lengths", arrivals=process | {"moves": "requests"}, requests=1_800))
    counts, _ = np.histogram(trace.arrival_s, bins=[0, 100, 300, 400, 500, 700, 800])
    assert counts == pytest.approx([300, 0, 600, 300, 0, 600], abs=30)
    once = generate(spec("measured_lengths", arrivals=process | {"once": True}, requests=300))
    assert once.span_s == pytest.approx(400, rel=0.02)
    counts, _ = np.histogram(once.arrival_s, bins=[0, 100, 300, 400])
    assert counts == pytest.approx([100, 0, 200], abs=15)
    twice = generate(spec("measured_lengths", arrivals=process | {"requests_per_s": 4.5}, requests=1_800))
    assert twice.span_s == pytest.approx(400, rel=0.02)


def test_phases_change_the_rate() -> None:
    phases = [{"share": 0.5, "rate": 1.0}, {"share": 0.5, "rate": 4.0}]
    gaps = gaps_of({"process": "poisson", "requests_per_s": 1.0}, phases=phases)
    assert gaps[:3_000].mean() == pytest.approx(1.0, rel=0.02)
    assert gaps[3_000:].mean() == pytest.approx(0.25, rel=0.02)


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.just(0.0) | st.floats(0.1, 50)), min_size=1, max_size=8).filter(
        lambda windows: any(rate for _, rate in windows)
    ),
    st.lists(st.floats(0, 1e5), min_size=1, max_size=30),
)
@settings(max_examples=80)
def test_warp_is_monotone_and_the_inverse_of_the_cumulative_rate(
    windows: list[tuple[float, float]], positions: list[float]
) -> None:
    lengths, rates = np.array(windows).T
    edges = np.concatenate(([0.0], np.cumsum(lengths)))
    x = np.sort(np.array(positions))
    seconds = Warp(edges, rates)(x)
    assert (np.diff(seconds) >= -1e-9 * (1 + seconds[:-1])).all()
    whole = float(np.sum(lengths * rates))
    cycle = np.floor(seconds / edges[-1])
    come = cycle * whole + np.interp(
        seconds - cycle * edges[-1], edges, np.concatenate(([0], np.cumsum(lengths * rates)))
    )
    assert come == pytest.approx(x, rel=1e-6, abs=1e-6 * whole + 1e-6)


def test_everything_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source whose requests all come at one moment has no clock of its own to map."""

    def sweep(seed: int, requests: int, block_tokens: int) -> Trace:
        """All at 0."""
        made = GENERATORS["zero_reuse"](seed, requests=requests, block_tokens=block_tokens)
        return combine.interleave([made], np.zeros(requests), "sweep", "")

    monkeypatch.setattr("workloads.synthetic.GENERATORS", {**GENERATORS, "sweep": sweep})
    phases = [{"share": 0.5}, {"share": 0.5, "weights": [1, 3]}]
    trace = generate(spec("sweep", "zero_reuse", requests=400, phases=phases))
    assert trace.tenant is not None
    assert len(np.unique(trace.arrival_s[trace.tenant == 0])) == 2  # one sweep a phase
    assert generate(spec("sweep", requests=10, arrivals={"process": "poisson"})).span_s > 0


def test_times_out_of_reach_are_refused() -> None:
    sources = [{"family": "zero_reuse", "parameters": {"requests_per_s": 1e-300}}]
    with pytest.raises(TraceError, match="requests arrive up to"):
        generate(spec("chat", sources=sources))
