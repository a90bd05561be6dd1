"""A text log as recorded sessions.

Knows requests, sessions and how they are collected; drives tokenizer, template and chains. Must not know any format:
a format is a function that turns records into requests. Prompts are dropped as soon as they are hashed. What is kept
grows with requests and distinct blocks, not with the text: some 100 bytes a distinct block, 16 a run of new blocks.
"""

from __future__ import annotations

import os
import secrets
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from math import isnan, nan

import numpy as np
import numpy.typing as npt

from workloads import chains
from workloads.columns import F64, I64
from workloads.errors import TraceError
from workloads.keys import KEY_BYTES, Names
from workloads.readers.members import source
from workloads.sessions import SessionSet
from workloads.text.chain import Chains, Path, Prompt
from workloads.text.chatml import TEMPLATE, ChatML
from workloads.text.records import Records, resolved
from workloads.text.tokenizer import load_tokenizer

PLAIN = "none: the text as logged"


@dataclass(frozen=True)
class TextOptions:
    """How text becomes blocks.

    Attributes:
        tokenizer: See :func:`workloads.text.tokenizer.load_tokenizer`.
        block_tokens: Tokens per block.
        max_input_tokens: Longer prompts are left out, as a server of that context refuses them; None keeps all.
        key: Of the block ids; None for a fresh random one, which makes them comparable within one reading only.
    """

    tokenizer: str
    block_tokens: int
    max_input_tokens: int | None = None
    key: bytes | None = None


@dataclass(frozen=True, eq=False, repr=False)
class KeyedSessions(SessionSet):
    """Sessions whose blocks, sessions and tenants also have keyed names that mean the same in every log.

    Attributes:
        block_keys: int64[n_blocks] keyed id by block id.
        session_keys: Keyed name of each session.
        tenant_keys: Keyed name by tenant.
    """

    block_keys: I64 = field(default_factory=lambda: np.empty(0, np.int64))
    session_keys: tuple[str, ...] = ()
    tenant_keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """One request of a log.

    Attributes:
        session: Id of its session, or its number in the log where sessions have none; kept while reading only.
        prompt: Its prompt.
        output_tokens: Length of the answer.
        time_ms: When it arrived, or was answered where only that is known; NaN if unknown.
        start_ms: When its session started, if that is known without the times of its requests.
        tenant: Id of its user.
    """

    session: str | int
    prompt: Prompt
    output_tokens: int
    time_ms: float = nan
    start_ms: float = nan
    tenant: str | None = None


class Renderer:
    """Text to prompts, for the readers."""

    def __init__(self, options: TextOptions, template: str) -> None:
        """Load the tokenizer; see :class:`TextOptions`."""
        tokenizer = load_tokenizer(options.tokenizer)
        key = options.key or secrets.token_bytes(KEY_BYTES)
        self.template, self.tokenizer = template, tokenizer.name
        self.chat = ChatML(tokenizer)
        self._encode = tokenizer.encode
        self._chains = Chains(key, f"{tokenizer.name}, {template}", options.block_tokens)

    def path(self, of: str = "") -> Path:
        """Return an empty prompt, of a space (see :func:`workloads.text.chain.space`)."""
        return self._chains.path(of)

    def plain(self, text: str) -> Prompt:
        """Return a prompt that is not rendered."""
        path = self._chains.path()
        path.append(self._encode(text))
        return path.prompt()

    def turns(self, messages: Iterable[tuple[str, str]]) -> Iterator[tuple[int, Prompt, int]]:
        """Yield, for every turn of the assistant, its number among the messages, its prompt and its output tokens.

        Args:
            messages: Role and text of each message.
        """
        path = self.path()
        for number, (role, text) in enumerate(messages):
            if role == "assistant":
                yield number, path.prompt(self.chat.ask), self.chat.count(text)
            path.append(self.chat.message(role, text))


@dataclass
class _Session:
    """The requests of one session; `runs` is [first id, length, ...], `rows` the number of runs of each request."""

    owner: str | int
    order: str
    start_ms: float
    tenant: int
    time_ms: array[float] = field(default_factory=lambda: array("d"))
    input_tokens: array[int] = field(default_factory=lambda: array("q"))
    output_tokens: array[int] = field(default_factory=lambda: array("q"))
    rows: array[int] = field(default_factory=lambda: array("q"))
    runs: array[int] = field(default_factory=lambda: array("q"))


Source = Callable[[Records, Renderer], Iterator[Request]]


