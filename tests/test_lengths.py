"""Traces of arrivals and lengths: published figures of the real files, formats, refusals, and fits that come back."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from conftest import missing
from hypothesis import given
from hypothesis import strategies as st

from workloads import TraceError, formats, lengths, load, locate, progress
from workloads.lengths import LengthTrace, RateTrace, fit_lengths, specification
from workloads.lengths.fitting import rank_correlation
from workloads.spec import WorkloadSpec, generate, parse_spec
from workloads.synthetic import measured_lengths

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
BURST_1 = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
BURST_2 = "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"


def real(folder: str, name: str) -> Path:
    """Return a real file; skips (in CI: fails) where it is not at hand."""
    found = [place / folder / name for place in locate.trace_dirs() if (place / folder / name).is_file()]
    return found[0] if found else missing(f"{folder}/{name}")


def write(path: Path, text: str | bytes) -> Path:
    """Write a file."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


# ---- real files ------------------------------------------------------------------------------------------------------

# traces.md 3.8: requests, span s, req/s, CV, input mean / p50 / p90 / p99 / max, output likewise
AZURE_2023 = {
    "code": (8_819, 3_436, 2.57, 13.15, (2048, 1469, 5187, 7436, 7437), (28, 13, 55, 251, 1899)),
    "conv": (19_366, 3_502, 5.53, 1.09, (1155, 1020, 2734, 4142, 14050), (211, 129, 424, 601, 1000)),
}
# traces.md 3.9: windows, span h, mean / peak / min req/s
SERVEGEN = {
    "m-large": (2_016, 336, 195.8, 583.0, 48.4),
    "m-mid": (1_932, 336, 1_867.9, 3_444.8, 0.9),
    "m-small": (1_979, 336, 1_196.4, 3_879.5, 391.3),
    "mm-image": (144, 24, 9.5, 13.3, 4.9),
    "deepseek-r1": (144, 24, 16.0, 42.5, 4.3),
}


