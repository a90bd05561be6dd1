"""Configurations of the engine: whatever is wrong with one is told in one line, with the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import cli
from sim.engine_config import read_config
from sim.rundir import RunDir, resolve_config

ROOT = Path(__file__).resolve().parent.parent

BROKEN = [
    (b": : [", "c.yaml:1: not a readable YAML config: "),
    (b"a: 1\nb: [", "c.yaml:2: not a readable YAML config: "),
    (b"a: 1\n\tb: 2", "c.yaml:2: not a readable YAML config: "),
    (b"\xff\xfe\x00", "c.yaml: not a readable YAML config: "),
    (b"a: \x07", "c.yaml: not a readable YAML config: "),
    (b"[" * 5000, "c.yaml: not a readable YAML config: "),
    (b"- 1", "expected a mapping of OpenEvolve settings, got a list"),
    (b"text", "expected a mapping of OpenEvolve settings, got text"),
    (b"llm: [1]", "field 'llm': expected a mapping, got a list"),
    (b"kvevolve: 3", "field 'kvevolve': expected a mapping, got 3"),
    (b"kvevolve: {llm: x}", "field 'kvevolve.llm': expected a mapping, got text"),
    (b"kvevolve: {search: [1]}", "field 'kvevolve.search': expected a mapping, got a list"),
    (b"database: true", "field 'database': expected a mapping, got true or false"),
    (b"llm: {models: gpt}", "field 'llm.models': expected a list of mappings"),
    (b"llm: {models: [gpt]}", "field 'llm.models': expected a list of mappings"),
]


@pytest.mark.parametrize(("content", "told"), BROKEN)
def test_what_is_wrong_is_told_in_a_line(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="fix: ") as caught:
        read_config(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("verb", ["evolve", "ablate", "proxy"])
def test_verbs_refuse_it_before_any_work(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("llm: {}\nkvevolve: 3\n")
    output = ["--run-dir" if verb == "proxy" else "--output", str(tmp_path / "out")]
    assert cli.main([verb, "--config", str(path), *output]) == 1
    assert (
        capsys.readouterr().err
        == f"kvevolve: {path}: field 'kvevolve': expected a mapping, got 3; fix: see examples/\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_is_one(port: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = ["--upstream", "http://127.0.0.1:9/v1", "--run-dir", str(tmp_path)]
    assert cli.main(["proxy", *there, "--port", port]) == 1
    assert f"--port {port}: expected 0" in capsys.readouterr().err


def test_shipped_configurations_and_an_empty_one_are_read(tmp_path: Path) -> None:
    for path in (ROOT / "config.yaml", *(ROOT / "examples").glob("*.yaml")):
        assert read_config(path)["max_iterations"] > 0
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_config(tmp_path / "empty.yaml") == {}
    with pytest.raises(ValueError, match="No such file"):
        read_config(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("content", "iterations", "told"),
    [
        ("llm: {}", None, "'max_iterations': None; fix: a whole number from 1, there or as --iterations"),
        ("max_iterations: many", None, "'max_iterations': 'many'"),
        ("max_iterations: true", None, "'max_iterations': True"),
        ("max_iterations: 9", 0, "'max_iterations': 0"),
        ("max_iterations: 9", -3, "'max_iterations': -3"),
        ("{max_iterations: 9, checkpoint_interval: x}", 3, "'checkpoint_interval': 'x'; fix: a whole number from 1"),
    ],
)
def test_counts_are_numbers(tmp_path: Path, content: str, iterations: int | None, told: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(ValueError, match="field") as caught:
        resolve_config(tmp_path / "c.yaml", RunDir(tmp_path), iterations, None)
    assert told in str(caught.value)
