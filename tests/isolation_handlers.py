"""Handlers that misbehave, for tests/test_isolation.py. Imported by the zygote, never by the tests' process."""

# ruff: noqa: SIM115
import ctypes
import ctypes.util
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np

from sim.isolation import sandbox, seccomp

EVIL = type("Evil", (Exception,), {"__str__": lambda self: 1 / 0})


def _recurse(n=0):
    return _recurse(n + 1) + 1


def _attempt(action):
    """Return the name of what an action raises, or "allowed"."""
    try:
        action()
    except BaseException as fault:
        return type(fault).__name__
    return "allowed"


def echo(request):
    return {"echo": request, "pid": os.getpid()}


def arrays(request):
    values = {"f": np.linspace(0, 1, 5), "i": np.arange(6, dtype=np.int32).reshape(2, 3), "s": np.array(3.5)}
    return {"n": 3}, values | {"nan": np.array([np.nan]), "empty": np.zeros((0, 4), np.bool_)}


def python_loop(request):
    while True:
        pass


def python_sleep(request):
    time.sleep(600)


def numba_loop(request):
    return {"x": COMPILED["spin"](1)}


def sys_exit(request):
    sys.exit(3)


def os_exit(request):
    os._exit(request["code"])


def interrupt(request):
    raise KeyboardInterrupt


def segfault(request):
    ctypes.string_at(0)


def abort(request):
    os.abort()


def killed(request):
    os.kill(os.getpid(), signal.SIGKILL)


def terabyte(request):
    return {"x": float(np.ones(1 << 37).sum())}


def hoard(request):
    held = []
    while True:
        held.append(bytearray(16 << 20))


def recursion(request):
    return {"x": _recurse()}


def divide(request):
    return {"x": 1 / request["zero"]}


def evil_exception(request):
    raise EVIL


def flood(request):
    for _ in range(200):
        print("x" * 100_000)
        sys.stderr.write("y" * 100_000)
        os.write(1, b"z" * 100_000)
    return {"done": True}


def nan(request):
    return {"score": float("nan")}


def not_json(request):
    return {"score": np.float64}


def not_dict(request):
    return [1, 2]


def objects(request):
    return {}, {"o": np.array([{}], dtype=object)}


def big_text(request):
    return {"x": "a" * (3 << 20)}


def big_array(request):
    return {}, {"x": np.zeros(3 << 20, np.uint8)}


def raw_flood(request):
    while True:
        os.write(3, b"\0" * 65536)


def raw_garbage(request):
    os.write(3, b"\xff" * 100)
    return {}


def raw_forged_shape(request):
    head = json.dumps({"status": "ok", "detail": "", "payload": {}, "arrays": [["a", "<f8", [1 << 40]]]}).encode()
    os.write(3, len(head).to_bytes(8, "big") + (0).to_bytes(8, "big") + head)
    os._exit(0)


def raw_answer_then_hang(request):
    head = json.dumps({"status": "ok", "detail": "", "payload": {"score": 1e9}, "arrays": []}).encode()
    os.write(3, len(head).to_bytes(8, "big") + (0).to_bytes(8, "big") + head)
    os.close(3)
    time.sleep(600)


def raw_answer_then_fail(request):
    head = json.dumps({"status": "ok", "detail": "", "payload": {"score": 1e9}, "arrays": []}).encode()
    os.write(3, len(head).to_bytes(8, "big") + (0).to_bytes(8, "big") + head)
    os._exit(1)


def network(request):
    families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX, "netlink": socket.AF_NETLINK}
    return {name: _attempt(lambda f=family: socket.socket(f)) for name, family in families.items()} | {
        "pair": _attempt(socket.socketpair)
    }


