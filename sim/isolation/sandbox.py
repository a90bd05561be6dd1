"""The sandbox: what a child gives up, for good, before it looks at a request.

Knows: the order of the layers (rlimit, nocaps, landlock, seccomp), what each needs, how to see from outside
that they hold. A layer that the host refuses is left out and *reported*, with the reason, in every outcome.
Must not know: handlers, requests, the protocol.

Covered (Linux on x86_64 or aarch64 with Landlock; root or not):
  - endless loops, also in compiled code that never releases the interpreter lock: the zygote kills the child's
    process group at the wall-clock limit; the kernel enforces the CPU limit;
  - huge allocations (address space), core dumps, files (size 0), file descriptors;
  - network: every socket call; processes: fork, exec, threads, ptrace, signals to others;
  - writing: nothing in the file system can be created, changed, renamed or removed;
  - reading: only the interpreter, its packages, system libraries, this package and what the caller listed, so not
    traces, caches, home directories, other processes' /proc;
  - root's privileges: all capabilities are dropped, limits cannot be raised again.
Consequences for handlers: no threads; compile and import what you can in the zygote. A numba function with
``cache=True`` must have its signatures compiled there: a child can neither read nor write numba's cache.

Not covered:
  - code in the child is in one address space with the handler: native code there can read what the zygote
    loaded and can forge its own answer. Keep secrets out of the zygote; check the source before;
  - names, sizes and times of files anywhere (``stat`` is allowed), environment variables kept for the zygote;
  - timing and cache side channels, load on the machine below the limits, kernel bugs;
  - without seccomp, as root: processes that leave their group; without Landlock: reading any file;
  - outside Linux: only the wall-clock kill and the resource limits that the host accepts (macOS: no memory limit).
"""

from __future__ import annotations

import ctypes
import os
import resource
import site
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sim.isolation import landlock, seccomp
from sim.isolation.outcome import Limits

