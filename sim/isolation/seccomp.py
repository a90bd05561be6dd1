"""Seccomp: a filter that lets a child compute, read and answer, and refuses every other system call.

Knows: the allowed calls on x86_64 and aarch64 and the BPF that checks them. An allow-list, so a call that a
future kernel adds is refused too: EPERM, or ENOSYS where the C library has a fallback.
Must not know: paths (Landlock's work), resource limits, who is filtered.

No threads, no fork, no exec, no sockets, no opening for writing, no signals to others, no prctl.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from dataclasses import dataclass

# name, number on x86_64, number on aarch64 (-1: the architecture has no such call)
_PLAIN = """
read 0 63, pread64 17 67, readv 19 65, preadv 295 69, write 1 64, writev 20 66, close 3 57, close_range 436 436,
lseek 8 62, fstat 5 80, stat 4 -1, lstat 6 -1, newfstatat 262 79, statx 332 291, access 21 -1, faccessat 269 48,
faccessat2 439 439, readlink 89 -1, readlinkat 267 78, getcwd 79 17, getdents 78 -1, getdents64 217 61,
statfs 137 43, fstatfs 138 44, fadvise64 221 223, dup 32 23, dup2 33 -1, dup3 292 24, poll 7 -1, ppoll 271 73,
select 23 -1, pselect6 270 72,
brk 12 214, mmap 9 222, munmap 11 215, mprotect 10 226, mremap 25 216, madvise 28 233, mincore 27 232,
msync 26 227, membarrier 324 283,
exit 60 93, exit_group 231 94, futex 202 98, set_robust_list 273 99, get_robust_list 274 100, rseq 334 293,
set_tid_address 218 96, arch_prctl 158 -1, restart_syscall 219 128, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, rt_sigpending 127 136, sigaltstack 131 132, sched_yield 24 124, sched_getaffinity 204 123,
sched_getparam 143 121, sched_getscheduler 145 120, getcpu 309 168, getrlimit 97 163, getrusage 98 165,
getpriority 140 141,
getpid 39 172, getppid 110 173, gettid 186 178, getpgrp 111 -1, getpgid 121 155, getsid 124 156, getuid 102 174,
geteuid 107 175, getgid 104 176, getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158,
uname 63 160, sysinfo 99 179, times 100 153, time 201 -1, gettimeofday 96 169, clock_gettime 228 113,
clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, getrandom 318 278
"""
_READ_ONLY = "open 2 -1 1, openat 257 56 2"  # last: position of the flags argument
_OWN_PID = "kill 62 129, tkill 200 130, tgkill 234 131"
_FALL_BACK = "clone3 435 435, openat2 437 437"
_IOCTL, _FCNTL, _PRLIMIT64, _SECCOMP = (16, 29), (72, 25), (302, 261), (317, 277)
_IOCTLS = (0x5401, 0x5450, 0x5451)  # TCGETS (isatty), FIONCLEX, FIOCLEX
_FCNTLS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column, AUDIT_ARCH
_KILL, _ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_X32_BIT = 0x40000000
_MODE_FILTER, _SPEC_ALLOW = 1, 1 << 2  # SPEC_ALLOW: older kernels would slow compiled code down otherwise

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


@dataclass(frozen=True)
class Filter:
    """The filter for this machine, complete but for the child's pid.

    Attributes:
        column: Architecture's column in the tables above.
        head: Instructions before the pid-dependent ones.
    """

    column: int
    head: tuple[Instruction, ...]


def build() -> Filter:
    """Assemble the filter for this machine.

    Raises:
        OSError: The architecture has no table here.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES or sys.byteorder != "little" or struct.calcsize("P") != 8:
        raise OSError(errno.ENOSYS, f"no system call table for {machine}")
    column, audit_arch = _ARCHITECTURES[machine]
    code: list[Instruction] = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit_arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    code += [(_AT_LEAST, 0, 1, _X32_BIT), _refuse(errno.EPERM)]
    for number in _numbers(_PLAIN, column):
        code += _case(number, [(_RETURN, 0, 0, _ALLOW)])
    for number in _numbers(_FALL_BACK, column):
        code += _case(number, [_refuse(errno.ENOSYS)])
    write_flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | (os.O_TMPFILE & ~os.O_DIRECTORY)
    for entry in _READ_ONLY.split(", "):
        fields = entry.split()
        if int(fields[1 + column]) >= 0:
            test = [_argument(int(fields[3])), (_ANY_BIT, 1, 0, write_flags), (_RETURN, 0, 0, _ALLOW)]
            code += _case(int(fields[1 + column]), [*test, _refuse(errno.EPERM)])
    code += _case(_IOCTL[column], _one_of(1, _IOCTLS)) + _case(_FCNTL[column], _one_of(1, _FCNTLS))
    is_null = [_argument(2), (_EQUAL, 1, 0, 0), _refuse(errno.EPERM), _argument(2, 4), (_EQUAL, 1, 0, 0)]
    code += _case(_PRLIMIT64[column], [*is_null, _refuse(errno.EPERM), (_RETURN, 0, 0, _ALLOW)])
    return Filter(column, tuple(code))


def install(libc: ctypes.CDLL, prepared: Filter) -> None:
    """Put the calling, single-threaded process under the filter for good. Needs no_new_privs.

    Raises:
        OSError: The kernel refused.
    """
    code = list(prepared.head)
    for number in _numbers(_OWN_PID, prepared.column):
        code += _case(number, _one_of(0, (os.getpid(),)))
    code.append(_refuse(errno.EPERM))
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in code))
    header = struct.pack("@HxxxxxxP", len(code), ctypes.addressof(program))
    call = ctypes.c_long(_SECCOMP[prepared.column])
    if libc.syscall(call, ctypes.c_uint(_MODE_FILTER), ctypes.c_uint(_SPEC_ALLOW), header) != 0:
        number = ctypes.get_errno()
        raise OSError(number, errno.errorcode.get(number, str(number)))


def _numbers(table: str, column: int) -> list[int]:
    """Return one architecture's numbers of a table."""
    numbers = [int(entry.split()[1 + column]) for entry in table.replace("\n", " ").split(",")]
    return [number for number in numbers if number >= 0]


def _refuse(code: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)


def _argument(position: int, half: int = 0) -> Instruction:
    """Load the low (``half`` 0) or high (4) word of an argument."""
    return (_LOAD, 0, 0, 16 + 8 * position + half)


def _case(number: int, body: list[Instruction]) -> list[Instruction]:
    """Run ``body``, which always returns, if the call is ``number``."""
    return [(_EQUAL, 0, len(body), number), *body]


def _one_of(position: int, values: tuple[int, ...]) -> list[Instruction]:
    """Allow if the low word of an argument is one of ``values``."""
    code = [_argument(position)]
    for value in values:
        code += [(_EQUAL, 0, 1, value), (_RETURN, 0, 0, _ALLOW)]
    return [*code, _refuse(errno.EPERM)]
