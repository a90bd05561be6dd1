import hashlib
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sim.isolation import Limits, Outcome, Zygote, ZygoteError, wire
from sim.isolation.outcome import STATUSES, classify

HERE = Path(__file__).parent
SHORT = Limits(wall_s=60.0, cpu_s=20.0)
LAYERS = ("rlimit", "nocaps", "landlock", "seccomp")
WAIT_S = 60.0
"""Most seconds to wait for what comes at once on an idle machine; costs nothing unless it fails."""


def new(entry: str = "load", **args: object) -> Zygote:
    return Zygote(f"isolation_handlers:{entry}", args, cwd=HERE)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("readable")


@pytest.fixture(scope="module")
def zygote(place):
    os.environ["OPENAI_API_KEY"] = "not-for-candidates"
    with Zygote("isolation_handlers:load", {"numba": True}, cwd=HERE, readable=[place]) as running:
        del os.environ["OPENAI_API_KEY"]
        yield running
        assert _children(running.pid) == []
        pid, directory = running.pid, os.path.dirname(running._path)
    assert not os.path.exists(directory)
    assert not os.path.exists(f"/proc/{pid}")


def ask(zygote: Zygote, do: str, limits: Limits = SHORT, **more: object) -> Outcome:
    outcome = zygote.call({"do": do, **more}, limits)
    assert outcome.status in STATUSES
    assert outcome.isolation.startswith("fork+rlimit")
    assert (outcome.payload is None) == (outcome.status != "ok")
    assert len(outcome.detail) <= 2048
    return outcome


def in_force(outcome: Outcome, layer: str) -> bool:
    """Whether a layer protects; where it does not, the outcome must say so and why."""
    if layer in outcome.isolation.split("+"):
        return True
    assert f"{layer}: " in outcome.detail, "a missing layer is reported"
    return False


def gone(pid: int) -> bool:
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def _children(pid: int) -> list[int]:
    time.sleep(0.05)
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# --- answers ---------------------------------------------------------------------------------------------------


def test_answers_with_payload(zygote):
    outcome = ask(zygote, "echo", text="ü\ud800", n=[1, 2.5, None])
    assert outcome.status == "ok"
    assert outcome.payload["echo"] == {"do": "echo", "text": "ü\ud800", "n": [1, 2.5, None]}
    assert outcome.payload["pid"] not in (os.getpid(), zygote.pid)
    assert 0 < outcome.wall_s < SHORT.wall_s
    assert gone(outcome.payload["pid"])


def test_answers_with_arrays(zygote):
    got = ask(zygote, "arrays").arrays
    np.testing.assert_array_equal(got["f"], np.linspace(0, 1, 5))
    np.testing.assert_array_equal(got["i"], np.arange(6, dtype=np.int32).reshape(2, 3))
    assert got["i"].dtype == np.int32
    assert got["s"].shape == ()
    assert got["s"] == 3.5
    assert np.isnan(got["nan"][0])
    assert got["empty"].shape == (0, 4)
    got["f"][0] = 7  # writable


def test_every_layer_is_in_force_or_reported(zygote):
    outcome = ask(zygote, "echo")
    for layer in LAYERS:
        in_force(outcome, layer)
    if all(in_force(outcome, layer) for layer in LAYERS):
        assert outcome.isolation == "fork+rlimit+nocaps+landlock+seccomp"
        assert outcome.detail == ""


def test_children_do_not_share_state(zygote):
    assert [ask(zygote, "unseen_state").payload["n"] for _ in range(3)] == [1, 1, 1]


def test_a_request_that_is_not_json_is_the_callers_error(zygote):
    with pytest.raises(ValueError, match="JSON"):
        zygote.call({"x": float("inf")}, SHORT)
    with pytest.raises(ValueError, match="wall_s"):
        Limits(wall_s=0)


# --- every way to fail -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("do", ["python_loop", "python_sleep", "numba_loop", "raw_answer_then_hang"])
def test_timeout(zygote, do):
    outcome = ask(zygote, do, Limits(wall_s=0.3))
    assert outcome.status == "timeout", outcome
    assert 0.3 <= outcome.wall_s < WAIT_S


@pytest.mark.parametrize("do", ["python_loop", "numba_loop"])
def test_cpu_limit(zygote, do):
    outcome = ask(zygote, do, Limits(wall_s=60.0, cpu_s=0.5))  # the kernel counts whole seconds
    assert outcome.status == "cpu", outcome


