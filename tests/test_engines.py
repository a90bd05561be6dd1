"""The list of engines: what each claims about its origin, and that the claims are printed."""

from __future__ import annotations

import pytest

from sim import engines
from sim.cli import main

MEASURED = {"vllm>=0.23", "vllm<=0.22", "sglang", "lmcache", "vllm-cpu-tier", "flat"}
FROM_SOURCE = {"kvbm", "tensorrt-llm", "mooncake-store"}


def test_what_was_compared_with_the_engine_and_what_was_not():
    assert {engine.name for engine in engines.all_engines() if engine.measured} == MEASURED
    assert {engine.name for engine in engines.all_engines() if not engine.measured} == FROM_SOURCE


def test_the_command_says_it(capsys):
    assert main(["engines"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == set(engines.names())
    for name, line in lines.items():
        assert ("from source, not measured" in line) == (name in FROM_SOURCE)
        assert ("equal to the engine" in line) == (name in MEASURED)


@pytest.mark.parametrize("name", sorted(FROM_SOURCE))
def test_parameters_are_given_by_name_or_in_the_spec(name):
    parameter, text, value = {
        "kvbm": ("tail_first", "false", False),
        "tensorrt-llm": ("duration_s", "2.5", 2.5),
        "mooncake-store": ("eviction_high_watermark_ratio", "0.5", 0.5),
    }[name]
    assert engines.find(f"{name}?{parameter}={text}")[1] == engines.find(name, {parameter: value})[1]
    with pytest.raises(engines.UnknownParameter, match=parameter):
        engines.find(f"{name}?nothing=1")
