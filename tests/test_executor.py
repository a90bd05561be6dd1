"""Executors: equal results, workers that die, errors as themselves, and nothing left behind."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import executor_jobs as jobs_module
import pytest
from executor_jobs import REPLAYS, TRACES
from small_traces import hand_trace

from sim import compare, evaluate_many
from sim.cli import main
from sim.evaluation import Evaluator
from sim.executor import RETRIES, WorkerLost, run
from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from workloads import Trace, TraceError

HERE = Path(__file__).parent
BOTH = pytest.mark.parametrize("executor", ["serial", "process"])


def as_json(results: list) -> list[str]:
    return [json.dumps(result.to_dict(per_request=True)) for result in results]


def test_processes_give_the_results_of_a_serial_run_byte_for_byte() -> None:
    serial, parallel = (run(jobs_module.replay, TRACES, REPLAYS, name, 2) for name in ("serial", "process"))
    assert as_json(serial) == as_json(parallel)
    assert [pickle.dumps(result) for result in serial] == [pickle.dumps(result) for result in parallel]
    assert len({result.hit_tokens for result in serial}) > 2


def test_a_worker_gets_each_trace_once_and_its_arrays_uncopied() -> None:
    seen = run(jobs_module.look, TRACES, [("chat", i) for i in range(12)], "process", 2)
    pids = {pid for pid, *_ in seen}
    assert os.getpid() not in pids
    assert len({(pid, identity) for pid, identity, *_ in seen}) == len(pids) <= 2
    assert not any(owned or writeable for *_, owned, writeable in seen)


@BOTH
def test_progress_rises_by_one_up_to_the_number_of_jobs(executor: str) -> None:
    told: list[tuple[int, int]] = []
    run(jobs_module.look, TRACES, [("hand", i) for i in range(5)], executor, 2, lambda *counts: told.append(counts))
    assert told == [(i + 1, 5) for i in range(5)]


def test_a_job_whose_worker_was_killed_is_run_again(tmp_path: Path) -> None:
    marks = {3: str(tmp_path / "three"), 4: str(tmp_path / "four")}
    jobs = [("hand", (marks.get(i, ""), i)) for i in range(7)]
    told: list[int] = []
    found = run(jobs_module.die, TRACES, jobs, "process", 2, lambda done, _: told.append(done))
    assert found == [i + 5 for i in range(7)]
    assert told == list(range(1, 8))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_job_that_always_kills_its_worker_is_named_and_its_neighbour_is_not_blamed() -> None:
    jobs = [("hand", ("", 0)), ("hand", ("always", 1)), ("hand", ("", 2)), ("hand", ("", 3))]
    with pytest.raises(WorkerLost, match=f"died {RETRIES + 1} times") as caught:
        run(jobs_module.die, TRACES, jobs, "process", 2)
    assert caught.value.__notes__ == ["in job 1 ('hand', ('always', 1))"]


@BOTH
def test_the_error_is_that_of_the_first_job_that_fails_whichever_ends_first(executor: str) -> None:
    jobs = [("hand", ("fine", 0.0)), ("hand", ("policy", 0.6)), ("hand", ("trace", 0.0)), ("hand", ("fine", 0.0))]
    with pytest.raises(PolicyRejected, match="imports are not allowed") as caught:
        run(jobs_module.fail, TRACES, jobs, executor, 2)
    assert caught.value.name == "careless"
    assert caught.value.findings[0].line == 1
    assert caught.value.__notes__ == ["in job 1 ('hand', ('policy', 0.6))"]


def test_what_an_error_carries_survives_the_way_home() -> None:
    with pytest.raises(TraceError, match="no good") as caught:
        run(jobs_module.fail, TRACES, [("hand", ("trace", 0.0))], "process")
    assert (caught.value.request, caught.value.field) == (3, "arrival_s")
    assert "executor_jobs.py" in str(caught.value.__cause__)


def test_an_error_that_cannot_be_rebuilt_is_told_in_words_and_costs_no_worker() -> None:
    with pytest.raises(RuntimeError, match="Picky: trouble in paradise") as caught:
        run(jobs_module.fail, TRACES, [("hand", ("picky", 0.0))], "process")
    assert not isinstance(caught.value, WorkerLost)


def test_workers_see_the_environment_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("one", "two"):  # the fork server runs from the first on
        monkeypatch.setenv("KVEVOLVE_TEST_VARIABLE", value)
        assert run(jobs_module.variable, TRACES, [("hand", "KVEVOLVE_TEST_VARIABLE")], "process") == [value]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"executor": "threads"}, "unknown executor 'threads'; choose one of serial, process, ray"),
        ({"workers": 0}, "workers=0"),
        ({"jobs": [("hand", 1), ("chta", 2)]}, r"job 1 \('chta', 2\): there is no such trace; known: chat, hand"),
        ({"call": lambda trace, job: 1}, "expected a function of a module"),
    ],
)
def test_mistakes_are_named(change: dict, said: str) -> None:
    good = {"call": jobs_module.look, "traces": TRACES, "jobs": [("hand", 1)], "executor": "process"}
    with pytest.raises(ValueError, match=said):
        run(**(good | change))


@pytest.mark.parametrize("executor", ["serial", "process", "ray"])
def test_no_jobs_need_no_workers(executor: str) -> None:
    assert run(jobs_module.look, TRACES, [], executor) == []


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"kvevolve\[ray\]"):
        run(jobs_module.look, TRACES, [("hand", 1)], "ray")
    assert main(["score", "initial_program.py", "--traces", "synthetic", "--executor", "ray"]) == 1
    assert "kvevolve[ray]" in capsys.readouterr().err


def test_a_full_disk_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    import sim.processes

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sim.processes._Inputs, "store", full)
    with pytest.raises(OSError, match="No space left") as caught:
        run(jobs_module.look, TRACES, [("hand", 1)], "process")
    assert "$TMPDIR" in caught.value.__notes__[0]


UNGUARDED = """
import sys
import tempfile
sys.path[:0] = [{root!r}, {here!r}]
import executor_jobs
from small_traces import hand_trace
from sim.executor import run
run(executor_jobs.look, {{"t": hand_trace([[0], [0]], [10, 10])}}, [("t", 0)] * 4, "process", 2)
"""


def test_a_script_that_cannot_be_imported_is_told_so_and_not_that_its_jobs_kill(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(UNGUARDED.format(root=str(HERE.parent), here=str(HERE)))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "under: if __name__ == '__main__':" in done.stderr
    assert "WorkerLost" not in done.stderr


# ---- leaving ---------------------------------------------------------------------------------------------------------

LINGERING = """
import sys
import tempfile
sys.path[:0] = [{root!r}, {here!r}]
import executor_jobs
from small_traces import hand_trace
from sim.executor import run
if __name__ == "__main__":
    trace = hand_trace([[0], [0]], [10, 10])
    run(executor_jobs.linger, {{"t": trace}}, [("t", ({pids!r}, 600.0))] * 4, "process", 2)
