"""Panels of one's own: YAML files, what they may say, how mistakes are told, and what comes of them."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads import Trace, TraceError, describe, load, load_panel, locate, panel_file, panel_schema
from workloads.sessions import hash_share

MINE = """\
format: kvevolve-panel/1
name: mine-v1
about: recorded and generated traffic
capacities: [5%, 20%]
splits:
  train:
    - name: a
      source: synthetic:chat?seed=1
      options: {requests: 200}
  validation:
    - name: b
      source: synthetic:chat?seed=2
      options: {requests: 200}
"""

Write = Callable[..., Path]
CUTS = ("[0%, 50%]", "[50%, 100%]")


@pytest.fixture
def panel(tmp_path: Path) -> Write:
    """Write a panel file: `MINE` with some of its text replaced."""

    def write(*changes: tuple[str, str], name: str = "mine.yaml") -> Path:
        text = MINE
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def refusal(path: Path) -> list[str]:
    with pytest.raises(TraceError) as found:
        panel_file.read(path)
    return [line.strip() for line in str(found.value).splitlines()]


def mooncake(path: Path, requests: int = 40) -> Path:
    """Write a Mooncake file in which each request shares its first blocks with the one before."""
    rows = [
        {
            "timestamp": 1000 * i,
            "input_length": 8 * 4,
            "output_length": 1,
            "hash_ids": [*range(4 * i % 12, 4 * i % 12 + 4), *range(100 + 4 * i, 104 + 4 * i)],
        }
        for i in range(requests)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sessions(path: Path, count: int = 30) -> Path:
    """Write a kvsess1 file of sessions of three requests."""
    lines = [{"format": "kvsess1", "block_size": 16, "time_unit": "ms", "global_ids": False}]
    for number in range(count):
        requests = [{"t": 1000 * k, "a": 0, "in": 16 * (k + 1), "out": 1, "b": [[0, k + 1]]} for k in range(3)]
        lines.append({"session": f"s{number}", "requests": requests})
    with gzip.open(path, "wt") as handle:
        handle.write("".join(json.dumps(line) + "\n" for line in lines))
    return path


# ---- what a file may say ---------------------------------------------------------------------------------------------


def test_a_panel_of_ones_own(panel: Write) -> None:
    found = load_panel("train", str(panel()))
    assert (found.name, found.split, found.which) == ("mine-v1", "train", str(panel().resolve()))
    expected = load("synthetic:chat?seed=1&requests=200")
    assert {name: trace.fingerprint for name, trace in found.traces.items()} == {"a": expected.fingerprint}
    assert found.traces["a"].name == "a"
    assert [cell.label for cell in found.cells] == ["5%", "20%"]
    assert not found.real
    again = load_panel("train", found.which)
    assert again.fingerprint == found.fingerprint != load_panel("validation", found.which).fingerprint
    with pytest.raises(TraceError, match="has no split 'test', only train, validation - fix: add it"):
        load_panel("test", found.which, purpose="report")


def test_recorded_and_generated_traffic_mix(tmp_path: Path, panel: Write) -> None:
    mooncake(tmp_path / "log.jsonl")
    more = """\
    - name: recorded
      source: mooncake:log.jsonl?block=4
      warmup: 25%
      weight: 2
      capacities: [30]
    - name: sniffed
      source: log.jsonl
      options: {block_tokens: 4}
      cut: {requests: [10, null]}
      note: the rest
  validation:
