"""Accounts of a run: tokens and USD used, and the caps no request may be able to break.

Knows numbers; must not know requests or files.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from sim.search.llm.settings import LlmSettings


class CapReached(RuntimeError):
    """The next request could cost more than is left; the message says what was used and what to change."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one or more requests, and their price in USD (0 without prices)."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost_usd + other.cost_usd,
        )

    def __sub__(self, other: Usage) -> Usage:
        return self + Usage(-other.prompt_tokens, -other.completion_tokens, -other.cost_usd)

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.prompt_tokens + self.completion_tokens


class Accounts:
    """What was used and what running requests may use; safe to use from several threads."""

    def __init__(self, settings: LlmSettings, used: Usage) -> None:
        """Start from what earlier processes of the run have used."""
        self.settings, self.used = settings, used
        self._reserved, self._running = Usage(), 0
        self._changed = threading.Condition()

    def reserve(self, worst: Usage) -> None:
        """Set aside the most a request may use; waits while running requests could still leave room for it.

        Raises:
            CapReached: If it does not fit even so.
        """
        with self._changed:
            while (reason := self._exceeded(self.used + self._reserved + worst)) and self._running:
                self._changed.wait()
            if reason:
                raise CapReached(reason)
            self._reserved += worst
            self._running += 1

    def settle(self, worst: Usage, usage: Usage) -> None:
        """Replace what was set aside by what was used."""
        with self._changed:
            self._reserved -= worst
            self._running -= 1
            self.used += usage
            self._changed.notify_all()

    def _exceeded(self, total: Usage) -> str:
        settings, used = self.settings, self.used
        if settings.cap_tokens and total.tokens > settings.cap_tokens:
            cap, spent = f"{settings.cap_tokens:,} tokens (cap_tokens)", f"{used.tokens:,} are used"
            more = f"{total.tokens - used.tokens:,}"
        elif settings.cap_usd and total.cost_usd > settings.cap_usd:
            cap, spent = f"{settings.cap_usd:.2f} USD (cap_usd)", f"{used.cost_usd:.4f} are spent"
            more = f"{total.cost_usd - used.cost_usd:.4f}"
        else:
            return ""
        return f"the cap of {cap} is reached: {spent}, and the next request could take {more} more"