@pytest.mark.parametrize(
    ("do", "status", "words"),
    [
        ("terabyte", "memory", "MemoryError"),
        ("hoard", "memory", "MemoryError"),
        ("segfault", "crash", "SIGSEGV"),
        ("abort", "crash", "SIGABRT"),
        ("killed", "memory", "SIGKILL"),
        ("sys_exit", "exit", "SystemExit: 3"),
        ("interrupt", "error", "KeyboardInterrupt"),
        ("recursion", "error", "RecursionError"),
        ("divide", "error", "ZeroDivisionError"),
        ("evil_exception", "error", "Evil: <message cannot be shown>"),
        ("nan", "protocol", "finite"),
        ("not_json", "protocol", "JSON"),
        ("not_dict", "protocol", "list"),
        ("objects", "protocol", "numeric"),
        ("big_text", "protocol", "output_bytes"),
        ("big_array", "protocol", "output_bytes"),
        ("raw_flood", "protocol", "output_bytes"),
        ("raw_garbage", "protocol", "exceeds the limit"),
        ("raw_forged_shape", "protocol", "longer than the answer"),
        ("raw_answer_then_fail", "exit", "exit code 1"),
        ("no_such_handler", "error", "KeyError"),
    ],
)
def test_failures_are_classified(zygote, do, status, words):
    limits = Limits(wall_s=60.0, memory_bytes=256 << 20, output_bytes=2 << 20)
    outcome = ask(zygote, do, limits, zero=0)
    assert outcome.status == status, outcome
    assert words in outcome.detail
    assert outcome.arrays == {}


@pytest.mark.parametrize("code", [0, 1, 77])
def test_os_exit_without_an_answer(zygote, code):
    outcome = ask(zygote, "os_exit", code=code)
    assert outcome.status == "exit"
    assert f"exit code {code} " in outcome.detail


def test_error_detail_helps_and_hides_paths(zygote):
    detail = ask(zygote, "divide", zero=0).detail
    assert detail.startswith("ZeroDivisionError: division by zero\n")
    assert "in divide (isolation_handlers.py:" in detail
    assert str(HERE) not in detail


def test_output_flood_is_harmless(zygote, capfd):
    assert ask(zygote, "flood").payload == {"done": True}
    assert capfd.readouterr() == ("", "")


def test_oom_kill_is_memory_not_cpu():
    end = {"end": "signal", "code": 9, "cpu_s": 1.0, "wall_s": 2.0, "isolation": "fork", "missing": {}}
    assert classify(end, b"", Limits(cpu_s=5)).status == "memory"
    assert classify(end | {"cpu_s": 4.99}, b"", Limits(cpu_s=5)).status == "cpu"
    assert classify(end | {"code": signal.SIGXCPU}, b"", Limits(cpu_s=5)).status == "cpu"


# --- the sandbox -----------------------------------------------------------------------------------------------


def test_network_is_refused(zygote):
    outcome = ask(zygote, "network")
    if in_force(outcome, "seccomp"):
        assert outcome.payload == dict.fromkeys(("inet", "inet6", "unix", "netlink", "pair"), "PermissionError")


def test_file_writes_are_refused(zygote, place):
    (place / "old").write_text("old")
    (place / "sub").mkdir()
    before = sorted(os.walk(place))
    outcome = ask(zygote, "write_files", place=str(place))
    if in_force(outcome, "landlock") or in_force(outcome, "seccomp"):
        got = {k: v for k, v in outcome.payload.items() if k not in ("chmod", "utime", "memfd")}
        assert set(got.values()) <= {"PermissionError", "OSError"}, got
        assert sorted(os.walk(place)) == before
        assert (place / "old").read_text() == "old"
    if in_force(outcome, "seccomp"):
        assert set(outcome.payload.values()) == {"PermissionError"}, outcome.payload


def test_reading_is_refused_outside_the_allow_list(zygote, place, tmp_path):
    secret, allowed = tmp_path / "test-split.npz", place / "ok"
    secret.write_text("future")
    allowed.write_text("fine")
    outcome = ask(zygote, "read_files", secret=str(secret), allowed=str(allowed))
    assert outcome.payload.pop("allowed") == "allowed"
    if in_force(outcome, "landlock"):
        assert outcome.payload == dict.fromkeys(("secret", "passwd", "environ", "zygote", "list"), "PermissionError")


def test_processes_threads_and_signals_are_refused(zygote):
    if not in_force(ask(zygote, "echo"), "seccomp"):
        pytest.skip("this host has no seccomp, and the outcome says so")
    outcome = ask(zygote, "processes")
    assert outcome.status == "ok", outcome
    assert outcome.payload.pop("own signal") == "allowed"
    assert outcome.payload.pop("thread") == "RuntimeError"
    assert set(outcome.payload.values()) == {"PermissionError"}, outcome.payload
    assert ask(zygote, "echo").status == "ok"