def read_log(
    path: str | os.PathLike[str],
    requests: Source,
    options: TextOptions,
    *,
    format_name: str,
    name: str | None = None,
    template: str = TEMPLATE,
    details: dict[str, object] | None = None,
    whole_ms: bool = False,
) -> SessionSet:
    """Read a text log.

    Args:
        path: File, folder or archive.
        requests: The format.
        options: How text becomes blocks.
        format_name: For the provenance.
        name: Name of the set; default: the file's without suffixes.
        template: How prompts are rendered.
        details: More for the provenance.
        whole_ms: Cut times to whole milliseconds.

    Returns:
        The sessions, named by their position; a :class:`KeyedSessions` if a key was given.

    Raises:
        TraceError: naming file, position and field; never anything of the text.
    """
    file = resolved(path)
    records, renderer = Records(file), Renderer(options, template)
    dense: dict[int, int] = {}
    sessions: dict[str | int, _Session] = {}
    tenants: dict[str, int] = {}
    for request in requests(records, renderer):
        if options.max_input_tokens is not None and request.prompt.tokens > options.max_input_tokens:
            records.counts["requests_longer_than_max_input_tokens"] += 1
            continue
        tenant = -1 if request.tenant is None else tenants.setdefault(request.tenant, len(tenants))
        if request.session not in sessions:
            sessions[request.session] = _Session(request.session, records.member, request.start_ms, tenant)
        _add(sessions[request.session], request, dense)
    if not sessions:
        raise TraceError(f"{file}: no requests in it - fix: check that this is the right file and format")
    provenance: dict[str, object] = {
        "format": format_name,
        "source": source(file),
        "tokenizer": renderer.tokenizer,
        "template": template,
        "options": {"block_tokens": options.block_tokens, "max_input_tokens": options.max_input_tokens},
        **(details or {}),
        **dict(sorted(records.counts.items())),
    }
    ordered = sorted(sessions.values(), key=lambda session: session.order)
    columns = _columns(ordered, provenance, bool(tenants), whole_ms)
    set_name = name or file.name.partition(".")[0]
    common = {"name": set_name, "block_tokens": options.block_tokens, "global_ids": True, **columns}
    if options.key is None:
        return SessionSet(**common)  # type: ignore[arg-type]
    return KeyedSessions(
        **common,  # type: ignore[arg-type]
        block_keys=np.fromiter(dense, np.int64, len(dense)),
        session_keys=tuple(_session_keys(options.key, ordered, provenance["source"])),
        tenant_keys=tuple(map(Names(options.key, "tenant").text, map(_bytes, tenants))),
    )


def _session_keys(key: bytes, sessions: list[_Session], log: object) -> Iterator[str]:
    """Yield keyed names; the number of a session means something in its own log only."""
    names, numbers = Names(key, "session"), Names(key, "numbered session")
    for session in sessions:
        if isinstance(session.owner, str):
            yield names.text(_bytes(session.owner))
        else:
            yield numbers.text(f"{log} {session.owner}".encode())


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")


def _add(session: _Session, request: Request, dense: dict[int, int]) -> None:
    session.time_ms.append(request.time_ms)
    session.input_tokens.append(request.prompt.tokens)
    session.output_tokens.append(request.output_tokens)
    before = len(session.runs)
    runs, follows = session.runs, -1
    for name in request.prompt.ids:
        block = dense.setdefault(name, len(dense))
        if block == follows:
            runs[-1] += 1
        else:
            runs.extend((block, 1))
        follows = block + 1
    session.rows.append((len(runs) - before) // 2)


def _columns(
    sessions: list[_Session], provenance: dict[str, object], has_tenants: bool, whole_ms: bool
) -> dict[str, object]:
    """Return the columns of the set; requests of a session are put in the order of their times."""
    counts: Counter[str] = Counter()
    offsets, starts, orders, first_row = list[F64](), list[float](), list[I64](), 0
    for session in sessions:
        times = np.array(session.time_ms)
        known = ~np.isnan(times)
        order = np.arange(len(times))
        if known.all():
            counts["requests_sorted_by_time"] += int((times < np.maximum.accumulate(times)).sum())
            order = np.argsort(times, kind="stable")
            starts.append(float(times[order[0]]) if isnan(session.start_ms) else session.start_ms)
            offsets.append(times[order] - times[order[0]])
        else:
            counts["sessions_partly_timed"] += int(known.any())
            starts.append(session.start_ms)
            offsets.append(np.full(len(times), nan))
        orders.append(order + first_row)
        first_row += len(times)
    provenance |= {key: count for key, count in counts.items() if count}
    rows = np.concatenate([np.array(session.rows, np.int64) for session in sessions])
    start_ms, offset_ms = np.array(starts), np.concatenate(offsets)
    if whole_ms:
        start_ms, offset_ms = np.floor(start_ms), np.floor(offset_ms)
    runs = np.concatenate([np.array(session.runs, np.int64) for session in sessions]).reshape(-1, 2)
    order = np.concatenate(orders)
    run_rows, taken = chains.take_rows(_starts(rows), np.arange(len(runs)), order)
    unknown = np.full(first_row, -1, np.int64)
    return {
        "session_names": tuple(map(str, range(len(sessions)))),
        "abs_start_ms": start_ms,
        "session_rows": _starts(np.array([len(session.rows) for session in sessions])),
        "offset_ms": offset_ms,
        "agent": np.zeros(first_row, np.int32),
        "input_tokens": _gather(sessions, "input_tokens")[order],
        "output_tokens": _gather(sessions, "output_tokens")[order],
        "tool_tokens": unknown,
        "system_tokens": unknown.copy(),
        "run_rows": run_rows,
        "run_starts": runs[taken, 0].copy(),
        "run_lengths": runs[taken, 1].copy(),
        "provenance": provenance,
        "tenant": np.array([session.tenant for session in sessions], np.int32) if has_tenants else None,
    }


def _gather(sessions: list[_Session], name: str) -> npt.NDArray[np.int32]:
    return np.concatenate([np.array(getattr(session, name), np.int32) for session in sessions])


def _starts(counts: I64) -> I64:
    found = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=found[1:])
    return found
