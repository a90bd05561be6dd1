"""Where tests find real traces, and where they keep derived files."""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from workloads import Trace, load, locate

SAME = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("same", SAME)
settings.register_profile("random", SAME, derandomize=False)
settings.load_profile("same")
"""Always the same examples, whatever the machine's speed; others with `make test ARGS=--hypothesis-profile=random`."""


def keep_apart() -> None:
    """Keep tests out of the user's own cache; an explicit KVEVOLVE_CACHE wins. Kept between runs, so it is warm."""
    os.environ.setdefault(locate.CACHE_VARIABLE, str(Path(__file__).parents[1] / ".pytest_cache" / "kvevolve"))


def pytest_configure(config: pytest.Config) -> None:
    keep_apart()


LONG = ("test_ray.py", "test_zoo.py", "test_gaming.py", "test_twin.py", "test_evaluator.py", "test_evolve.py")
"""Files that are begun first: a long one at the end would leave the other processes idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


def in_ci() -> bool:
    """Whether this is a CI run, where missing traces are a failure."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def missing(what: str) -> NoReturn:
    """Skip for lack of a real trace, or fail in CI."""
    reason = f"{what} not found: set ${locate.TRACES_VARIABLE} to the folder of the real traces"
    if in_ci():
        pytest.fail(reason)
    pytest.skip(reason)


def extra(module: str) -> ModuleType:
    """Import a module of an extra; skips (in CI, which installs all: fails) where it is not installed."""
    return importlib.import_module(module) if in_ci() else pytest.importorskip(module, reason="an extra of kvevolve")


GOLDEN = Path(os.environ.get("KVEVOLVE_GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))


@cache
def golden_arrays(name: str) -> dict[str, np.ndarray]:
    """Return the hits recorded from engines in a file, by key; skips (in CI: fails) if they are not at hand."""
    if not (GOLDEN / name).is_file():
        reason = f"{GOLDEN / name} not found: set $KVEVOLVE_GOLDEN"
        pytest.fail(reason) if in_ci() else pytest.skip(reason)
    with np.load(GOLDEN / name) as arrays:
        return {key: arrays[key].astype(np.int32) for key in arrays.files}


@pytest.fixture(scope="session")
def trace_path() -> Callable[[str], Path]:
    """Return the file of a known trace by short name; skips (in CI: fails) if it is not at hand."""

    def path(name: str) -> Path:
        return locate.find(name) or missing(name)

    return path


@pytest.fixture(scope="session")
def real_trace(trace_path: Callable[[str], Path]) -> Callable[[str], Trace]:
    """Load a known trace by short name plus options, once per session; skips (in CI: fails) if it is not at hand."""
    loaded: dict[str, Trace] = {}

    def get(spec: str) -> Trace:
        trace_path(spec.partition("?")[0])
        if spec not in loaded:
            loaded[spec] = load(spec)
        return loaded[spec]

    return get


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let the test's child processes end on SIGINT even if the tests run in the background, where it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test an empty user cache of its own."""
    monkeypatch.setenv(locate.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"
