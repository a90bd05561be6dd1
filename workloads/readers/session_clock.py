"""When a closed-loop request arrives that says only how long after its session's previous one it was sent.

Knows the rule: such a request arrives when its predecessor ends plus its delay, where a request ends after its output
tokens were decoded at a constant rate; nothing else takes time. Must not know file formats. The rule is an assumption
(real servers also queue and prefill) and belongs beside every number computed from it
(:meth:`SessionClock.assumptions`).
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from math import isfinite

from workloads.errors import TraceError
from workloads.materialise import DECODE_TOKENS_PER_S

RULE = "arrival = previous arrival + previous output_tokens / decode_tokens_per_s + delay"


class SessionClock:
    """The end of every session's latest request, in ms."""

    def __init__(
        self, decode_tokens_per_s: float = DECODE_TOKENS_PER_S, window_s: float | None = None, seed: int = 0
    ) -> None:
        """Set the rule's constants.

        Args:
            decode_tokens_per_s: Output tokens a request generates per second.
            window_s: Sessions whose first request has no time start uniformly within this time; None: there are none.
            seed: Seed of those starts.

        Raises:
            TraceError: not finite or not > 0.
        """
        for name, value in (("decode_tokens_per_s", decode_tokens_per_s), ("window_s", window_s)):
            if value is not None and not (isfinite(value) and value > 0):
                raise TraceError(f"option {name} {value}: expected a finite number > 0")
        self.decode_tokens_per_s, self.window_s, self.seed = decode_tokens_per_s, window_s, seed
        self._draw = random.Random(seed)
        self._end_ms: dict[Hashable, float] = {}
        self.following = 0
        self.drawn = 0

    def knows(self, session: Hashable) -> bool:
        """Return whether the session has had a request."""
        return session in self._end_ms

    def after(self, session: Hashable, delay_ms: float) -> float:
        """Return when a request arrives that follows the session's previous one, rounded to 0.1 ms."""
        self.following += 1
        return round(self._end_ms[session] + delay_ms, 1)

    def start(self) -> float:
        """Return when a session starts that does not say so, rounded to 0.1 ms."""
        self.drawn += 1
        return round(self._draw.random() * (self.window_s or 0.0) * 1000.0, 1)

    def served(self, session: Hashable, arrival_ms: float, output_tokens: int) -> None:
        """Note a request of a session, whatever its arrival was taken from."""
        self._end_ms[session] = arrival_ms + self.service_ms(output_tokens)

    def service_ms(self, output_tokens: int) -> float:
        """Return how long a request takes."""
        return output_tokens / self.decode_tokens_per_s * 1000.0

    def constants(self, rule: str) -> dict[str, object]:
        """Return a rule and the rate it rests on, for provenance."""
        return {"rule": rule, "decode_tokens_per_s": self.decode_tokens_per_s}

    def assumptions(self) -> dict[str, object]:
        """Return what was assumed, for provenance; empty if every request had a time."""
        if not self.following and not self.drawn:
            return {}
        said = self.constants(RULE) | {"requests_following": self.following}
        if self.drawn:
            said |= {"sessions_drawn": self.drawn, "window_s": self.window_s, "seed": self.seed}
        return {"closed_loop": said}
