"""What publishers' sequence numbers tell: messages lost, sent twice, or out of order.

Knows numbers. Must not know what messages hold.
"""

from __future__ import annotations

from workloads.errors import TraceError


class Sequences:
    """The sequence numbers of one recording, per publisher (topic and rank); each counts from 0, one a message.

    Attributes:
        gaps: Where messages are missing: message it was seen at, rank, first and last number missing.
        twice: How many messages came twice, and were left out the second time.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._last: dict[tuple[str, int], int] = {}
        self._missing: dict[tuple[str, int], list[tuple[int, int]]] = {}
        self.gaps: list[dict[str, int]] = []
        self.twice = 0

    def take(self, publisher: tuple[str, int], number: int, message: int) -> bool:
        """Note a message; return whether it is new.

        Raises:
            TraceError: the publisher started anew, or a message comes late.
        """
        last = self._last.get(publisher, number - 1)
        if number > last:
            if number > last + 1:
                self.gaps.append({"message": message, "rank": publisher[1], "first": last + 1, "last": number - 1})
                self._missing.setdefault(publisher, []).append((last + 1, number))
            self._last[publisher] = number
            return True
        late = any(first <= number < behind for first, behind in self._missing.get(publisher, ()))
        if number > 0 and not late:
            self.twice += 1
            return False
        told, fix = ("comes late, after", "sort the messages by sequence number")
        if not late:
            told, fix = "starts anew after", "split the recording where the engine was restarted"
        raise TraceError(f"{self._file}: message {message}: sequence number {number} {told} {last} - fix: {fix}")
