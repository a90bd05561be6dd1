"""`kvevolve trace ACTION`: what is written, printed and refused; progress, and what an interrupt leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import extra

from sim import meter
from sim.cli import main
from sim.cli.trace import fetch as fetch_action
from workloads import fetch, load, progress

CHAT = "synthetic:chat?seed=1&requests=200"
ROOT = Path(__file__).parent.parent


def run(*arguments: object) -> int:
    return main(["trace", *map(str, arguments)])


def test_info_prints_the_table_and_json(capsys):
    assert run("info", CHAT, "--capacities", "1%,40,0.5GB", "--model", "llama-3.1-8b") == 0
    text = capsys.readouterr().out
    assert "infinite cache hit %" in text
    assert "none (synthetic)" in text
    assert run("info", CHAT, "--capacities", "1%,40,0.5GB", "--model", "131072", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["capacity"] for row in found["hits"]] == ["1%", "40", "0.5GB"]
    assert found["hits"][2]["blocks"] == int(0.5e9 / (131072 * found["block_tokens"]))
    assert all(row["lru_percent"] <= row["optimum_percent"] for row in found["hits"])
    assert found["manifest"]["fingerprint"] == found["fingerprint"]
    assert run("info", CHAT, "--capacities", "0") == 1
    assert run("info", CHAT, "--model", "llama-9") == 1
    assert "unknown model" in capsys.readouterr().err


def test_info_draws(tmp_path, capsys):
    extra("matplotlib")
    assert run("info", CHAT, "--capacities", "5%", "--figures", tmp_path, "--figure-format", "svg") == 0
    names = {"lengths", "arrivals", "popularity", "working_set", "hit_curves", "reuse"}
    assert {path.stem for path in tmp_path.iterdir()} == names
    assert all(b"<svg" in path.read_bytes() for path in tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert run("info", CHAT, "--figures", tmp_path / "file") == 1
    assert "file" in capsys.readouterr().err


def test_actions_write_what_the_library_makes(tmp_path, capsys):
    trace = load(CHAT)
    out = tmp_path / "t.npz"

    def made(action: str, *options: object) -> object:
        assert run(action, CHAT, out, *options) == 0
        assert repr(load(str(out))) in capsys.readouterr().err
        return load(str(out))

    assert made("convert", "--block-tokens", 64).block_tokens == 64
    dropped = made("convert", "--drop", "session", "--drop", "turn", "--name", "other", "--licence", "MIT")
    assert (dropped.session, dropped.turn, dropped.name) == (None, None, "other")
    assert dropped.provenance["origin"]["licence"] == "MIT"
    assert made("sample", "--share", "20%", "--seed", 3).fingerprint == trace.sample(0.2, 3).fingerprint
    assert made("sample", "--share", "0.5", "--spatial").n_requests < 200
    assert made("slice", "--requests", "10:20").fingerprint == trace.slice(10, 20).fingerprint
    assert made("slice", "--requests", ":20").n_requests == 20
    parts = [made("slice", "--fraction", part).n_requests for part in (":30%", "0.3:0.6", "60%:")]
    assert sum(parts) == 200
    assert made("slice", "--from-s", 100, "--to-s", 200).span_s < 100
    assert sum(made("slice", "--session-hash", part).n_requests for part in ("0:0.5", "0.5:1")) == 200
    assert made("scale", "--time", 0.5).span_s == pytest.approx(trace.span_s / 2)
    assert made("scale", "--copies", 3, "--share", "none").n_blocks == 3 * trace.n_blocks
    assert made("scale", "--keep", 0.5, "--time", 2, "--keep-gaps").n_requests < 200


def test_merge_lays_traces_on_one_clock(tmp_path):
    out = tmp_path / "m.npz"
    assert run("merge", CHAT, CHAT, "-o", out, "--starts-s", "0,5", "--name", "two") == 0
    both = load(str(out))
    assert (both.name, both.n_requests, both.n_blocks) == ("two", 400, 2 * load(CHAT).n_blocks)
    assert run("merge", CHAT, CHAT, "-o", out, "--gap-s", "10") == 0
    assert load(str(out)).span_s == pytest.approx(2 * load(CHAT).span_s + 10)
    assert run("merge", CHAT, CHAT, "-o", out, "--together") == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("convert", CHAT, "t.xyz"), "names no format that can be written"),
        (("convert", CHAT, "t.npz", "--to", "parket"), "did you mean 'parquet'"),
        (("convert", CHAT, "t.npz", "--block-tokens", "24"), "expected a multiple of 16"),
        (("convert", CHAT, "folder/"), "names no format"),
        (("slice", CHAT, "t.npz"), "give --requests"),
        (("slice", CHAT, "t.npz", "--requests", "5"), "give a range A:B"),
        (("slice", CHAT, "t.npz", "--requests", "0:50%"), "give whole numbers"),
        (("slice", CHAT, "t.npz", "--requests", "0:201"), "expected 0 <= start"),
        (("slice", CHAT, "t.npz", "--fraction", "a:b"), "give a range A:B"),
        (("scale", CHAT, "t.npz"), "give --keep, --copies or --time"),
        (("scale", CHAT, "t.npz", "--copies", "0"), "copies 0"),
        (("sample", CHAT, "t.npz", "--share", "0"), "expected 0 < fraction"),
        (("merge", CHAT, "-o", "t.npz", "--starts-s", "x"), "give seconds"),
        (("merge", CHAT, "synthetic:chat?seed=1&requests=9&block_tokens=32", "-o", "t.npz"), "expected one size"),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_is_written(arguments, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 1
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_name_without_a_suffix_takes_a_format(tmp_path):
    assert run("convert", CHAT, tmp_path / "trace", "--to", "kvt1") == 0
    assert load(str(tmp_path / "trace")).n_requests == 200


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_partial_file(tmp_path, sent):
    code = (
        "import os, sys, time\nfrom sim.cli import main\n"
        "def slow(value):\n    print('writing', flush=True)\n    time.sleep(60)\n"
        "import workloads.writers.mooncake as m\nm.milliseconds = slow\n"
        f"sys.exit(main(['trace', 'convert', {CHAT!r}, {str(tmp_path / 't.jsonl.gz')!r}]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout.readline() == b"writing\n"
    os.kill(child.pid, sent)
    _, said = child.communicate(timeout=120)
    assert (child.returncode, said) == (130, b"interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_what_fetch_offers_is_what_there_is(capsys, monkeypatch, tmp_path):
    assert set(fetch_action.COLLECTIONS) == set(fetch.COLLECTIONS)
    for collection in fetch.COLLECTIONS.values():
        assert collection.licence
        assert collection.citation
        assert all(len(file.sha256) == 64 for file in collection.files)
        paths = [(file.trace, Path(file.path).name) for file in collection.files]
        assert len(set(paths)) == len(paths)
    monkeypatch.setattr(fetch, "fetch", lambda name, progress, only: [tmp_path / name])
    assert run("fetch", "bailian", "--only", "bailian_a") == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path}/bailian\n"
    assert "licence: Apache-2.0" in told.err


def told(terminal: bool, steps: list[tuple[float, str, float, float | None]], capsys, monkeypatch) -> str:
    """Return what a bar says of (time, what, done, total)."""
    now = [0.0]
    bar = meter.Bar(lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with progress.listening(bar.tell):
        for time_s, what, done, total in steps:
            now[0] = time_s
            progress.tell(what, done, total)
        bar.close()
    return capsys.readouterr().err


def test_short_work_is_not_reported(capsys, monkeypatch):
    steps = [(0.5 * i, "reading, MB", i, 10.0) for i in range(4)]
    assert told(True, steps, capsys, monkeypatch) == ""
    assert told(False, steps, capsys, monkeypatch) == ""


def test_long_work_has_a_bar_on_a_terminal_and_lines_in_a_log(capsys, monkeypatch):
    steps = [(float(i), "reading, MB", float(i), 24.0) for i in range(25)]
    said = told(True, steps, capsys, monkeypatch)
    assert "reading, MB [############............]  50%, 12 of 24, 12 s left" in said
    assert "\n" not in said
    assert said.endswith("\r\x1b[K")
    lines = told(False, steps, capsys, monkeypatch).splitlines()
    assert [line.split(",")[1].split()[-1] for line in lines] == ["42%", "83%"]
    assert "counting: 11" in told(False, [(11.0, "counting", 11, None)], capsys, monkeypatch)


def test_forked_processes_are_silent(capfd, monkeypatch):
    bar = meter.Bar(lambda: 0.0)
    bar._began_s = bar._told_s = -100.0
    bar.tell("here", 1, 2)
    monkeypatch.setattr(os, "getpid", lambda: 0)
    bar.tell("elsewhere", 1, 2)
    assert "here" in (said := capfd.readouterr().err)
    assert "elsewhere" not in said


def test_verbs_that_load_traces_report(capsys, monkeypatch):
    now = iter(range(0, 10**6, 20))
    monkeypatch.setattr(meter.Bar.__init__, "__defaults__", (lambda: float(next(now)),))
    assert run("info", CHAT, "--json") == 0
    assert "offline optimum, cache sizes" in capsys.readouterr().err
