"""What stderr is told of long work: seldom in a log, always at the end."""

from __future__ import annotations

import sys

import pytest

from sim.meter import LOG_S, TERMINAL_S, Meter


def told(terminal: bool, step_s: float, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    now = [0.0]
    meter = Meter(lambda: now[0])
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    for done in range(1, 5):
        now[0] += step_s
        meter.count(done, 4)
    return capsys.readouterr().err


def test_a_log_gets_a_line_per_interval_and_the_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(False, LOG_S / 2, capsys, monkeypatch) == "2 of 4\n4 of 4\n"
    assert told(False, 0.0, capsys, monkeypatch) == "4 of 4\n"


def test_a_terminal_has_its_line_written_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = told(True, TERMINAL_S, capsys, monkeypatch)
    assert [line.strip() for line in said.split("\r")] == ["", "1 of 4", "2 of 4", "3 of 4", "4 of 4"]
    assert said.count("\n") == 1