@pytest.mark.parametrize("kind", sorted(AZURE_2023))
def test_azure_figures_and_fit(kind: str) -> None:
    requests, span_s, rate, spread, inputs, outputs = AZURE_2023[kind]
    trace = lengths.load(f"azure:{real('azure2023', f'AzureLLMInferenceTrace_{kind}.csv.gz')}")
    assert isinstance(trace, LengthTrace)
    assert (trace.n_requests, round(trace.span_s)) == (requests, span_s)
    assert (round(trace.requests_per_s, 2), round(trace.burstiness, 2)) == (rate, spread)
    for column, want in ((trace.input_tokens, inputs), (trace.output_tokens, outputs)):
        assert round(column.mean()) == want[0]
        assert [int(q) for q in np.percentile(column, [50, 90, 99, 100])] == list(want[1:])
    assert trace.provenance["requests_out_of_order"] == 0
    spec = WorkloadSpec.from_plain(specification(trace))
    assert parse_spec(spec.to_yaml()) == spec
    made = generate(spec)
    assert made.n_requests / made.span_s == pytest.approx(rate, rel=0.01)
    gaps = np.diff(made.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(spread, rel=0.25)
    counts = [np.histogram(times, bins=50, range=(0, span_s))[0] for times in (trace.arrival_s, made.arrival_s)]
    assert np.corrcoef(*counts)[0, 1] > 0.6  # the rate follows the hour
    for column, want in ((made.input_tokens, inputs), (made.output_tokens, outputs)):
        assert column.mean() == pytest.approx(want[0], rel=0.03)
        assert np.percentile(column, [50, 90, 99]) == pytest.approx(want[1:4], rel=0.06, abs=2)
    correlation = rank_correlation(trace.input_tokens, trace.output_tokens)
    assert rank_correlation(made.input_tokens, made.output_tokens) == pytest.approx(correlation, abs=0.03)


@pytest.mark.parametrize("workload", sorted(SERVEGEN))
def test_servegen_figures_and_fit(workload: str) -> None:
    windows, span_h, *rates = SERVEGEN[workload]
    trace = lengths.load(f"servegen:{real('servegen', 'servegen_aggregate_rate.csv.gz')}?workload={workload}")
    assert isinstance(trace, RateTrace)
    assert (len(trace.t_s), round(trace.span_h), trace.window_s) == (windows, span_h, 600)
    found = trace.rate_per_s
    assert [round(float(x), 1) for x in (found.mean(), found.max(), found.min())] == rates
    fitted = fit_lengths(trace)
    assert fitted["measured"]["windows"] == windows
    arrivals = fitted["arrivals"] | {"once": True}
    made = generate(
        WorkloadSpec.from_plain(
            {"format": "kvevolve-workload", "version": 1, "name": workload, "requests": 3_000, "arrivals": arrivals}
            | {"sources": [{"family": "measured_lengths"}]}
        )
    )
    counts, _ = np.histogram(made.arrival_s, bins=24, range=(0, arrivals["end_s"]))
    starts, whole = trace.whole()
    ends = np.append(starts[1:], starts[-1] + 600) - starts[0]
    come = np.append(0, np.cumsum(whole * np.diff(np.append(0, ends))))
    cumulative = np.interp(np.linspace(0, arrivals["end_s"], 25), np.append(0, ends), come)
    want = np.diff(cumulative) / cumulative[-1] * 3_000
    assert counts == pytest.approx(want, abs=6 * np.sqrt(want.max()))
    with pytest.raises(TraceError, match="rates, no lengths"):
        specification(trace)  # type: ignore[arg-type]


def test_real_files_are_no_traces() -> None:
    for folder, name, kind in (
        ("azure2023", "AzureLLMInferenceTrace_conv.csv.gz", "azure"),
        ("servegen", "servegen_aggregate_rate.csv.gz", "servegen"),
    ):
        path = real(folder, name)
        assert formats.sniff(path) == kind
        with pytest.raises(TraceError, match=r"without block identity.* - fix: make a specification"):
            load(str(path))
    with pytest.raises(TraceError, match=r"several workloads - fix: add \?workload= with one of m-large"):
        lengths.load(str(path))


# ---- formats ---------------------------------------------------------------------------------------------------------


def test_azure_variants(tmp_path: Path) -> None:
    rows = "2024-05-10 00:00:01.5+00:00,7,3\n2024-05-10 00:00:00.009930+00:00,5,0\n2024-05-10T00:00:03Z,1,1"
    path = write(tmp_path / "a.csv.gz", gzip.compress((AZURE + rows).encode()))
    trace = lengths.load(str(path))
    assert isinstance(trace, LengthTrace)
    assert trace.arrival_s.tolist() == [0.0, 1.49007, 2.99007]
    assert trace.input_tokens.tolist() == [5, 7, 1]
    assert trace.output_tokens.tolist() == [0, 3, 1]
    assert trace.provenance["requests_out_of_order"] == 1
    rows = "2024-10-15 00:00:00.1234567,2,100,5\n\n2024-10-15 00:00:01,0,10,5\n"
    path = write(tmp_path / "b.csv", "\ufeffTIMESTAMP,NumImages,ContextTokens,GeneratedTokens\n" + rows)
    trace = lengths.load(str(path))
    assert trace.provenance["requests_with_images"] == 1


def test_burstgpt_failures_and_sessions(tmp_path: Path) -> None:
    rows = "5,ChatGPT,472,18,490,Conversation log\n45,ChatGPT,1087,0,1087,API log\n118.5,GPT-4,417,276,693,API log\n"
    first = lengths.load(str(write(tmp_path / "1.csv", BURST_1 + rows)))
    assert isinstance(first, LengthTrace)
    assert first.arrival_s.tolist() == [0, 113.5]
    assert first.output_tokens.tolist() == [18, 276]
    assert (first.session, first.provenance["failures_dropped"]) == (None, 1)
    rows = "19440110.0,a-b,1.5,GPT-4,7,3,10,Conversation log\n19440111.0,,2,GPT-4,8,3,11,API log\n"
    rows += "19440112.0,c,1,GPT-4,9,3,12,Conversation log\n19440113.0,a-b,1,GPT-4,9,3,12,Conversation log\n"
    second = lengths.load(f"burstgpt:{write(tmp_path / '2.csv', BURST_2 + rows)}")
    assert isinstance(second, LengthTrace)
    assert second.session is not None
    assert second.session.tolist() == [0, -1, 1, 0]
    assert fit_lengths(second)["measured"]["turns_mean"] == 1.5
    with pytest.raises(TraceError, match="a BurstGPT trace: arrivals and lengths without block identity"):
        load(str(tmp_path / "2.csv"))


def test_servegen_raw_client_and_folder(tmp_path: Path) -> None:
    one = "0,2.0,1.5,Gamma,0.44,1.1\n600,0.0,0,,0,0\n1200,1.0,3.0,Weibull,0.5,2\n"
    write(tmp_path / "chunk-1-trace.csv", one)
    client = lengths.load(str(tmp_path / "chunk-1-trace.csv"))
    assert isinstance(client, RateTrace)
    assert client.t_s.tolist() == [0, 1200]
    assert client.burstiness == pytest.approx(2.0)
    arrivals = fit_lengths(client)["arrivals"]
    assert arrivals["burstiness"] == pytest.approx(2.0)
    write(tmp_path / "chunk-2-trace.csv", "0,3,1,\n600,0.5,1,Gamma\n")
    both = lengths.load(f"servegen:{tmp_path}")
    assert isinstance(both, RateTrace)
    assert both.rate_per_s.tolist() == [5.0, 0.5, 1.0]
    assert both.burstiness is None
    assert formats.sniff(tmp_path) == "servegen"
    idle = write(tmp_path / "sum.csv", "workload,t_s,rate_rps\nx,0,1\nx,600,2\nx,3000,3\n")
    rates = fit_lengths(lengths.load(str(idle)))["arrivals"]
    assert (rates["t_s"], rates["rate_per_s"], rates["end_s"]) == ([0, 600, 1200, 3000], [1, 2, 0, 3], 3600)


MALFORMED = [
    ("azure", AZURE, "no requests in it"),
    ("azure", AZURE + "2023-11-16 18:15:46,5\n", ":2: expected 3 fields, got 2"),
    ("azure", AZURE + "2023-13-16 18:15:46,5,5\n", ":2: field 'TIMESTAMP': expected a day that exists"),
    ("azure", AZURE + "2023-11-16 24:15:46,5,5\n", ":2: field 'TIMESTAMP': expected a time such as"),
    ("azure", AZURE + "yesterday,5,5\n", ":2: field 'TIMESTAMP': expected a time such as 2023-11-16 18:15:46.6805900"),
    ("azure", AZURE + "2023-11-16 18:15:46,5,5\n2023-11-16 18:15:47,-5,5\n", ":3: field 'ContextTokens': expected an"),
    ("azure", AZURE + "2023-11-16 18:15:46,5.5,5\n", ":2: field 'ContextTokens': expected an integer from 0"),
    ("azure", AZURE + "2023-11-16 18:15:46,5,99999999999\n", ":2: field 'GeneratedTokens': expected an integer from 0"),
    ("azure", AZURE + '2023-11-16 18:15:46,"5,5\n', "not CSV text"),
    ("azure", AZURE.encode() + b"\xff\xfe,1,1\n", "not CSV text"),
    ("azure", "TIMESTAMP,ContextTokens\n", ":1: field 'GeneratedTokens': expected one column of this name"),
    ("azure", "TIMESTAMP,ContextTokens,GeneratedTokens,TIMESTAMP\n", ":1: field 'TIMESTAMP': expected one column"),
    ("azure", "", ":1: field 'TIMESTAMP': expected one column of this name, got []"),
    ("azure", gzip.compress((AZURE + "2023-11-16 18:15:46,5,5\n" * 3000).encode())[:-40], "data ends or breaks"),
    ("burstgpt", BURST_1 + "x,GPT-4,7,3,10,API log\n", ":2: field 'Timestamp': expected a finite number >= 0, got 'x'"),
    ("burstgpt", BURST_1 + "nan,GPT-4,7,3,10,API log\n", ":2: field 'Timestamp': expected a finite number >= 0"),
    ("burstgpt", BURST_1 + "1,GPT-4,7,0,7,API log\n", "no requests in it"),
    ("servegen", "0,1,1,Pareto,1,1\n", ":1: field 'distribution': expected Gamma, Weibull or nothing, got 'Pareto'"),
    ("servegen", "0,1,1,Gamma,1,1\n0,1,1,Gamma,1,1\n", ":2: field 'window start': expected each window once"),
    ("servegen", "0,-1,1,Gamma,1,1\n", ":1: field 'rate': expected a finite number >= 0, got '-1'"),
    ("servegen", "0,1,1\n", ":1: expected 4 or 6 fields"),
    ("servegen", "0,0,1,Gamma,1,1\n", "no window with traffic in it"),
    ("servegen", "", "no window with traffic in it"),
    ("servegen", "workload,t_s,rate_rps\n", "no windows in it"),
    ("servegen", "workload,t_s,rate_rps\na,0,1\na,0,1\n", ":3: field 't_s': expected each window of a once"),
    ("servegen?workload=b", "workload,t_s,rate_rps\na,0,1\n", "unknown workload"),
    ("servegen?workload=b", "0,1,1,Gamma,1,1\n", "a file of one client has no workloads"),
    ("azure?workload=b", AZURE, "unknown option of azure 'workload'"),
]


@pytest.mark.parametrize(("kind", "content", "words"), MALFORMED)
def test_malformed(tmp_path: Path, kind: str, content: str | bytes, words: str) -> None:
    path = write(tmp_path / "x.csv", content)
    name, _, query = kind.partition("?")
    with pytest.raises(TraceError) as caught:
        lengths.load(f"{name}:{path}?{query}")
    assert words in str(caught.value)


def test_unreadable(tmp_path: Path) -> None:
    for spec in (f"azure:{tmp_path}/none.csv", f"servegen:{tmp_path}", f"burstgpt:{tmp_path}"):
        with pytest.raises(TraceError, match=" - fix: "):
            lengths.load(spec)
    with pytest.raises(TraceError, match="unknown format of lengths and rates 'mooncake'"):
        lengths.load(str(write(tmp_path / "m.jsonl", '{"timestamp": 0, "hash_ids": [1]}\n')))


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80) | st.binary(max_size=80))
def test_any_content_is_refused_or_read(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for kind, head in (("azure", AZURE), ("burstgpt", BURST_2), ("servegen", "")):
        raw = head.encode() + (content.encode() if isinstance(content, str) else content)
        with pytest.raises(TraceError):
            lengths.load(f"{kind}:{write(folder / 'any.csv', raw)}")


# ---- fits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "burstiness"), [("gamma", 2.0), ("weibull", 3.0), ("gamma", 1.0)])
def test_a_fit_finds_what_was_drawn(kind: str, burstiness: float) -> None:
    spec = {"format": "kvevolve-workload", "version": 1, "name": "x", "requests": 12_000}
    spec |= {"arrivals": {"process": kind, "burstiness": burstiness, "requests_per_s": 4.0}}
    spec |= {"sources": [{"family": "measured_lengths", "parameters": {"correlation": 0.5}}]}
    made = generate(WorkloadSpec.from_plain(spec))
    trace = LengthTrace("made", made.arrival_s, made.input_tokens, made.output_tokens)
    fitted = fit_lengths(trace)
    assert fitted["arrivals"]["burstiness"] == pytest.approx(burstiness, rel=0.12)
    assert burstiness == 1.0 or fitted["arrivals"]["gaps"] == kind
    assert fitted["lengths"]["correlation"] == pytest.approx(0.5, abs=0.03)
    assert np.interp(0.5, *fitted["lengths"]["input_tokens"].values()) == np.median(made.input_tokens)


def test_too_little_to_fit() -> None:
    for times in ([0.0], [1.0, 1.0]):
        ones = np.ones(len(times), np.int32)
        with pytest.raises(TraceError, match="at least two requests at different times"):
            fit_lengths(LengthTrace("x", np.array(times), ones, ones))


def test_measured_lengths_follow_their_tables() -> None:
    table = {"p": [0, 0.5, 1], "tokens": [100, 100, 300]}
    trace = measured_lengths(1, 4_000, input_tokens=table, output_tokens={"p": [0, 1], "tokens": [0, 9]}, correlation=1)
    assert (trace.input_tokens.min(), trace.input_tokens.max()) == (100, 300)
    assert (trace.input_tokens == 100).mean() == pytest.approx(0.5, abs=0.03)
    assert rank_correlation(trace.input_tokens, trace.output_tokens) > 0.85
    alone = measured_lengths(1, 300, input_tokens=table, system_share=0.0)
    assert alone.n_blocks == alone.n_refs
    assert trace.n_blocks < trace.n_refs


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"p": [0, 1]},
        {"p": [0, 1], "tokens": [1]},
        {"p": [0, 0.5], "tokens": [1, 2]},
        {"p": [0, 0, 1], "tokens": [1, 2, 3]},
        {"p": [0, 1], "tokens": [2, 1]},
        {"p": [0, 1], "tokens": [-1, 1]},
        {"p": [0, 1], "tokens": [1, float("nan")]},
        {"p": [0, 1], "tokens": ["a", "b"]},
        {"p": [0, 1], "tokens": [1, 2], "x": []},
        [1, 2],
    ],
)
def test_measured_lengths_refuse_what_is_no_table(table: dict[str, list[float]]) -> None:
    with pytest.raises(TraceError, match="input_tokens: expected a quantile table"):
        measured_lengths(0, 5, input_tokens=table)
    with pytest.raises(TraceError, match="output_tokens: expected a quantile table"):
        measured_lengths(0, 5, output_tokens=table)
    with pytest.raises(TraceError, match="correlation: expected a number from -1 to 1"):
        measured_lengths(0, 5, correlation=2.0)


def test_reading_tells_progress(tmp_path: Path) -> None:
    told: list[str] = []
    path = write(tmp_path / "a.csv", AZURE + "2023-11-16 18:15:46,5,5\n")
    with progress.listening(lambda what, done, total: told.append(what)):
        lengths.load(str(path))
    assert told == ["reading a.csv, MB"]
