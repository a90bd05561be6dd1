"""The executor "ray": equal results on several nodes, one of which is lost; sessions and output left as they were."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import executor_jobs as jobs_module
import pytest
from conftest import extra
from executor_jobs import REPLAYS, TRACES
from shipped_job import places

from sim import broker, evaluate_many
from sim.cluster import Pool
from sim.evaluation import Evaluator
from sim.executor import WorkerLost, run
from sim.policy.language import PolicyRejected

ray = extra("ray")
from ray.cluster_utils import Cluster  # noqa: E402

HERE = Path(__file__).parent
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes on this machine: the head and one more."""
    before = dict(os.environ)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (at Ray's 15, tests beside these starve the workers)
    running = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    running.add_node(**NODE)
    running.wait_for_nodes()
    yield running
    ray.shutdown()
    running.shutdown()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def address(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point `$RAY_ADDRESS` at the cluster."""
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)


@pytest.mark.usefixtures("address")
def test_a_cluster_elsewhere_is_sent_this_code_and_that_of_the_job() -> None:
    for place in run(places, TRACES, [("hand", 0)], "ray")[0]:
        assert "runtime_resources" in place
    assert not ray.is_initialized()


@pytest.mark.usefixtures("address")
def test_candidates_score_on_a_cluster_elsewhere_as_here(tmp_path: Path) -> None:
    for name, source in {"good": jobs_module.USER, "refused": "import os\n"}.items():
        (tmp_path / f"{name}.py").write_text(source)
    files = [tmp_path / "good.py", tmp_path / "refused.py", tmp_path / "missing.py"]
    here, there = (evaluate_many(files, "train", "synthetic", name) for name in ("serial", "ray"))
    assert [repr(found) for found in there] == [repr(found) for found in here]
    assert [found.metrics["valid"] for found in here] == [1.0, 0.0, 0.0]


def scored(source: str) -> str:
    remote = broker.connected()
    assert remote is not None
    return repr(remote.evaluate_source(source, advice=False))


@pytest.mark.usefixtures("address")
def test_forked_workers_of_an_engine_score_on_the_cluster_as_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVEVOLVE_PANEL", "synthetic")
    sources = [jobs_module.USER, "import os\n", jobs_module.USER.replace("0.6", "0.5")]
    here = Evaluator("train", "synthetic")
    wanted = [repr(here.evaluate_source(source, advice=False)) for source in sources]
    here.close()
    started = broker.start()
    try:
        with multiprocessing.get_context("fork").Pool(3) as workers:  # as OpenEvolve's are
            assert workers.map(scored, sources) == wanted
        assert not ray.is_initialized()
    finally:
        started.stop()
    assert broker.connected() is None


@pytest.fixture
def session(cluster: Cluster) -> Any:
    """Open a session as a caller would."""
    if not ray.is_initialized():
        path = {"env_vars": {"PYTHONPATH": os.pathsep.join(map(str, (HERE.parent, HERE)))}}
        ray.init(address=cluster.address, log_to_driver=False, runtime_env=path)
    return ray


def test_a_cluster_gives_the_results_of_a_serial_run_byte_for_byte(session: Any) -> None:
    serial, parallel = (run(jobs_module.replay, TRACES, REPLAYS, name) for name in ("serial", "ray"))
    rows = [[json.dumps(result.to_dict(per_request=True)) for result in found] for found in (serial, parallel)]
    assert rows[0] == rows[1]
    assert [pickle.dumps(result) for result in serial] == [pickle.dumps(result) for result in parallel]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def test_a_lost_node_costs_no_result(cluster: Cluster, session: Any, tmp_path: Path) -> None:
    node = cluster.add_node(**NODE)
    gate = tmp_path / "gate"
    jobs = [("hand", (str(tmp_path / str(i)), str(gate))) for i in range(8)]
    for _, (folder, _) in jobs:
        Path(folder).mkdir()

    def at_work() -> list[Path]:
        return [path for path in tmp_path.glob(f"*/{node.node_id}-*") if alive(int(path.name.rpartition("-")[2]))]

    def lose_the_node_at_work() -> None:
        until(lambda: bool(at_work()), 300.0)
        cluster.remove_node(node, allow_graceful=False)
        until(lambda: not at_work(), 120.0)  # else its worker, an orphan by now, would still hand in its result
        gate.touch()

    thread = threading.Thread(target=lose_the_node_at_work)
    thread.start()
    told: list[int] = []
    found = run(jobs_module.wait_on_node, TRACES, jobs, "ray", progress=lambda done, _: told.append(done))
    thread.join()
    assert found == [5] * 8
    assert told == list(range(1, 9))
    (twice,) = [nodes for nodes in (os.listdir(folder) for _, (folder, _) in jobs) if len(nodes) > 1]
    assert any(name.startswith(node.node_id) for name in twice)
    assert session.is_initialized()


def test_a_job_whose_worker_was_killed_is_run_again(session: Any, tmp_path: Path) -> None:
    jobs = [("hand", (str(tmp_path / "two") if i == 2 else "", i)) for i in range(4)]
    assert run(jobs_module.die, TRACES, jobs, "ray") == [i + 5 for i in range(4)]
    with pytest.raises(WorkerLost, match="Ray says WorkerCrashedError") as caught:
        run(jobs_module.die, TRACES, [("hand", ("", 0)), ("hand", ("always", 1))], "ray")
    assert caught.value.__notes__ == ["in job 1 ('hand', ('always', 1))"]


def test_single_calls_from_threads_are_run_again_too(session: Any, tmp_path: Path) -> None:
    pool = Pool(jobs_module.die, TRACES, workers=2)
    calls = [(str(tmp_path / "one") if i == 1 else "", i) for i in range(4)]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda call: pool("hand", call), calls)) == [5, 6, 7, 8]
    with pytest.raises(WorkerLost, match="Ray says WorkerCrashedError"):
        pool("hand", ("always", 0))
    with pytest.raises(PolicyRejected, match="imports are not allowed"):
        Pool(jobs_module.fail, TRACES)("hand", ("policy", 0.0))


def test_the_error_is_that_of_the_first_job_that_fails(session: Any) -> None:
    jobs = [("hand", ("fine", 0.0)), ("hand", ("policy", 0.5)), ("hand", ("trace", 0.0)), ("hand", ("fine", 0.0))]
    with pytest.raises(PolicyRejected, match="imports are not allowed") as caught:
        run(jobs_module.fail, TRACES, jobs, "ray", workers=3)
    assert type(caught.value) is PolicyRejected
    assert caught.value.findings[0].line == 1
    assert caught.value.__notes__ == ["in job 1 ('hand', ('policy', 0.5))"]
    with pytest.raises(RuntimeError, match="Picky: trouble in paradise"):
        run(jobs_module.fail, TRACES, [("hand", ("picky", 0.0))], "ray")


def test_arrays_are_views_of_the_store_and_a_worker_keeps_its_trace(session: Any) -> None:
    seen = run(jobs_module.look, TRACES, [("chat", i) for i in range(8)], "ray")
    assert not any(owned or writeable for *_, owned, writeable in seen)
    assert len({(pid, identity) for pid, identity, *_ in seen}) == len({pid for pid, *_ in seen})


LOCAL = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
import executor_jobs
from shipped_job import places
from small_traces import hand_trace
from sim.executor import run
if __name__ == "__main__":
    trace = hand_trace([[0], [0]], [10, 10])
    print(run(executor_jobs.die, {{"t": trace}}, [("t", ({marker!r}, i)) for i in range(3)], "ray", 1))
    import ray
    print(ray.is_initialized())
"""


def test_without_an_address_a_cluster_of_its_own_is_started_and_stopped(tmp_path: Path) -> None:
    script = tmp_path / "local.py"
    script.write_text(LOCAL.format(root=str(HERE.parent), here=str(HERE), marker=str(tmp_path / "died")))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[2, 3, 4]\nFalse\n"
    assert "worker died" in done.stderr  # Ray says so, but not on standard output
