"""`kvevolve trace generate`: files, overrides, listings, refusals, and interrupts that leave nothing behind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from conftest import extra

from sim.cli import main
from workloads import Trace, load
from workloads.synthetic import GENERATORS, PRESETS

SPEC = """\
format: kvevolve-workload
version: 1
name: small
requests: 120
sources: [{family: chat}, {family: rag}]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """Return the file of a small specification."""
    path = tmp_path / "small.yaml"
    path.write_text(SPEC)
    return path


def run(*arguments: object) -> int:
    """Run the verb; return the exit code."""
    return main(["trace", "generate", *map(str, arguments)])


def test_files_hold_what_load_gives(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "t.npz"
    assert run(spec, "-o", target) == 0
    assert Trace.load(target).fingerprint == load(str(spec)).fingerprint
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "small-seed0" in captured.err
    assert run(spec, "-o", target, "--seed", 7, "--requests", 50, "--block-tokens", 64) == 0
    assert Trace.load(target).fingerprint == load(f"{spec}?seed=7&requests=50&block_tokens=64").fingerprint
    extra("pyarrow")
    assert run(spec, "-o", tmp_path / "t.parquet", "--requests", 50) == 0
    assert load(str(tmp_path / "t.parquet")).fingerprint == load(f"{spec}?requests=50").fingerprint


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a specification and -o FILE, or --list"),
        (["SPEC"], "give a specification and -o FILE, or --list"),
        (["SPEC", "-o", "t.txt"], "its suffix names no format that can be written"),
        (["SPEC", "-o", "t.npz", "--requests", "0"], "small: field 'requests': expected a number >= 1, got 0"),
        (["none.yaml", "-o", "t.npz"], "none.yaml: No such file"),
        (["none", "-o", "t.npz"], "unknown shipped specification 'none'"),
        (["BAD", "-o", "t.npz"], "3 things are wrong"),
        (["--list", "chatt"], "did you mean 'chat'"),
    ],
)
def test_refusals(
    spec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(SPEC.replace("chat", "chap").replace("120", "0").replace("version: 1", "version: 3"))
    assert run(*({"SPEC": str(spec), "BAD": "bad.yaml"}.get(one, one) for one in arguments)) == 1
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.yaml", "small.yaml"]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--list") == 0
    listed = capsys.readouterr().out
    for name in GENERATORS:
        assert f"  {name}(" in listed
    assert "scan_length=60" in listed
    for name, preset in PRESETS.items():
        assert f"  {name:<36} {preset.family}\n" in listed
    assert "shipped specifications:" in listed
    assert run("--list", "chat") == 0
    assert "Median think time in seconds." in capsys.readouterr().out
    assert run("--list", "cyclic_working_set_pressure_shifted") == 0
    assert "stride=5" in capsys.readouterr().out


def test_an_interrupt_leaves_nothing(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any, **__: Any) -> NoReturn:
        raise KeyboardInterrupt

    target = tmp_path / "t.npz"
    with monkeypatch.context() as while_making:
        while_making.setattr("workloads.synthetic.prompts.RequestLog.trace", interrupted)
        while_making.setattr("workloads.spec.check._own_word", lambda *_: iter(()))
        assert run(spec, "-o", target) == 130
    with monkeypatch.context() as while_writing:
        while_writing.setattr(np, "savez", interrupted)
        assert run(spec, "-o", target) == 130
        target.write_bytes(b"old")
        assert run(spec, "-o", target) == 130
    assert capsys.readouterr().err.splitlines() == ["interrupted"] * 3
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.yaml", "t.npz"]


def test_progress_goes_to_stderr(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sim.meter.LOG_S", 0.0)
    monkeypatch.setattr("sim.meter.QUIET_S", 0.0)
    assert run(spec, "-o", tmp_path / "t.npz") == 0
    said = capsys.readouterr().err
    assert re.search(r"making sources \[#+\.+\] +50%, 1 of 2", said)
