"""Workload specifications: what is refused and how, YAML there and back, and that a specification is a trace."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import Trace, TraceError, formats, load, npz, synthetic
from workloads.spec import WorkloadSpec, family_parameters, generate, load_spec, parse_spec, shipped
from workloads.spec.generation import source_seed
from workloads.synthetic.draws import stream

EXAMPLES = sorted((Path(__file__).parents[1] / "examples" / "workloads").glob("*.yaml"))

VALID = """\
format: kvevolve-workload
version: 1
name: mixture
seed: 3
requests: 400
block_tokens: 32
about: {source: tests, licence: Apache-2.0}
arrivals:
  process: gamma
  burstiness: 2
sources:
  - family: chat
    weight: 3
    parameters:
      turns_mean: 4
  - family: zero_reuse
phases:
  - {share: 0.5, weights: [3, 1]}
  - {share: 0.5, weights: [1, 3], rate: 2.0}
"""


def changed(**fields: Any) -> dict[str, Any]:
    """Return the valid specification with fields replaced, or left out where None."""
    return {key: value for key, value in (yaml.safe_load(VALID) | fields).items() if value is not None}


def refusal(text: str | bytes) -> str:
    """Return the message with which a specification is refused."""
    with pytest.raises(TraceError) as caught:
        parse_spec(text, "w.yaml")
    return str(caught.value)


# ---- what is refused -------------------------------------------------------------------------------------------------

MALFORMED = [
    ("version: 1", "version: 2", "w.yaml:2: field 'version': expected 1, got 2"),
    ("name: mixture", "name: ''", "w.yaml:3: field 'name': expected 1 or more characters"),
    ("seed: 3", "sed: 3", "w.yaml:4: field 'sed': expected one of about, arrivals, block_tokens, format, name, ph"),
    ("seed: 3", "sed: 3", "got 'sed' - fix: did you mean 'seed'?"),
    ("seed: 3", "seed: 2026-01-01", "w.yaml:4: field 'seed': expected an integer, got '2026-01-01'"),
    ("seed: 3", "seed: -3", "w.yaml:4: field 'seed': expected a number >= 0, got -3"),
    ("requests: 400", "requests: 4e2", "w.yaml:5: field 'requests': expected an integer, got 400.0"),
    ("requests: 400", "requests: 4_000_000_000", "w.yaml:5: field 'requests': expected a number <= 2,147,483,647"),
    ("requests: 400", f"requests: {'9' * 5000}", "w.yaml:5: field 'requests': expected an integer below 1e308, got '9"),
    ("block_tokens: 32", "block_tokens: yes", "w.yaml:6: field 'block_tokens': expected an integer, got true"),
    ("source: tests", "source: .nan", "w.yaml:7: field 'about.source': expected a finite number, got .nan"),
    ("source: tests", "source: !!binary x", "w.yaml:7: field 'about.source': expected no tag, got tag:yaml.org"),
    ("source: tests", "1: tests", "w.yaml:7: field 'about.1': expected a key that is text"),
    ("process: gamma", "process: gama", "field 'arrivals.process': expected one of as-generated, poisson, gamma,"),
    ("process: gamma", "process: gama", "got 'gama' - fix: did you mean 'gamma'?"),
    ("  process: gamma\n", "", "w.yaml:8: field 'arrivals.process': expected one of as-generated, poisson,"),
    ("burstiness: 2", "burstiness: 200", "w.yaml:10: field 'arrivals.burstiness': expected a number <= 50.0, got 200"),
    ("burstiness: 2", "rate: 2", "w.yaml:10: field 'arrivals.rate': expected one of burstiness, moves, proce"),
    ("  burstiness: 2\n", "", "field 'arrivals.burstiness': expected this field, got nothing - fix: add burstiness:"),
    ("family: chat", "family: chatt", "w.yaml:12: field 'sources[0].family': expected a family (agent, agent_branches"),
    ("family: chat", "family: chatt", "got 'chatt' - fix: did you mean 'chat'?"),
    (
        "family: chat",
        "family: reasoning_brst",
        "or a preset, got 'reasoning_brst' - fix: did you mean 'reasoning_b",
    ),
    ("weight: 3", "weight: 0", "w.yaml:13: field 'sources[0].weight': expected a number >= 1e-09, got 0"),
    ("turns_mean: 4", "turns_men: 4", "field 'sources[0].parameters.turns_men': expected a parameter of chat"),
    ("turns_mean: 4", "turns_mean: abc", "w.yaml:15: field 'sources[0].parameters.turns_mean': expected float, got 'a"),
    ("turns_mean: 4", "turns_mean: -4", "field 'sources[0].parameters.turns_mean': expected a finite number > 0, got"),
    ("turns_mean: 4", "seed: 4", "field 'sources[0].parameters.seed': expected a parameter of chat"),
    ("[3, 1]", "[3, 1, 4]", "w.yaml:18: field 'phases[0].weights': expected 2 weights, one a source, got a list of 3"),
    ("[3, 1]", "[0, 0]", "w.yaml:18: field 'phases[0].weights': expected a weight of at least 1e-09, got none"),
    ("share: 0.5, weights: [3, 1]", "share: 0.4", "w.yaml:17: field 'phases': expected shares that sum to 1, got 0.9"),
    (
        "rate: 2.0",
        "share: 2.0",
        "field 'phases[1].share': expected each key once, got 'share' again in line 19",
    ),
    ("name: mixture", "name: [", "not YAML"),
    ("name: mixture", "name: \x00", "w.yaml:3: not YAML: control characters"),
    ("name: mixture", "name: &a x\nabout2: *a", "w.yaml:4: field 'about2': expected no alias, got *a"),
    ("name: mixture", f"name: {'[' * 80}{']' * 80}", "w.yaml:3: expected at most 40 levels"),
    (VALID, "", "w.yaml:1: expected a YAML mapping, got an empty file"),
    (VALID, "- 1", "w.yaml:1: expected a mapping, got a list of 1"),
    (VALID, VALID + "---\n" + VALID, "w.yaml:21: expected one document, got a second"),
]


@pytest.mark.parametrize(("old", "new", "words"), MALFORMED)
def test_malformed(old: str, new: str, words: str) -> None:
    assert old in VALID
    assert words in refusal(VALID.replace(old, new, 1))


def test_all_errors_at_once_in_order_of_lines() -> None:
    broken = VALID
    for old, new in (
        ("version: 1", "version: 2"),
        ("seed: 3", "sed: 3"),
        ("requests: 400", "requests: many"),
        ("family: chat", "family: agent"),
        ("turns_mean: 4", "toolkits: 0\n      steps_mean: -1\n      turns_mean: 4"),
        ("family: zero_reuse", "weight: 1"),
        ("[1, 3]", "[1]"),
    ):
        broken = broken.replace(old, new, 1)
    message = refusal(broken)
    lines = message.splitlines()
    assert lines[0] == "w.yaml: 8 things are wrong"
    numbers = [int(line.strip().split(":")[1]) for line in lines[1:]]
    assert numbers == sorted(numbers)
    for field in ("version", "sed", "requests", "toolkits", "steps_mean", "turns_mean", "sources[1].family", "weights"):
        assert sum(field in line.partition(" expected ")[0] for line in lines[1:]) == 1
    assert all(" - fix: " in line for line in lines[1:])


def test_many_errors_are_cut_short() -> None:
    message = refusal(VALID + "".join(f"x{number}: 1\n" for number in range(100)))
    assert message.startswith("w.yaml: 100 things are wrong")
    assert message.endswith("and 60 more")


def test_a_table_is_checked_as_a_whole() -> None:
    table = {"process": "table", "t_s": [0, 60, 50], "rate_per_s": [0, 0], "end_s": 10, "once": True}
    with pytest.raises(TraceError) as caught:
        WorkloadSpec.from_plain(changed(arrivals=table | {"requests_per_s": 2}), "x")
    for words in ("expected 3 rates", "expected a start after 60", "a rate of at least", "an end after 50", "got both"):
        assert words in str(caught.value)


def test_what_only_the_family_can_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def picky(seed: int, requests: int, block_tokens: int, tables: dict[str, Any]) -> Trace:
        """Take tables."""
        if "rows" not in tables:
            raise TraceError("tables: expected rows, got none of them", field="tables")
        return synthetic.zero_reuse(seed, requests, block_tokens)

    def broken(seed: int, requests: int, block_tokens: int, length: int = 3) -> Trace:
        """Fail in its own way, or make too little."""
        return synthetic.zero_reuse(seed, -(-requests // length), block_tokens)

    families = {**synthetic.GENERATORS, "picky": picky, "broken": broken}
    monkeypatch.setattr("workloads.synthetic.GENERATORS", MappingProxyType(families))

    def spec(family: str, **parameters: Any) -> WorkloadSpec:
        return WorkloadSpec.from_plain(
            changed(sources=[{"family": family, "parameters": parameters}], phases=None), "x"
        )

    with pytest.raises(TraceError, match=r"parameters\.tables': expected this parameter, which picky needs"):
        spec("picky")
    with pytest.raises(TraceError, match=r"parameters\.tables': expected rows, got a mapping of 1"):
        spec("picky", tables={"columns": []})
    with pytest.raises(TraceError, match=r"parameters': expected what broken can work with \(ZeroDivisionError"):
        spec("broken", length=0)
    for odd in ({1, 2}, np.int64(3)):
        with pytest.raises(TraceError, match=r"parameters.*expected"):
            spec("broken", length=odd)
    nested = {"rows": [[1, 2.5, None, "a"], {"b": True}]}
    found = spec("picky", tables=nested)
    assert parse_spec(found.to_yaml()).fields.sources[0].parameters == {"tables": nested}
    assert generate(found).n_requests == 400
    with pytest.raises(TraceError, match=r"sources\[0\] \(broken\): expected 400 requests of the family, got 134"):
        generate(spec("broken", length=3))


@pytest.mark.parametrize("name", sorted(synthetic.GENERATORS))
def test_parameters_of_every_family_can_be_written_down(name: str) -> None:
    known = family_parameters(synthetic.GENERATORS[name])
    given = {key: one.default for key, one in known.items() if one.default is not inspect.Parameter.empty}
    sources = [{"family": name, "parameters": given}]
    if len(given) == len(known):  # else it needs what has no default, such as tables
        spec = WorkloadSpec.from_plain(changed(sources=sources, phases=None, arrivals=None, requests=20))
        bare = WorkloadSpec.from_plain(changed(sources=[{"family": name}], phases=None, arrivals=None, requests=20))
        assert generate(parse_spec(spec.to_yaml())).fingerprint == generate(bare).fingerprint


def test_a_preset_is_a_family() -> None:
    name = "rolling_template_versions_shifted"
    sources = [{"family": name, "parameters": {"releases": 1, "tasks": 4}}]
    spec = WorkloadSpec.from_plain(changed(sources=sources, phases=None, arrivals=None))
    made = synthetic.generator(name)(source_seed(3, 0, name), requests=400, block_tokens=32, releases=1, tasks=4)
    trace = generate(spec)
    assert trace.fingerprint == made.fingerprint
    (fact,) = trace.provenance["sources"]  # type: ignore[misc]
    assert (fact["family"], fact["defaults"]["canary_share"]) == (name, 0.33)
    with pytest.raises(TraceError, match="releases': expected int, got 'a' - fix"):
        WorkloadSpec.from_plain(changed(sources=[{"family": name, "parameters": {"releases": "a"}}], phases=None))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["1e3", "no", "~"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
places = st.sampled_from(
    ["name", "seed", "requests", "block_tokens", "about", "arrivals", "sources", "phases", "x"]
    + [f"arrivals.{x}" for x in ("process", "burstiness", "requests_per_s", "moves", "t_s", "rate_per_s")]
    + [f"sources.0.{x}" for x in ("family", "weight", "parameters", "parameters.think_s", "parameters.x")]
    + [f"phases.0.{x}" for x in ("share", "weights", "rate")]
)


@given(st.dictionaries(places, plain, max_size=4))
@settings(max_examples=60)
def test_any_values_anywhere_are_refused_or_make_a_trace(values: dict[str, Any]) -> None:
    content = yaml.safe_load(VALID)
    for place, value in values.items():
        *parents, last = place.split(".")
        at = content
        for part in parents:
            if isinstance(at, list):
                at = dict(enumerate(at)).get(int(part))
            elif isinstance(at, dict):
                at = at.get(part)
        if isinstance(at, dict):
            at[last] = value
    try:
        spec = parse_spec(yaml.safe_dump(content), "w.yaml")
        trace = generate(spec, requests=30)
    except TraceError:
        return
    assert trace.n_requests == 30
    assert parse_spec(spec.to_yaml()) == spec


@given(st.text(max_size=60) | st.binary(max_size=60))
@settings(max_examples=100)
def test_any_text_is_refused(text: str | bytes) -> None:
    with pytest.raises(TraceError):
        parse_spec(text)


letters = st.sampled_from(list("\n :-[]{}'\"&*!|>%@`#,0\t~\x07é"))


@given(st.lists(st.tuples(st.integers(0, len(VALID)), letters), max_size=6))
@settings(max_examples=60)
def test_damaged_text_is_refused_or_read(damage: list[tuple[int, str]]) -> None:
    text = VALID
    for at, letter in damage:
        text = text[:at] + letter + text[at + 1 :]
    with suppress(TraceError):
        assert parse_spec(text, "w.yaml").fields.version == 1


# ---- there and back --------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=6), plain, max_size=4))
@settings(max_examples=60)
def test_yaml_round_trip(about: dict[str, Any]) -> None:
    try:
        spec = WorkloadSpec.from_plain(changed(about=about))
    except TraceError:  # NaN
        return
    assert parse_spec(spec.to_yaml()) == spec


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_make_traces(path: Path) -> None:
    trace = load(f"{path}?requests=300")
    assert trace.n_requests == 300
    assert formats.sniff(path) == "spec"


def test_load_by_kind_name_and_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.yaml"
    file.write_text(VALID)
    want = generate(load_spec(file))
    assert load(str(file)).fingerprint == load(f"spec:{file}").fingerprint == want.fingerprint
    other = load(f"spec:{file}?seed=4&requests=100&block=16")
    assert (other.n_requests, other.block_tokens, other.name) == (100, 16, "mixture-seed4")
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "mine.yaml").write_text(VALID)
    monkeypatch.setattr("workloads.spec.files", lambda package: tmp_path)
    assert shipped() == ["mine"]
    assert load("fitted:mine?requests=100&seed=4&block_tokens=16").fingerprint == other.fingerprint
    for spec, words in (
        ("fitted:mien", "unknown shipped specification 'mien': did you mean 'mine'"),
        ("fitted:mine?sed=1", "unknown option of fitted:mine 'sed': did you mean 'seed'"),
        ("fitted:mine?seed=-1", "mixture: field 'seed': expected a number >= 0, got -1"),
        (f"spec:{file}?requests=0", "mixture: field 'requests': expected a number >= 1, got 0"),
        (f"spec:{tmp_path}/none.yaml", "No such file"),
        (f"spec:{tmp_path}", "Is a directory"),
    ):
        with pytest.raises(TraceError) as caught:
            load(spec)
        assert words in str(caught.value)


def test_a_trace_file_holds_its_specification(tmp_path: Path) -> None:
    spec = parse_spec(VALID)
    trace = generate(spec, seed=9)
    npz.write(trace, tmp_path / "a.npz")
    npz.write(generate(spec, seed=9), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = Trace.load(tmp_path / "a.npz")
    assert read.provenance["about"] == {"source": "tests", "licence": "Apache-2.0"}
    held = read.provenance["spec"]
    assert isinstance(held, dict)
    assert generate(WorkloadSpec.from_plain(held)).fingerprint == trace.fingerprint


# ---- sources ---------------------------------------------------------------------------------------------------------


def test_one_source_with_its_own_times_is_the_family() -> None:
    plain_spec = changed(arrivals=None, phases=None, sources=[{"family": "chat"}])
    trace = generate(WorkloadSpec.from_plain(plain_spec))
    assert trace.fingerprint == synthetic.chat(source_seed(3, 0, "chat"), 400, 32).fingerprint


def test_no_two_streams_share_a_draw() -> None:
    seeds = {(s, i, f): source_seed(s, i, f) for s in range(12) for i in range(4) for f in ("chat", "rag", "scan")}
    assert len(set(seeds.values())) == len(seeds)
    draws = [stream(family, seed).integers(2**62, size=100) for (_, _, family), seed in seeds.items()]
    for what in ("workload arrivals", "workload bursts"):
        draws += [stream(what, seed).integers(2**62, size=100) for seed in range(12)]
    assert len(np.unique(np.concatenate(draws))) == sum(map(len, draws))


def test_sources_of_one_family_are_different_and_share_nothing() -> None:
    twice = changed(sources=[{"family": "chat"}, {"family": "chat"}], phases=None, arrivals=None)
    trace = generate(WorkloadSpec.from_plain(twice))
    assert trace.tenant is not None
    assert trace.session is not None
    halves = [trace.tenant == tenant for tenant in (0, 1)]
    assert [int(half.sum()) for half in halves] == [200, 200]
    assert trace.output_tokens[halves[0]].tolist() != trace.output_tokens[halves[1]].tolist()
    blocks = np.repeat(trace.tenant, trace.full_blocks)
    assert not np.intersect1d(trace.block_ids[blocks == 0], trace.block_ids[blocks == 1]).size
    assert not np.intersect1d(trace.session[halves[0]], trace.session[halves[1]]).size


def test_tenants_tell_the_source_and_types_stay() -> None:
    sources = [{"family": "scan"}, {"family": "multi_tenant"}, {"family": "agent"}]
    trace = generate(WorkloadSpec.from_plain(changed(sources=sources, phases=None, requests=900)))
    assert trace.tenant is not None
    assert trace.request_type is not None
    assert trace.priority is not None
    facts = trace.provenance["sources"]
    assert isinstance(facts, list)
    ranges = [fact["tenants"] for fact in facts]
    assert ranges[0] == [0, 0]
    assert ranges[1][0] == 1 < ranges[1][1]
    assert ranges[2] == [ranges[1][1] + 1] * 2
    for fact in facts:
        low, high = fact["tenants"]
        own = (trace.tenant >= low) & (trace.tenant <= high)
        assert int(own.sum()) == fact["requests"] == 300
        alone = synthetic.GENERATORS[fact["family"]](fact["defaults"]["seed"], requests=300, block_tokens=32)
        for key in ("request_type", "priority"):
            column = getattr(alone, key)
            want = np.zeros(300) if column is None else column
            assert sorted(getattr(trace, key)[own].tolist()) == sorted(want.tolist())