"""


def members(session: int) -> list[int]:
    """Return the processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


def until(condition: Callable[[], bool], seconds: float = 120.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def lingering(interruptible: None, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a process with two busy workers, in a session and with a folder for temporary files of its own."""
    pids, temporary = tmp_path / "pids", Path(tempfile.mkdtemp())  # pytest's is too long for sockets
    pids.mkdir()
    script = tmp_path / "lingering.py"
    script.write_text(LINGERING.format(root=str(HERE.parent), here=str(HERE), pids=str(pids)))
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = subprocess.Popen(
        [sys.executable, str(script)], env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    try:
        assert until(lambda: len(list(pids.iterdir())) == 2)
        yield process, temporary
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()
        shutil.rmtree(temporary)


def test_a_temporary_folder_too_deep_for_sockets_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(ValueError, match=r"too long a path for the workers' socket; fix: .* in \$TMPDIR"):
        run(jobs_module.linger, {"t": hand_trace([[0]], [10])}, [("t", (str(tmp_path), 0.0))], "process")


def test_ctrl_c_ends_all_workers_at_once_and_leaves_no_file(lingering: tuple[subprocess.Popen[str], Path]) -> None:
    process, temporary = lingering
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    said = process.communicate(timeout=300)[1]  # the jobs have ten minutes to go
    assert process.returncode == -signal.SIGINT
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1  # of the parent; workers say nothing
    assert until(lambda: not members(process.pid))
    assert list(temporary.iterdir()) == []


def test_workers_end_with_a_parent_that_was_killed(lingering: tuple[subprocess.Popen[str], Path]) -> None:
    process, _ = lingering
    assert len(members(process.pid)) >= 3
    process.kill()
    process.wait()
    assert until(lambda: not members(process.pid))


# ---- those who use it ------------------------------------------------------------------------------------------------


def test_a_comparison_is_the_same_in_processes(capsys: pytest.CaptureFixture[str]) -> None:
    mine = Policy.from_source(jobs_module.USER, "mine")
    serial = compare([mine, "lru"], "validation", "synthetic")
    parallel = compare([mine, "lru"], "validation", "synthetic", executor="process", workers=2)
    assert json.dumps(serial.to_dict()) == json.dumps(parallel.to_dict())
    arguments = ["compare", "lru", "--traces", "synthetic", "--executor", "process", "--workers", "1", "--json"]
    assert main(arguments) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["policies"]["lru"]["hit_tokens"] == serial.to_dict()["policies"]["lru"]["hit_tokens"]


@pytest.fixture
def candidates(tmp_path: Path) -> list[Path]:
    """Files: good, stopped after the first cell, refused, not there, good."""
    sources = {
        "good": jobs_module.USER,
        "smoke": "def priority(block, cache):\n    return -block.last_access\n",
        "refused": "import os\n",
        "missing": None,
        "lru": "def priority(block, cache):\n    return block.released\n",
    }
    for name, source in sources.items():
        if source is not None:
            (tmp_path / f"{name}.py").write_text(source)
    return [tmp_path / f"{name}.py" for name in sources]


def test_candidates_score_in_processes_as_one_by_one(
    candidates: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = Evaluator("train", "synthetic")
    try:
        alone = [evaluator.evaluate(path) for path in candidates]
    finally:
        evaluator.close()
    assert [found.metrics["valid"] for found in alone] == [1.0, 1.0, 0.0, 0.0, 1.0]
    together = evaluate_many(candidates, "train", "synthetic", "process", 2)
    assert [repr(found) for found in together] == [repr(found) for found in alone]
    arguments = ["score", *map(str, candidates[2:]), "--traces", "synthetic", "--json"]
    assert main(arguments) == 2
    shown = json.loads(capsys.readouterr().out)["scores"]
    assert [row["metrics"] for row in shown] == [found.metrics for found in alone[2:]]
    assert [row["file"] for row in shown] == [str(path) for path in candidates[2:]]


def test_another_panel_in_a_worker_is_refused() -> None:
    from sim.batch import PanelKey, evaluate

    with pytest.raises(RuntimeError, match="give all nodes the same traces"):
        evaluate(PanelKey("train", "synthetic", "0" * 64), (jobs_module.USER, False))


def test_traces_are_what_tests_think_they_are() -> None:
    assert all(isinstance(trace, Trace) for trace in TRACES.values())
    assert TRACES["hand"].n_requests == 5