def test_nothing_is_inherited_and_limits_cannot_be_raised(zygote):
    outcome = ask(zygote, "privileges")
    assert set(outcome.payload["raised"].values()) <= {"ValueError", "PermissionError"}, outcome.payload
    assert outcome.payload["environment"] == []
    assert outcome.payload["fds"] == [0, 1, 2, 3]


def test_jit_and_lazy_imports_work(zygote):
    assert ask(zygote, "jit").payload == {"x": 5.0}
    assert ask(zygote, "executable_memory").status == "ok"
    assert ask(zygote, "lazy_import").payload == {"ok": True}


def test_a_missing_layer_is_loud(caplog):
    with new("load_without_seccomp") as running, caplog.at_level(logging.WARNING):
        outcome = ask(running, "echo")
        assert outcome.status == "ok"
        assert "seccomp" not in outcome.isolation.split("+")
        assert "no table for this test" in outcome.detail
        ask(running, "echo")
    warnings = [record.getMessage() for record in caplog.records if "degraded" in record.getMessage()]
    assert len(warnings) == 1, "said once, not per candidate"
    assert warnings[0].startswith(f"isolation degraded to {outcome.isolation}: ")


def test_a_claimed_layer_is_verified_from_outside():
    with new("load_with_false_seccomp") as running:
        outcome = ask(running, "echo")
    assert "seccomp" not in outcome.isolation.split("+")
    assert "not visible to the zygote" in outcome.detail or "seccomp: " in outcome.detail


# --- callers ---------------------------------------------------------------------------------------------------


def test_threads_call_concurrently(zygote):
    outcomes: dict[int, list[Outcome]] = {}

    def work(n: int) -> None:
        outcomes[n] = [ask(zygote, "echo", n=n, i=i) for i in range(15)]

    slow: list[Outcome] = []
    slow_thread = threading.Thread(target=lambda: slow.append(zygote.call({"do": "numba_loop"}, Limits(wall_s=1.5))))
    slow_thread.start()
    while not _children(zygote.pid):
        time.sleep(0.01)
    assert ask(zygote, "echo").status == "ok"
    assert slow_thread.is_alive(), "a looping child does not hold up others"
    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in (slow_thread, *threads):
        thread.join()
    assert slow[0].status == "timeout"
    for n in range(2):
        assert [o.payload["echo"]["i"] for o in outcomes[n]] == list(range(15))
        assert {o.payload["echo"]["n"] for o in outcomes[n]} == {n}


def _in_fork(zygote: Zygote, queue) -> None:
    outcome = zygote.call({"do": "echo", "from": "fork"}, SHORT)
    crashed = zygote.call({"do": "segfault"}, SHORT)
    queue.put((zygote.pid, os.path.dirname(zygote._path), outcome.status, crashed.status))
    zygote.close()


def test_a_forked_worker_shares_the_zygote(zygote):
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    worker = context.Process(target=_in_fork, args=(zygote, queue))
    with zygote._lock:  # a lock that another thread holds at the fork must not block the fork
        worker.start()
    worker.join(WAIT_S)
    assert worker.exitcode == 0
    assert queue.get() == (None, os.path.dirname(zygote._path), "ok", "crash")
    assert ask(zygote, "echo").status == "ok", "a fork's close() leaves the owner's zygote alone"


def test_a_pickled_copy_shares_the_zygote_then_starts_its_own():
    with new() as running:
        copy = pickle.loads(pickle.dumps(running))
        assert ask(copy, "echo").status == "ok"
        assert copy.pid is None
    try:
        assert ask(copy, "echo").status == "ok"
        assert copy.pid is not None
    finally:
        copy.close()


def test_a_killed_zygote_is_replaced():
    with new() as running:
        first, directory = running.pid, os.path.dirname(running._path)
        slow: list[Outcome] = []
        waiting = threading.Thread(target=lambda: slow.append(running.call({"do": "python_sleep"}, Limits(wall_s=1.5))))
        waiting.start()
        while not (children := _children(first)):
            time.sleep(0.01)
        os.kill(first, signal.SIGKILL)
        assert ask(running, "echo").status == "ok"
        assert running.pid != first
        assert not os.path.exists(directory)
        assert all(gone(child) for child in children), "children die with their zygote"
        waiting.join()
        assert slow[0].status == "timeout", "the interrupted request was tried again"


def test_a_hanging_zygote_is_replaced(monkeypatch):
    monkeypatch.setattr("sim.isolation.zygote._GRACE_S", 0.2)
    with new() as running:
        first = running.pid
        os.kill(first, signal.SIGSTOP)
        outcome = running.call({"do": "echo"}, Limits(wall_s=0.2))
        assert outcome.status == "timeout"
        assert "zygote" in outcome.detail
        monkeypatch.undo()
        assert ask(running, "echo").status == "ok"
        assert gone(first)


