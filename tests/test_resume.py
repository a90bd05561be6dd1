"""Going on after a kill: the population rebuilt program by program, the operator's memory, one process a run."""

from __future__ import annotations

import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sim import jsonlines, runlock
from sim.journal import FILE, Journal, Line
from sim.population import rebuild
from sim.rundir import RunDir, renew_config
from sim.search.genome import fingerprint
from sim.search.recall import recall
from sim.search.service import RECORD, Service
from sim.search.settings import Settings

DATABASE = {
    "num_islands": 3,
    "population_size": 25,
    "archive_size": 6,
    "migration_interval": 4,
    "feature_dimensions": ["nodes", "churn"],
    "feature_bins": 4,
}


def code(number: int) -> str:
    return f"def priority(block, cache):\n    return block.released + {number}.0\n"


class Engine:
    """Stores programs as OpenEvolve's controller does."""

    def __init__(self, run: RunDir, seed: int) -> None:
        from openevolve.config import DatabaseConfig
        from openevolve.database import Program, ProgramDatabase

        self.run, self.rng, self.program = run, random.Random(seed), Program
        self.database = ProgramDatabase(DatabaseConfig(**DATABASE, db_path=str(run.new_database()), random_seed=seed))
        self.journal, self.iteration = Journal(run.root), 0
        self.database.add(self._program("seed", 0, None))
        self.database.store_artifacts("seed-0", {"cells": code(0)})

    def _program(self, name: str, iteration: int, parent: Any) -> Any:
        metrics = {"combined_score": self.rng.random(), "nodes": self.rng.random(), "churn": self.rng.random()}
        self.evaluated(code(iteration), metrics)
        family = {"parent_id": parent.id, "generation": parent.generation + 1} if parent else {}
        metadata = {"island": parent.metadata["island"]} if parent else {}
        return self.program(
            f"{name}-{iteration}",
            code(iteration),
            metrics=metrics,
            iteration_found=iteration,
            metadata=metadata,
            **family,
        )

    def evaluated(self, source: str, metrics: dict[str, float]) -> None:
        self.journal.append(Line(source, "p", False, metrics, {"cells": source}, "panel"))

    def step(self) -> None:
        self.iteration += 1
        island = self.rng.randrange(3)
        parent, _ = self.database.sample_from_island(island)
        child = self._program("child", self.iteration, parent)
        self.database.add(child, iteration=self.iteration, target_island=island)
        if child.id in self.database.programs:
            self.database.store_artifacts(child.id, {"cells": child.code})
        self.database.increment_island_generation(island_idx=child.metadata["island"])
        if self.database.should_migrate():
            self.database.migrate_programs()

    def saved(self, path: Path) -> dict[str, Any]:
        self.database.save(str(path), self.iteration)
        return state(path)


def state(checkpoint: Path) -> dict[str, Any]:
    found = json.loads((checkpoint / "metadata.json").read_text())
    programs = {path.stem: json.loads(path.read_text()) for path in (checkpoint / "programs").glob("*.json")}
    islands = [sorted(island) for island in found["islands"]]
    seen = {
        name: (stats["min"], stats["max"]) for name, stats in found["feature_stats"].items()
    }  # sampling adds others
    archive = sorted(programs[name]["code"] for name in found["archive"])  # a migrant ties with its origin
    return {**found, "islands": islands, "archive": archive, "programs": programs, "feature_stats": seen}


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run")
    made.root.mkdir()
    made.config.write_text(yaml.safe_dump({"max_iterations": 60, "database": {**DATABASE, "db_path": "elsewhere"}}))
    return made


@pytest.mark.parametrize("seed", range(4))
def test_the_population_is_rebuilt_as_it_was_at_any_moment(run: RunDir, tmp_path: Path, seed: int) -> None:
    engine = Engine(run, seed)
    for step in range(60):
        engine.step()
        if step % 12 == 11:
            found = rebuild(run)
            assert found is not None
            assert (found.done, found.recovered) == (step + 1, 0)
            there, then = state(found.checkpoint), engine.saved(tmp_path / str(step))
            last = there.pop("last_migration_generation"), then.pop("last_migration_generation")
            assert there == then
            assert last[0] == last[1] or last[1] == max(then["island_generations"]), "not one that moved nobody"
    assert max(engine.database.island_generations) > DATABASE["migration_interval"], "nothing migrated"
    assert len(run.stored()) > len(engine.database.programs), "nothing was dropped"
    assert {text for text, _ in run.programs()} == {code(number) for number in range(61)}


def test_the_engine_goes_on_from_what_was_rebuilt(run: RunDir) -> None:
    from openevolve.config import load_config
    from openevolve.database import ProgramDatabase

    engine = Engine(run, 5)
    for _ in range(9):
        engine.step()
    found = rebuild(run)
    assert found is not None
    config = renew_config(run)
    assert Path(config["database"]["db_path"]).parent == run.databases
    assert not Path(config["database"]["db_path"]).exists()
    again = ProgramDatabase(load_config(str(run.config)).database)
    again.load(str(found.checkpoint))
    assert set(again.programs) == set(engine.database.programs)
    assert again.get_artifacts("child-9") == {"cells": code(9)}
    assert again.last_iteration == 9
    again.add(engine._program("child", 10, again.programs["child-9"]), iteration=10, target_island=1)
    assert rebuild(run).done == 10  # type: ignore[union-attr]


