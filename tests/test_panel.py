"""Panels: splits, ladders, fingerprints, and the cache behind them."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from workloads import Panel, Trace, TraceError, describe, load_panel, locate, panel_cache, panel_file
from workloads.ladder import ladder
from workloads.panel import Setup, describe_known, make_panel
from workloads.readers import kvsess1

# SHA-256 over traces and cells, pinned: a change here is a new panel version, or a bug.
FINGERPRINTS: dict[tuple[str, str], str] = {
    ("real-v1", "train"): "0efaf6fd526a0fbb0d6aa136c59b17c5509f83326ee2ae054c7f6c443c83abe2",
    ("real-v1", "validation"): "f3d8d34357672cc8244a62a2097085d6056c255df6cd49144ef6371f7ce3fd79",
    ("real-v1", "test"): "3675a7195af17726c87f43b1d5aa75a3be7caef12bd1ab4edfa028346692aba3",
    ("mooncake-v1", "train"): "bc17ad9e9e4a82386b2abb9cb9bc42a92a81e4106ca85efbb1f44c334387e6be",
    ("mooncake-v1", "validation"): "7de4565f9003f62569dc2c07192ec32033e322650e7bb66f41ec7e1d17ceb4d6",
    ("mooncake-v1", "test"): "4192b798dc7ad9deda63a458c05f48c94a918e96b3f253c3c6a1e7f949cf874e",
    ("robust-v1", "train"): "a3b2b2cd2e467157571b5b053e6b6aa284d67f2e6c5cbc0655a46839dcafb9c2",
    ("robust-v1", "validation"): "fe02e39581cf13f44aabb65e00b2ea4e3c53173e20a0048357b452f8fabf003a",
    ("robust-v1", "test"): "887f64f8605aab6e3e031ddedc2749e78010682573d012e0612e15ec0b057499",
    ("synthetic-v1", "train"): "a458d6b9f7d9ed426e3c1d1f3f2bee772f6bbf43d21caca3fb7f2e9b757cee46",
    ("synthetic-v1", "validation"): "bc5230a816e251bacb45ae88bd916c00274e0559fac269ccfa24a5a9322647b5",
    ("synthetic-v1", "test"): "610fb902da0e2ddc3d9c94f6b8c97e347dd7b6864e90950d2c20670c5cc63d9f",
}
REAL = ("mooncake_conversation", "mooncake_synthetic", "cc_weka_v8")


def chain(n_blocks: int, longest: int, name: str = "t") -> Trace:
    """A trace with ``n_blocks`` distinct one-token blocks, one request of ``longest`` and the rest single."""
    sizes = [longest] + [1] * (n_blocks - longest)
    return Trace.build(
        name=name,
        block_tokens=1,
        offsets=np.cumsum([0, *sizes]),
        block_ids=np.arange(n_blocks),
        arrival_s=np.arange(len(sizes)),
        input_tokens=sizes,
        output_tokens=np.zeros(len(sizes), int),
    )


def sources(which: str) -> set[str]:
    """The known traces a panel is made from."""
    splits = panel_file.find(which).splits.values()
    return {entry.source for entries in splits for entry in entries} & set(locate.KNOWN_TRACES)


@pytest.fixture
def need_real(trace_path: Callable[[str], Path]) -> None:
    """Skip (in CI: fail) without all sources of real-v1."""
    for source in sources("real-v1"):
        trace_path(source)


LADDER = ("1%", "2%", "5%", "10%", "20%")


def test_ladder_by_hand() -> None:
    # 1,000 blocks: 1 % = 10, 2 % = 20, 5 % = 50, 10 % = 100, 20 % = 200; longest request 5 blocks
    cells, notes = ladder("t", chain(1_000, 5), LADDER)
    assert [(cell.capacity_blocks, cell.raised) for cell in cells] == [(n, False) for n in (10, 20, 50, 100, 200)]
    assert [cell.fraction for cell in cells] == [0.01, 0.02, 0.05, 0.1, 0.2]
    assert notes == []
    # longest request 30: 1 % and 2 % are both raised to 30, only one stays
    cells, notes = ladder("t", chain(1_000, 30), LADDER)
    assert [(c.fraction, c.capacity_blocks, c.raised) for c in cells] == [
        (0.02, 30, True),
        (0.05, 50, False),
        (0.10, 100, False),
        (0.20, 200, False),
    ]
    assert notes == ["t: 1% dropped, with 30 blocks (the longest prompt needs 30) it equals 2%"]
    # longest request 20: 1 % is raised onto the 2 % rung, which is not raised
    cells, _ = ladder("t", chain(1_000, 20), LADDER)
    assert (cells[0].fraction, cells[0].capacity_blocks, cells[0].raised) == (0.02, 20, False)
    # floor(0.01 * 99) = 0, at least one block
    cells, _ = ladder("t", chain(99, 1), ("1%",))
    assert cells[0].capacity_blocks == 1


def test_ladder_in_blocks_and_memory() -> None:
    # blocks of one token at 1,024 bytes each: 0.5 MiB holds 512; from the smallest up, whatever the order
    cells, notes = ladder("t", chain(1_000, 5), ("0.5MiB", 700, "10%", 100, "2MiB", "0.5%"), 1024)
    assert [(cell.label, cell.capacity_blocks) for cell in cells] == [
        ("0.5%", 5), ("100", 100), ("0.5MiB", 512), ("700", 700), ("2MiB", 2048),
    ]  # fmt: skip
    assert [cell.fraction for cell in cells] == [0.005, 0.1, 0.512, 0.7, 2.048]
    assert notes == [
        "t: 10% dropped, with 100 blocks (the longest prompt needs 5) it equals 100",
        "t: 2MiB holds all of its 1,000 blocks: no policy can differ",
    ]
    for bad in ("0%", "101%", "nan%", "x", 0, -5, "5.5", "-1%", "1 GB "):
        with pytest.raises(TraceError, match=r"capacity"):
            ladder("t", chain(10, 1), (bad,))
    with pytest.raises(TraceError, match="no capacities"):
        ladder("t", chain(10, 1), ())
    with pytest.raises(TraceError, match="no request has a full block"):
        ladder("t", Trace.build(
            name="t", block_tokens=16, offsets=[0, 0], block_ids=[], arrival_s=[0], input_tokens=[3], output_tokens=[1]
        ), LADDER)  # fmt: skip


def test_fingerprint_covers_all_that_changes_results() -> None:
    one, two = chain(100, 3), chain(100, 4)
    base = make_panel("p", "train", {"a": one})
    others = [
        make_panel("q", "train", {"a": one}),
        make_panel("p", "validation", {"a": one}),
        make_panel("p", "train", {"b": one}),
        make_panel("p", "train", {"a": two}),
        make_panel("p", "train", {"a": one}, Setup(("10%",))),
        make_panel("p", "train", {"a": one}, Setup(warmup=1)),
        make_panel("p", "train", {"a": one}, Setup(warmup="50%")),
        make_panel("p", "train", {"a": one}, Setup(weight=2.0)),
    ]
    assert len({base.fingerprint, *(panel.fingerprint for panel in others)}) == 9
    assert make_panel("p", "train", {"a": one}, Setup(warmup="0%")).fingerprint == base.fingerprint
    assert base.n_refs == 100 * 4  # 1 % and 2 % are both raised to 3 blocks, four cells are left
    assert "1% dropped" in describe(base)
    assert "\n" not in repr(base)
    with pytest.raises(TraceError, match="trace 'a': warmup 98"):
        make_panel("p", "train", {"a": one}, Setup(warmup=98))


def test_what_is_generated_is_said() -> None:
    traces = {"a": chain(100, 3), "b": chain(100, 4)}
    setups = {"a": Setup(warmup=5), "b": Setup(weight=2.0)}
    for generated, real, said in (
        (set(), True, " recorded traffic"),
        ({"a"}, True, "recorded and SYNTHETIC"),
        ({"a", "b"}, False, ": SYNTHETIC"),
    ):
        panel = make_panel("p", "train", traces, setups, frozenset(generated))
        assert panel.real == real
        assert said in describe(panel)
    assert "a: the first 5 requests warm up and are not counted" in describe(panel)
    assert "b: weight 2" in describe(panel)


def test_the_test_split_needs_a_purpose() -> None:
    for purpose in (None, "evolve"):
        with pytest.raises(ValueError, match="evolution and tuning must not see it"):
            load_panel("test", "synthetic", purpose=purpose)
    with pytest.raises(TraceError, match="did you mean 'train'"):
        load_panel("trian")
    with pytest.raises(TraceError, match="did you mean 'real'"):
        load_panel("train", "rael")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_synthetic_panel(split: str) -> None:
    panel = load_panel(split, "synthetic", purpose="report")
    assert (panel.name, panel.which, panel.split, panel.real) == ("synthetic-v1", "synthetic-v1", split, False)
    if np.__version__.startswith("2.4."):  # numpy may change its random streams between feature releases
        assert panel.fingerprint == FINGERPRINTS["synthetic-v1", split]
    assert 3_000_000 <= panel.n_refs <= 4_000_000
    check_cells(panel)


def test_synthetic_splits_share_no_trace() -> None:
    seen = [
        trace.fingerprint
        for split in ("train", "validation", "test")
        for trace in load_panel(split, "synthetic", purpose="report").traces.values()
    ]
    assert len(set(seen)) == len(seen)


@pytest.mark.usefixtures("need_real")
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_real_panel(split: str) -> None:
    panel = load_panel(split, "real", purpose="report")
    assert (panel.name, panel.split, panel.real) == ("real-v1", split, True)
    assert panel.fingerprint == FINGERPRINTS["real-v1", split]
    check_cells(panel)
    assert load_panel(split, purpose="report").fingerprint == panel.fingerprint  # auto takes the real one
    assert load_panel(split, "mooncake", purpose="report").fingerprint == FINGERPRINTS["mooncake-v1", split]


@pytest.mark.usefixtures("need_real")
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_robust_panel(split: str) -> None:
    panel = load_panel(split, "robust", purpose="report")
    if np.__version__.startswith("2.4."):
        assert panel.fingerprint == FINGERPRINTS["robust-v1", split]
    assert panel.traces.keys() > load_panel(split, "mooncake", purpose="report").traces.keys()
    check_cells(panel)


def check_cells(panel: Panel) -> None:
    """Every cell can run, none counts twice, and every trace has several."""
    assert len({(cell.trace_name, cell.capacity_blocks) for cell in panel.cells}) == len(panel.cells)
    for name, trace in panel.traces.items():
        cells = [cell for cell in panel.cells if cell.trace_name == name]
        assert len(cells) >= 4
        for cell in cells:
            assert cell.capacity_blocks >= trace.occupied_blocks.max()
            assert cell.raised or cell.capacity_blocks == max(1, int(cell.fraction * trace.n_blocks + 1e-9))


@pytest.mark.usefixtures("need_real")
def test_real_splits_partition_their_sources(
    real_trace: Callable[[str], Trace], trace_path: Callable[[str], Path]
) -> None:
    panels = {split: load_panel(split, "real", purpose="report") for split in ("train", "validation", "test")}
    parts = [panels[split].traces[f"mooncake_conversation_{split}"] for split in panels]
    whole = real_trace("mooncake_conversation")
    assert [part.n_requests for part in parts] == [4_401, 2_447, 5_183]
    assert np.array_equal(np.concatenate([part.arrival_s for part in parts]), whole.arrival_s)
    assert np.array_equal(np.concatenate([part.input_tokens for part in parts]), whole.input_tokens)
    cuts = [whole.span_s * 0.4, whole.span_s * 0.6]
    assert parts[0].arrival_s[-1] < cuts[0] <= parts[1].arrival_s[0]
    assert parts[1].arrival_s[-1] < cuts[1] <= parts[2].arrival_s[0]

    sessions = kvsess1.read(trace_path("cc_weka_v8"))
    weka = {split: panels[split].traces[f"cc_weka_v8_{split}"] for split in panels}
    assert sum(trace.n_requests for trace in weka.values()) == sessions.n_requests
    assert sum(trace.prompt_tokens for trace in weka.values()) == int(sessions.input_tokens.sum(dtype=np.int64))
    windows = {}
    for split, trace in weka.items():
        stated = trace.provenance["panel"]
        assert isinstance(stated, dict)
        windows[split] = stated["options"]["window_s"]
    assert windows == {"train": 7_200, "validation": 2_880, "test": 4_320}


@pytest.mark.usefixtures("need_real")
def test_a_warm_train_panel_touches_only_train_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_panel("train", "real")
    # a folder with the train sources alone, and a cache with the train entries alone, are enough
    for name in REAL:
        found = locate.require(name)
        (tmp_path / "traces" / name).mkdir(parents=True)
        shutil.copy(found, tmp_path / "traces" / name / found.name)
    (tmp_path / "cache" / "derived").mkdir(parents=True)
    for entry in (locate.user_cache_dir() / "derived").glob("*.npz"):
        if "_train-" in entry.name or entry.name.startswith("mooncake_synthetic-"):
            shutil.copy(entry, tmp_path / "cache" / "derived" / entry.name)
    monkeypatch.setenv(locate.TRACES_VARIABLE, str(tmp_path / "traces"))
    monkeypatch.setenv(locate.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(Trace, "build", None)  # nothing is made again
    assert load_panel("train", "real").fingerprint == FINGERPRINTS["real-v1", "train"]


def test_without_traces_the_panel_is_synthetic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locate.TRACES_VARIABLE, str(tmp_path))
    assert load_panel("train").name == "synthetic-v1"
    with pytest.raises(TraceError, match="not found"):
        load_panel("train", "real")
    monkeypatch.setenv(locate.TRACES_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(TraceError, match="not a folder"):
        load_panel("train")


def test_fetched_mooncake_files_alone_make_a_real_panel(
    tmp_path: Path, own_cache: Path, trace_path: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mooncake_conversation", "mooncake_synthetic"):
        folder = own_cache / "traces" / name
        folder.mkdir(parents=True)
        shutil.copy(trace_path(name), folder)
    monkeypatch.setenv(locate.TRACES_VARIABLE, str(own_cache / "traces"))
    panel = load_panel("train")
    assert (panel.name, panel.real) == ("mooncake-v1", True)
    assert panel.fingerprint == FINGERPRINTS["mooncake-v1", "train"]


def test_cache_rebuilds_what_is_damaged_and_follows_source_recipe_and_code(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"one")
    made: list[int] = []

    def make() -> Trace:
        made.append(1)
        return chain(10, 2)

    def get(recipe: int = 1) -> Trace:
        return panel_cache.cached("t", [source], {"recipe": recipe}, make)

    assert get().fingerprint == get().fingerprint
    assert len(made) == 1
    entry = panel_cache.entry_path("t", [source], {"recipe": 1})
    entry.write_bytes(entry.read_bytes()[:100])
    with pytest.warns(UserWarning, match="made again"):
        get()
    assert len(made) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        get()  # whole again
        assert len(made) == 2
        get(2)
        source.write_bytes(b"two")
        get()
        monkeypatch.setattr(panel_cache, "code_version", lambda: "newer")
        get()
    assert len(made) == 5
    assert not list(own_cache.rglob("*.tmp"))


def test_an_unwritable_cache_is_only_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(locate.CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot be cached"):
        assert panel_cache.cached("t", [tmp_path / "file"], {}, lambda: chain(10, 2)).n_blocks == 10


def test_known_panels_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(locate.TRACES_VARIABLE, str(tmp_path))
    text = describe_known()
    assert "mooncake-v1      missing mooncake_conversation, mooncake_synthetic;" in text
    assert "synthetic-v1     all traces at hand;" in text


@pytest.mark.parametrize("path", sorted(panel_file.SHIPPED.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_files_say_what_they_should(path: Path) -> None:
    assert panel_file.read(path).which == path.stem
    content = yaml.safe_load(path.read_text())
    assert list(content["splits"]) == ["train", "validation", "test"]
    assert content["about"]