def test_an_abandoned_request_ends_its_child(zygote):
    context = multiprocessing.get_context("fork")
    worker = context.Process(target=zygote.call, args=({"do": "numba_loop"}, Limits(wall_s=60.0)))
    worker.start()
    while not (children := _children(zygote.pid)):
        time.sleep(0.01)
    worker.kill()
    worker.join()
    assert all(gone(child) for child in children)
    assert _children(zygote.pid) == []


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, None])
def test_the_zygote_ends_with_its_owner(how, tmp_path):
    code = (
        "import sys, time, threading\n"
        "from sim.isolation import Zygote, Limits\n"
        f"z = Zygote('isolation_handlers:load', {{}}, cwd={str(HERE)!r})\n"
        "z.start(); print(z.pid, flush=True)\n"
        "job = lambda: z.call({'do': 'python_loop'}, Limits(wall_s=60))\n"
        "threading.Thread(target=job, daemon=True).start()\n"
        f"time.sleep({60 if how else 0.3})\n"
    )
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as owner:
        pid = int(owner.stdout.readline())
        while not (children := _children(pid)):
            time.sleep(0.01)
        if how:
            owner.send_signal(how)
        owner.wait(WAIT_S)
    assert gone(pid)
    assert all(gone(child) for child in children)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["serving", "starting"])
def test_the_zygote_does_not_wait_for_orphaned_forks(when, tmp_path):
    code = (
        "import os, threading, time\n"
        "from sim.isolation import Zygote\n"
        f"z = Zygote('isolation_handlers:load', {{'wait_s': {2 * (when == 'starting')}}}, cwd={str(HERE)!r})\n"
        "threading.Thread(target=z.start, daemon=True).start()\n"
        "tasks = lambda: [f'/proc/self/task/{t}/children' for t in os.listdir('/proc/self/task')]\n"
        "while not (found := [pid for task in tasks() for pid in open(task).read().split()]): time.sleep(0.01)\n"
        f"{'z.start()' if when == 'serving' else 'time.sleep(0.2)'}; orphan = os.fork()\n"
        "if orphan: print(*found, orphan, flush=True)\n"
        "time.sleep(60)\n"
    )
    env = os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path])}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as owner:
        pid, orphan = map(int, owner.stdout.readline().split())
        try:
            owner.kill()
            assert gone(pid)
            assert list(tmp_path.iterdir()) == []
        finally:
            os.kill(orphan, signal.SIGKILL)


@pytest.mark.parametrize(
    ("entry", "timeout_s", "words"),
    [
        ("isolation_handlers:load_fails", 30, "RuntimeError: no panel at moon"),
        ("isolation_handlers:load_no_handler", 30, "returned int, not a handler"),
        ("isolation_handlers:load_hangs", 1, "did not start"),
        ("no_such_module:load", 30, "No module named 'no_such_module'"),
    ],
)
def test_a_zygote_that_cannot_start_says_why(entry, timeout_s, words, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    args = {"place": "moon"} if entry.endswith("fails") else {}
    with pytest.raises(ZygoteError, match=words):
        Zygote(entry, args, cwd=HERE, start_timeout_s=timeout_s).call({}, SHORT)
    assert list(tmp_path.iterdir()) == []


def test_a_long_temporary_directory_does_not_break_the_socket(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with new() as running:
        assert ask(running, "echo").status == "ok"
        assert len(os.fsencode(running._path)) < 108
    assert list(deep.iterdir()) == []


def test_a_child_that_cannot_be_prepared_is_not_the_candidates_fault():
    with new("load_with_broken_child") as running, pytest.raises(ZygoteError, match="before its sandbox was complete"):
        running.call({"do": "echo"}, SHORT)


# --- the frame -------------------------------------------------------------------------------------------------


def test_frames_are_refused_when_malformed():
    good = wire.pack({"a": 1}, b"xyz")
    assert wire.unpack(good + b"tail", 100) == wire.Frame({"a": 1}, b"xyz", len(good))
    assert all(wire.unpack(good[:n], 100) is None for n in range(len(good)))
    for head in (b"[1]", b'{"a": NaN}', b"\xff", b"[" * 100_000):
        with pytest.raises(wire.WireError):
            wire.unpack(len(head).to_bytes(8, "big") + bytes(8) + head, 1 << 20)
    for headers in (None, [["a", "O", [1]]], [["a", "<f8", [-1]]], [["a", "<f8", [True]]], [["a", "zz", [1]]], [1], []):
        with pytest.raises(wire.WireError):
            wire.decode_arrays(headers, b"12345678")


def test_the_same_request_gives_the_same_bytes_in_any_process():
    seen = set()
    for _ in range(2):
        with new() as running:
            seen.add(hashlib.sha256(repr(ask(running, "privileges").payload).encode()).hexdigest())
    assert len(seen) == 1