"""
    found = load_panel("train", str(panel(("  validation:\n", more))))
    assert list(found.traces) == ["a", "recorded", "sniffed"]
    assert found.real
    assert found.generated == {"a"}
    assert found.weights == {"a": 1.0, "recorded": 2.0, "sniffed": 1.0}
    whole = load(f"mooncake:{tmp_path / 'log.jsonl'}?block=4")
    assert found.traces["recorded"].fingerprint == whole.fingerprint
    assert found.traces["sniffed"].fingerprint == whole.slice(10, 40).fingerprint
    (cell,) = (cell for cell in found.cells if cell.trace_name == "recorded")
    assert (cell.capacity_blocks, cell.first_counted) == (30, 10)
    assert found.prompt_tokens(cell) == 30 * 32
    assert "recorded and SYNTHETIC traffic" in describe(found)
    assert "note: sniffed: the rest" in describe(found)


def test_cuts_by_time_and_by_session(tmp_path: Path, panel: Write) -> None:
    mooncake(tmp_path / "log.jsonl")
    sessions(tmp_path / "s.jsonl.gz")
    entry = "    - {{name: x, source: {}, cut: {{{}}}, options: {{{}}}, capacities: [50]}}\n  validation:\n"
    whole = load(f"mooncake:{tmp_path / 'log.jsonl'}?block_tokens=4")
    parts = [whole.slice(*rows) for rows in ((0, 12), (12, 20), (20, 40))]
    for cut, expected in (("0%, 30%", parts[0]), ("0.3, 0.5", parts[1]), ("50%, 1", parts[2]), ("0, 1.0", whole)):
        text = entry.format("log.jsonl", f"time: [{cut}]", "block_tokens: 4")
        found = load_panel("train", str(panel(("  validation:\n", text))))
        assert found.traces["x"].fingerprint == expected.fingerprint
    text = entry.format("s.jsonl.gz", "sessions: [20%, 60%]", "window_s: 100, block_tokens: 16")
    found = load_panel("train", str(panel(("  validation:\n", text))))
    inside = [f"s{i}" for i in range(30) if 0.2 <= hash_share(f"s{i}") < 0.6]
    assert found.traces["x"].n_requests == 3 * len(inside) > 0
    for source, cut, options, said in (
        ("log.jsonl", "sessions: [0, 0.5]", "block_tokens: 4", "on a clock already"),
        ("synthetic:chat", "sessions: [0, 0.5]", "seed: 9", "on a clock already"),
        ("log.jsonl", "time: [99.6%, 99.9%]", "block_tokens: 4", "no request from 0.996 to 0.999 of the time"),
        ("log.jsonl", "requests: [0, 41]", "block_tokens: 4", r"expected 0 <= start < stop <= 40"),
        ("log.jsonl", "requests: [0, 4]", "block: 4, block_tokns: 4", "did you mean 'block_tokens'"),
        ("other.jsonl", "requests: [0, 4]", "", "no such file"),
        ("mooncake_conversatio", "requests: [0, 4]", "", "did you mean 'mooncake_conversation'"),
    ):
        text = entry.format(source, cut, options)
        with pytest.raises(TraceError, match=f"trace 'x': .*{said}"):
            load_panel("train", str(panel(("  validation:\n", text))))


def test_memory_of_a_model_beside_the_panel(tmp_path: Path, panel: Write) -> None:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"hidden_size": 32, "torch_dtype": "bfloat16"}))
    # 2 layers * 2 * 2 heads * 8 * 2 B = 128 B per token, 16 tokens per block (chat's default): 2 KiB per block
    (trace,) = load_panel("train", str(panel())).traces.values()
    per_block = 128 * trace.block_tokens
    memory = f"{per_block * 500 / 1024:g}KiB"
    for model, blocks in (("config.json", 500), ("config.json?cache_dtype=fp8", 1000), ("64", 1000), ("128", 500)):
        path = panel(("[5%, 20%]", f"[{memory}]\nmodel: {model}"))
        (cell,) = load_panel("train", str(path)).cells
        assert (cell.label, cell.capacity_blocks) == (memory, max(blocks, int(trace.occupied_blocks.max())))


def test_warmup_leaves_the_published_fingerprint_alone(panel: Write) -> None:
    plain = load_panel("train", str(panel())).fingerprint
    assert load_panel("train", str(panel(("[5%, 20%]", "[5%, 20%]\nwarmup: 0")))).fingerprint == plain
    warm = load_panel("train", str(panel(("[5%, 20%]", "[5%, 20%]\nwarmup: 50%time"))))
    trace = warm.traces["a"]
    first = int(np.searchsorted(trace.arrival_s, trace.arrival_s[0] + trace.span_s / 2))
    assert {cell.first_counted for cell in warm.cells} == {first}
    assert warm.fingerprint != plain


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_every_mistake_at_once_with_its_line(panel: Write) -> None:
    path = panel(
        ("capacities: [5%, 20%]", "capacities:\n  - 5%\n  - 150%\n  - 0"),
        ("about: recorded and generated traffic", "abut: me"),
        (
            "      options: {requests: 200}\n  validation",
            "      options: {requests: [200]}\n      weigt: 2\n  validation",
        ),
        ("    - name: b\n      source", "    - source"),
    )
    head, *told = refusal(path)
    assert head == f"{path}: 6 things are wrong"
    assert [int(line.split(":")[1]) for line in told] == [3, 6, 7, 12, 13, 15]
    fields = "about, capacities, format, model, name, splits, warmup"
    size = "a share of the distinct blocks, blocks, or memory"
    expected = [
        f"{path}:3: field 'abut': expected one of {fields}, got 'abut' - fix: did you mean 'about'?",
        f"{path}:6: field 'capacities[1]': expected {size}, got '150%' - fix: write 5%, 4096 or 40GiB",
        f"{path}:7: field 'capacities[2]': expected {size}, got 0 - fix: write 5%, 4096 or 40GiB",
    ]
    assert set(expected) < set(told)
    assert any(line.startswith(f"{path}:13: field 'splits.train[0].weigt'") and "'weight'?" in line for line in told)
    assert any(line.startswith(f"{path}:15: field 'splits.validation[0].name': expected this field") for line in told)
    assert any(line.startswith(f"{path}:12: field 'splits.train[0].options.requests") for line in told)


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("format: kvevolve-panel/1\n", "", 1, "field 'format': expected this field, got nothing - fix: add format:"),
        ("panel/1", "panel/2", 1, "got 'kvevolve-panel/2'"),
        ("mine-v1", "mine", 2, "a name with a version"),
        ("mine-v1", "mine-v0", 2, "a name with a version"),
        ("mine-v1", "../../etc-v1", 2, "a name with a version"),
        ("mine-v1", "7", 2, "got 7"),
        ("[5%, 20%]", "[]", 4, "field 'capacities'"),
        ("[5%, 20%]", "5%", 4, "a list, got '5%'"),
        ("[5%, 20%]", "[true]", 4, "got true"),
        ("[5%, 20%]", "[5.5]", 4, "got 5.5"),
        ("[5%, 20%]", "[1e3%]", 4, "got '1e3%'"),
        ("[5%, 20%]", "[40GiB]", 1, "a model that says what fits into 40GiB"),
        ("[5%, 20%]", "[5%]\nwarmup: 100%", 5, "below 100%"),
        ("[5%, 20%]", "[5%]\nwarmup: -1", 5, "requests, or a share"),
        ("[5%, 20%]", "[5%]\nwarmup: 1000 requests", 5, "write 1000, 50% or 50%time"),
        ("  train:", "  trian:", 6, "did you mean 'train'?"),
        ("name: a", "name: a/b", 7, "a name of letters"),
        ("name: b", "name: a", 5, "not 'a' twice"),
        ("seed=2", "seed=1", 5, "'a' (train) and 'b' (validation) do"),
        ("source: synthetic:chat?seed=1", "source: ''", 8, "1 or more characters"),
        ("{requests: 200}", "{requests: 200}\n      cut: {time: [40%, 20%]}", 10, "a range that rises"),
        ("{requests: 200}", "{requests: 200}\n      cut: {time: [40%]}", 10, "'splits.train[0].cut.time'"),
        ("{requests: 200}", "{requests: 200}\n      cut: {}", 10, "one of time, sessions and requests"),
        ("{requests: 200}", "{requests: 200}\n      cut: {time: [0, .5], requests: [0, 5]}", 10, "cut in one way"),
        ("{requests: 200}", "{requests: 200}\n      cut: {requests: [-1, 5]}", 10, "a number >= 0"),
        ("{requests: 200}", "{requests: 200}\n      weight: 0", 10, "a number > 0"),
        ("{requests: 200}", "{requests: 200}\n      weight: .inf", 10, "got .inf"),
        ("{requests: 200}", "{requests: a&b=c}", 9, "a word without & ? #"),
        ("{requests: 200}", "{Requests: 200}", 9, "text that matches ^[a-z_]+$, got 'Requests'"),
        ("splits:", "splits: {}\nsplit:", 5, "at least one of train, validation and test"),
        ("splits:", "splits: &x\n  <<: *x", 6, "expected no alias"),
        ("about: ", "about: [*a, &a b]\nx: ", 3, "expected no alias"),
        ("about: recorded and generated traffic", "about: &a text\nmodel: *a", 4, "expected no alias"),
        ("about: ", "about: x\nabout: ", 3, "expected each key once, got 'about' again in line 4"),
        (
            "about: ",
            "about: !!python/object:os.system ",
            3,
            "'about': expected no tag, got tag:yaml.org,2002:python",
        ),
        ("about: ", "about: !!int #", 3, "expected no tag"),
        ("about: ", "about: \t@", 3, "not YAML"),
    ],
)
def test_a_mistake_is_told_with_line_field_and_fix(before: str, after: str, line: int, said: str, panel: Write) -> None:
    path = panel((before, after))
    told = refusal(path)
    found = [text for text in told if text.startswith(f"{path}:{line}: ")]
    assert found, told
    assert any(said in text and " fix: " in text for text in found), told


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "an empty file"),
        (b"# nothing\n", "an empty file"),
        (b"a: 1\nb: \xff\xfe", "x.yaml:2: not UTF-8"),
        (b"a: \x00", "not YAML"),
        (b"- 1\n", "expected"),
        (b"text", "expected"),
        (b"[" * 100_000, "fix: "),
        (b"a: " * 400_000, "at most 1,048,576 bytes"),
        (b"--- {}\n--- {}\n", "x.yaml:2: expected one document"),
    ],
)
def test_what_is_no_panel_is_refused(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    assert said in "\n".join(refusal(path))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, len(MINE)), st.integers(0, 8), st.text(max_size=4)), min_size=1, max_size=4))
def test_whatever_is_done_to_a_file_it_is_read_or_refused(edits: list[tuple[int, int, str]]) -> None:
    text = MINE
    for at, removed, added in edits:
        text = text[:at] + added + text[at + removed :]
    with suppress(TraceError):
        assert panel_schema.checked(Path("x.yaml"), text)["format"] == "kvevolve-panel/1"


@pytest.mark.parametrize(
    "other", ["./log.jsonl", "mooncake:log.jsonl", "x/../log.jsonl", "link", "hard", "{}/log.jsonl"]
)
def test_one_file_is_one_source_however_it_is_named(other: str, tmp_path: Path, panel: Write) -> None:
    log = mooncake(tmp_path / "log.jsonl")
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to("log.jsonl")
    (tmp_path / "hard").hardlink_to(log)
    named = ("synthetic:chat?seed=1", "log.jsonl"), ("synthetic:chat?seed=2", other.format(tmp_path))
    (told,) = refusal(panel(*named, ("{requests: 200}", "{block: 4}")))
    assert "'a' (train) and 'b' (validation), which read the same files" in told
    path = tmp_path / "mine.yaml"
    first, last = path.read_text().split("validation:")
    apart = [f"{part}      cut: {{time: {cut}}}\n" for part, cut in zip((first.rstrip(" "), last), CUTS, strict=True)]
    path.write_text("  validation:".join(apart))
    assert panel_file.read(path)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("seed=1\n", "requests=200&seed=1"),
        ("seed=1\n", "seed=1&requests=201"),
        ("seed=1\n", "seed=01&block=32"),
    ],
)
def test_one_seed_is_one_source_whatever_the_options(one: str, other: str, panel: Write) -> None:
    path = panel(("      options: {requests: 200}\n", ""), ("seed=2", other), ("?seed=1\n", f"?{one}"))
    assert any("'a' (train) and 'b' (validation) do" in line for line in refusal(path))


def test_parts_of_time_are_apart_only_if_laid_out_alike(panel: Write) -> None:
    def written(second: str) -> Path:
        path = panel(("synthetic:chat?seed=1", "cc_weka_v8"), ("synthetic:chat?seed=2", "cc_weka_v8"))
        first, last = path.read_text().split("validation:")
        laid = [
            part.replace("{requests: 200}", f"{options}\n      cut: {{time: {cut}}}")
            for part, options, cut in ((first, "{seed: 1}", CUTS[0]), (last, second, CUTS[1]))
        ]
        path.write_text("validation:".join(laid))
        return path

    assert panel_file.read(written("{seed: 1}"))
    assert any("'a' (train) and 'b' (validation) do" in line for line in refusal(written("{seed: 2}")))


def test_a_shipped_name_means_the_shipped_panel(tmp_path: Path) -> None:
    shipped = panel_file.shipped()["synthetic-v1"]
    path = tmp_path / "copy.yaml"
    shutil.copy(shipped, path)
    assert load_panel("train", str(path)).fingerprint == load_panel("train", "synthetic").fingerprint
    path.write_text(shipped.read_text().replace("about: ", "about: mine, ") + "# a comment\n")
    assert panel_file.read(path).name == "synthetic-v1"
    path.write_text(shipped.read_text().replace("requests: 2200", "requests: 2201"))
    (told,) = refusal(path)
    assert "give it a name of its own, for example my-synthetic-v1" in told
    path.write_text(path.read_text().replace("name: synthetic-v1", "name: my-synthetic-v1"))
    assert panel_file.read(path).name == "my-synthetic-v1"


def test_unknown_panels_are_named_with_a_suggestion() -> None:
    with pytest.raises(TraceError, match="did you mean 'synthetic'"):
        load_panel("train", "syntetic")
    with pytest.raises(TraceError, match=r"nowhere\.yaml: No such file"):
        load_panel("train", "nowhere.yaml")


# ---- speed and freshness ---------------------------------------------------------------------------------------------


def test_a_file_is_checked_once(panel: Write, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = panel()
    first = panel_file.read(path)
    monkeypatch.setattr(panel_schema, "checked", lambda *_: pytest.fail("checked again"))
    assert panel_file.read(path) == first
    for entry in (own_cache / "panels").iterdir():
        entry.write_text("{")
    monkeypatch.undo()
    monkeypatch.setenv(locate.CACHE_VARIABLE, str(own_cache))
    assert panel_file.read(path) == first  # a damaged entry is made again
    monkeypatch.setenv(locate.CACHE_VARIABLE, str(path))  # no folder: nothing can be kept
    assert panel_file.read(path) == first


def test_what_was_checked_is_read_without_yaml_and_pydantic(panel: Write, own_cache: Path) -> None:
    path = panel()
    panel_file.read(path)
    code = """
import sys
from pathlib import Path
from workloads import panel_file
panel_file.read(Path(sys.argv[1]))
print(sorted({"yaml", "pydantic"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", code, path], check=True, capture_output=True, text=True)
    assert ran.stdout == "[]\n"


def test_traces_follow_their_files_and_come_from_the_cache(
    tmp_path: Path, panel: Write, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = mooncake(tmp_path / "log.jsonl")
    path = str(panel(("synthetic:chat?seed=1", "mooncake:log.jsonl"), ("{requests: 200}\n  v", "{block: 4}\n  v")))
    first = load_panel("train", path)
    load_panel("validation", path)
    with monkeypatch.context() as patch:
        patch.setattr(Trace, "build", None)
        assert load_panel("train", path).fingerprint == first.fingerprint
        load_panel("validation", path)  # generated, and kept too
    mooncake(log, 50)
    assert load_panel("train", path).traces["a"].n_requests == 50
