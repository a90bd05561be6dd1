"""The columns ``chat_id``, ``parent_chat_id``, ``turn`` and ``type``, as Qwen-Bailian writes them.

Knows that a request continues the chat its parent belongs to, so that a tree of requests is a session. Must not know
file formats. Source: alibaba-edu/qwen-bailian-usagetraces-anon, README @ 03a51e3.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from workloads.readers.assemble import Rows, integers
from workloads.readers.lines import JsonLines, Record

NO_PARENT = -1


@dataclass
class Chats:
    """The requests that have a ``chat_id``, in file order."""

    _requests: list[int] = field(default_factory=list)
    _chats: list[str | int] = field(default_factory=list)
    _parents: list[str | int] = field(default_factory=list)
    _repeated: int = 0
    _orphans: int = 0

    def read(self, source: JsonLines, record: Record, rows: Rows) -> None:
        """Read what a line says about the request that was added last.

        Raises:
            TraceError: a field of the wrong kind.
        """
        kind = source.label(record, "type")
        if kind is not None:
            rows.name("request_type", kind)
        if record.get("turn") is not None:
            rows.put("turn", source.integer(record, "turn", 1) - 1)
        chat = source.label(record, "chat_id")
        if chat is not None:
            parent = source.label(record, "parent_chat_id")
            self._requests.append(len(rows.line) - 1)
            self._chats.append(chat)
            self._parents.append(NO_PARENT if parent is None else parent)

    def settle(self, rows: Rows, source: JsonLines) -> None:
        """Set the session of every request: the first chat of its chain of parents.

        A parent that is not in the file (it lies before the recording) begins a session of its own, shared by all its
        children. Requests that repeat a ``chat_id`` belong to the session of the first one. Sessions that are named by
        the file itself (``session_id``) stay as they are.

        Raises:
            TraceError: a chat that is its own ancestor.
        """
        if not self._chats or "session" in rows.more:
            return
        parent_of: dict[str | int, str | int] = {}
        line_of: dict[str | int, int] = {}
        for request, chat, parent in zip(self._requests, self._chats, self._parents, strict=True):
            if chat in parent_of:
                self._repeated += 1
            else:
                parent_of[chat], line_of[chat] = parent, rows.line[request]
        root_of: dict[str | int, str | int] = {}
        names = rows.names.setdefault("session", {})
        session = rows.more["session"] = integers()
        session.extend([-1] * len(rows.line))
        for request, chat in zip(self._requests, self._chats, strict=True):
            root = _root(chat, parent_of, root_of)
            if root is None:
                source.line = line_of[chat]
                source.refuse("parent_chat_id", "a chain of parents that ends", f"chat {chat!r} as its own ancestor")
            session[request] = names.setdefault(root, len(names))
        self._orphans = sum(parent != NO_PARENT and parent not in parent_of for parent in parent_of.values())

    def counted(self) -> dict[str, object]:
        """Return what is worth knowing about the chats, for provenance; empty if nothing is."""
        found = {"repeated_chat_ids": self._repeated, "chats_with_parent_before_the_trace": self._orphans}
        return {name: count for name, count in found.items() if count}


def _root(
    chat: str | int, parent_of: dict[str | int, str | int], root_of: dict[str | int, str | int]
) -> str | int | None:
    """Return the first chat of a chain of parents, None if there is none; remembers it for the whole chain."""
    chain = []
    while chat not in root_of:
        chain.append(chat)
        if len(chain) > len(parent_of) + 1:
            return None
        parent = parent_of.get(chat, NO_PARENT)
        if parent == NO_PARENT:
            root_of[chat] = chat
        else:
            chat = parent
    for link in chain:
        root_of[link] = root_of[chat]
    return root_of[chat]