def write_files(request):
    place = request["place"]
    old = os.path.join(place, "old")
    actions = {
        "create": lambda: open(os.path.join(place, "new"), "w"),
        "append": lambda: open(old, "a"),
        "truncate": lambda: os.truncate(old, 0),
        "unlink": lambda: os.unlink(old),
        "rename": lambda: os.rename(old, old + "2"),
        "mkdir": lambda: os.mkdir(os.path.join(place, "d")),
        "rmdir": lambda: os.rmdir(os.path.join(place, "sub")),
        "symlink": lambda: os.symlink("/", os.path.join(place, "l")),
        "link": lambda: os.link(old, os.path.join(place, "h")),
        "chmod": lambda: os.chmod(old, 0o777),
        "utime": lambda: os.utime(old),
        "memfd": lambda: os.memfd_create("x"),
        "home": lambda: open(os.path.expanduser("~/kvevolve-test"), "w"),
        "own memory": lambda: open("/proc/self/mem", "r+b"),
    }
    return {name: _attempt(action) for name, action in actions.items()}


def read_files(request):
    places = {"secret": request["secret"], "passwd": "/etc/passwd", "environ": "/proc/self/environ"}
    places["zygote"] = f"/proc/{os.getppid()}/maps"
    seen = {name: _attempt(lambda p=place: open(p, "rb").read()) for name, place in places.items()}
    seen["list"] = _attempt(lambda: os.listdir(os.path.dirname(request["secret"])))
    return seen | {"allowed": _attempt(lambda: open(request["allowed"], "rb").read())}


def lazy_import(request):
    import sqlite3.dbapi2  # noqa: F401
    import wsgiref.simple_server  # noqa: F401

    return {"ok": True}


def processes(request):
    own = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)

    def raw_ptrace():
        if libc.ptrace(0, 0, 0, 0) != 0:
            raise PermissionError

    actions = {
        "fork": lambda: os.fork() or os._exit(0),
        "spawn": lambda: subprocess.run(["/bin/true"], check=True),
        "exec": lambda: os.execv("/bin/true", ["true"]),
        "thread": lambda: threading.Thread(target=int).start(),
        "kill zygote": lambda: os.kill(os.getppid(), signal.SIGKILL),
        "kill all": lambda: os.kill(-1, 0),
        "kill group": lambda: os.killpg(0, 0),
        "setsid": os.setsid,
        "setpgid": lambda: os.setpgid(0, os.getppid()),
        "ptrace": raw_ptrace,
        "nice": lambda: os.nice(1),
        "own signal": lambda: (signal.signal(signal.SIGUSR1, lambda *_: None), os.kill(own, signal.SIGUSR1)),
    }
    return {name: _attempt(action) for name, action in actions.items()}


def privileges(request):
    import resource

    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    names = ("RLIMIT_CPU", "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_NOFILE")
    raised = {n: _attempt(lambda n=n: resource.setrlimit(getattr(resource, n), unlimited)) for n in names}
    secret = [k for k in os.environ if "KEY" in k]
    fds = [fd for fd in range(64) if _attempt(lambda fd=fd: os.fstat(fd)) == "allowed"]
    return {"raised": raised, "environment": secret, "fds": fds, "hash": hash("kvevolve"), "threads": os.cpu_count()}


def jit(request):
    import numba

    @numba.cfunc("float64(float64, int64)")
    def score(x, n):
        total = 0.0
        for i in range(n):
            total += x * i
        return total

    return {"x": score.ctypes(0.5, 5)}


def executable_memory(request):
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    return {}


def unseen_state(request):
    """Count calls: every child starts from the zygote's memory."""
    COUNT.append(1)
    return {"n": len(COUNT)}


COUNT: list[int] = []
COMPILED = {}


def load(numba=False, wait_s=0):
    """Make the handler that dispatches on request["do"]; only one zygote pays for numba."""
    time.sleep(wait_s)
    if numba:
        from numba import njit

        @njit
        def spin(x):
            while x > 0:
                x += 1
            return x

        spin(-1)
        COMPILED["spin"] = spin
    return lambda request: globals()[request["do"]](request)


def load_with_broken_child():
    def fail(box, limits):
        raise RuntimeError

    sandbox.install = fail
    return load()


def load_without_seccomp():
    def refuse():
        raise OSError(38, "no table for this test")

    seccomp.build = refuse
    return load()


def load_with_false_seccomp():
    seccomp.install = lambda libc, prepared: None
    return load()


def load_fails(place):
    raise RuntimeError(f"no panel at {place}")


def load_hangs():
    while True:
        pass


def load_no_handler():
    return 5