_SET_PDEATHSIG, _SET_DUMPABLE, _SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_OPEN_FILES = 64
_SYSTEM_READABLE = (
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices/system/cpu"),
    *("/dev/null", "/dev/zero", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo"),
)


@dataclass(frozen=True)
class Level:
    """The layers in force in one child.

    Attributes:
        layers: Their names, "fork" first.
        missing: Layer or part of one -> why it is not in force.
    """

    layers: tuple[str, ...]
    missing: dict[str, str]

    def __str__(self) -> str:
        return "+".join(self.layers)


@dataclass
class Sandbox:
    """What can be prepared once in the zygote and put into force in each child.

    Attributes:
        libc: The C library, or None where there is none of Linux's calls.
        ruleset: Landlock ruleset's file descriptor, or None.
        filter: Seccomp filter, or None.
        missing: Layer -> why it could not be prepared.
    """

    libc: ctypes.CDLL | None = None
    ruleset: int | None = None
    filter: seccomp.Filter | None = None
    missing: dict[str, str] = field(default_factory=dict)


def prepare(readable: Iterable[Path]) -> Sandbox:
    """Prepare the layers this host offers.

    Args:
        readable: What children may read beside the interpreter, its packages and this package.
    """
    box = Sandbox()
    if sys.platform != "linux":
        reason = f"not available on {sys.platform}"
        box.missing = {"nocaps": reason, "landlock": reason, "seccomp": reason}
        return box
    box.libc = ctypes.CDLL(None, use_errno=True)
    try:
        box.ruleset = landlock.ruleset(box.libc, [*_default_readable(), *readable])
    except OSError as fault:
        box.missing["landlock"] = str(fault)
    try:
        box.filter = seccomp.build()
    except OSError as fault:
        box.missing["seccomp"] = str(fault)
    return box


def die_with_parent(box: Sandbox, parent: int) -> None:
    """Have the kernel kill this child when its single-threaded parent dies."""
    if box.libc is not None:
        _prctl(box.libc, _SET_PDEATHSIG, 9)
    if os.getppid() != parent:
        os._exit(1)


def install(box: Sandbox, limits: Limits) -> Level:
    """Put every prepared layer into force in the calling child. Never raises: what fails is reported."""
    layers, missing = ["fork"], dict(box.missing)
    refused = _limit_resources(limits)
    if "CPU" not in refused:
        layers.append("rlimit")
    missing |= {f"rlimit.{name}": reason for name, reason in refused.items()}
    if box.libc is None:
        return Level(tuple(layers), missing)
    try:
        _prctl(box.libc, _SET_DUMPABLE, 0)
        _prctl(box.libc, _SET_NO_NEW_PRIVS, 1)
    except OSError as fault:
        return Level(tuple(layers), missing | dict.fromkeys(("nocaps", "landlock", "seccomp"), str(fault)))
    try:
        _drop_capabilities(box.libc)
        layers.append("nocaps")
    except OSError as fault:
        missing["nocaps"] = str(fault)
    if box.ruleset is not None:
        try:
            landlock.restrict(box.libc, box.ruleset)
            os.close(box.ruleset)
            layers.append("landlock")
        except OSError as fault:
            missing["landlock"] = str(fault)
    if box.filter is not None:
        try:
            seccomp.install(box.libc, box.filter)
            layers.append("seccomp")
        except OSError as fault:
            missing["seccomp"] = str(fault)
    return Level(tuple(layers), missing)


def verify(pid: int, claimed: Level) -> Level:
    """Check from outside what a child claims, as far as the kernel shows it (nocaps and seccomp)."""
    if not {"nocaps", "seccomp"} & set(claimed.layers):
        return claimed
    try:
        seen, own = _status(pid), _status(os.getpid())
    except OSError as fault:
        return Level(claimed.layers, claimed.missing | {"verification": str(fault)})
    filtered = seen["Seccomp"] == "2" and seen["NoNewPrivs"] == "1"
    if "Seccomp_filters" in seen:  # a container may have put the zygote under a filter of its own
        filtered = filtered and int(seen["Seccomp_filters"]) > int(own["Seccomp_filters"])
    holds = {"nocaps": int(seen["CapPrm"], 16) == 0, "seccomp": filtered}
    false = [name for name in claimed.layers if not holds.get(name, True)]
    missing = claimed.missing | dict.fromkeys(false, "claimed by the child, not visible to the zygote")
    return Level(tuple(name for name in claimed.layers if name not in false), missing)


def _status(pid: int) -> dict[str, str]:
    """Read a process's /proc status; zombies have one too."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _default_readable() -> list[Path]:
    """List what lazy imports need: prefixes, site-packages, the ``sim`` package, system libraries."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *site.getsitepackages()}
    places = [Path(__file__).resolve().parents[1], *map(Path, sorted(prefixes)), *map(Path, _SYSTEM_READABLE)]
    return [place for place in places if place != Path("/")]


def _limit_resources(limits: Limits) -> dict[str, str]:
    """Set soft = hard limits; return those refused, with the reason."""
    wanted = {"CPU": limits.cpu_whole_s, "CORE": 0, "FSIZE": 0, "NOFILE": _OPEN_FILES, "NPROC": 0}
    refused: dict[str, str] = {}
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        wanted["AS"] = pages * resource.getpagesize() + limits.memory_bytes
    except OSError as fault:
        refused["AS"] = f"size of the zygote unknown: {fault.strerror}"
    for name, value in wanted.items():
        try:
            number = getattr(resource, f"RLIMIT_{name}")
            hard = resource.getrlimit(number)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (value, value))
        except (AttributeError, ValueError, OSError) as fault:
            refused[name] = str(fault)
    return refused


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Empty the process's capability sets (nothing to do but harmless for a user without any)."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if libc.capset(header, (ctypes.c_uint32 * 6)()) != 0:
        raise OSError(ctypes.get_errno(), "capset refused")


def _prctl(libc: ctypes.CDLL, option: int, value: int) -> None:
    """Call prctl(option, value, 0, 0, 0)."""
    zero = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(option), ctypes.c_ulong(value), zero, zero, zero) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}) refused")