def test_what_a_kill_left_half_written_costs_nothing_that_was_evaluated(run: RunDir) -> None:
    engine = Engine(run, 6)
    while engine.iteration < 8 or not run.stored()[-1]["id"].startswith("child"):
        engine.step()
    last = engine.iteration
    torn = next(run.databases.glob("*/programs")) / f"child-{last}.json"
    torn.write_bytes(torn.read_bytes()[:100])
    engine.evaluated(code(last + 1), {"combined_score": 2.0, "nodes": 0.5, "churn": 0.5})
    jsonlines.append(run.root / RECORD, {"source": code(last + 1), "parent": fingerprint(code(7))})
    with (run.root / FILE).open("ab") as file:
        file.write(b'{"source": "half a li')
    run.rebuilt.mkdir()
    (run.rebuilt / "metadata.json").write_text("{")
    run.rebuilt.with_name("rebuilt.partial").mkdir()
    found = rebuild(run)
    assert found is not None
    assert (found.done, found.recovered) == (last + 1, 2)
    stored = {program["code"]: program for program in run.stored()}
    assert stored[code(last + 1)]["parent_id"] == "child-7"
    assert state(found.checkpoint)["best_program_id"] == stored[code(last + 1)]["id"]
    assert set(stored) == {code(number) for number in range(last + 2)}
    once_more = rebuild(run)
    assert once_more is not None
    assert (once_more.done, once_more.recovered) == (last + 1, 0)


def test_a_run_without_a_stored_program_starts_anew(run: RunDir) -> None:
    assert rebuild(run) is None
    run.new_database().joinpath("programs").mkdir(parents=True)
    assert rebuild(run) is None


def test_the_operator_remembers(tmp_path: Path) -> None:
    lines = [
        {"request": "aa", "child": "x", "tuned": ["m1"], "tuning": {"evaluations": 20, "passes": 11.5}},
        {"request": "aa", "tuned": ["m2"], "tuning": {"skipped": "no literals"}},
        {"request": "bb", "error": "NoChild"},
    ]
    for line in lines:
        jsonlines.append(tmp_path / RECORD, line)
    with (tmp_path / RECORD).open("a") as file:
        file.write('{"request": "cc", "tuning": {"eval')
    Journal(tmp_path).append(Line(code(1), "p", False, {"combined_score": 0.3}, {}, "panel"))
    Journal(tmp_path).append(Line("no program (", "p", False, {}, {}, "gate"))
    memory = recall(tmp_path, RECORD)
    assert (memory.calls, memory.spent, memory.tuned) == ({"aa": 2, "bb": 1}, 11.5, {"m1", "m2"})
    assert memory.programs == {code(1): 0.3, "no program (": -1.0}
    settings = Settings(tune_total=30, tune_fraction=0.0)
    resumed, fresh = Service(settings, tmp_path, resumed=True), Service(settings, tmp_path)
    assert (resumed.tuning.left, resumed.tuned) == (18.5, {"m1", "m2"})
    assert resumed.breeder.seen == {fingerprint(code(1))}
    assert resumed.breeder.memory.best().score == 0.3
    assert (fresh.tuning.left, fresh.tuned, fresh.breeder.seen) == (30, set(), set())


def test_what_a_service_did_is_what_the_next_one_remembers(tmp_path: Path) -> None:
    text = f"# Current Program\n```python\n# EVOLVE-BLOCK-START\n{code(1)}# EVOLVE-BLOCK-END\n```\n# Task\nRewrite.\n"
    body = {"messages": [{"role": "user", "content": text}]}
    service = Service(Settings(tune_fraction=0.0), tmp_path)
    for _ in range(3):
        service.complete(body)
    resumed = Service(Settings(tune_fraction=0.0), tmp_path, resumed=True)
    assert resumed.calls == service.calls
    uninterrupted = service.complete(body)["choices"]
    fresh = Service(Settings(tune_fraction=0.0)).complete(body)["choices"]
    assert resumed.complete(body)["choices"] != fresh
    assert uninterrupted != fresh


def test_one_process_at_a_time_works_on_a_run(tmp_path: Path) -> None:
    with runlock.held(tmp_path) as lock:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[lock])
        with pytest.raises(ValueError, match=f"by process {os.getpid()} or its engine"), runlock.held(tmp_path):
            pass
    with pytest.raises(ValueError, match="still being worked on"), runlock.held(tmp_path):
        pass  # the engine outlived its starter
    child.kill()
    child.wait()
    with runlock.held(tmp_path):
        pass
    with pytest.raises(ValueError, match="no such run"), runlock.held(tmp_path / "missing"):
        pass
