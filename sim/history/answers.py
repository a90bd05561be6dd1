"""What OpenEvolve makes of a model's answer: the program it stands for, or why there is none.

The engine's own parser decides. Knows chat requests and the engine's prompts; must not know the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sim.history.record import Malformed
from sim.search import prompt as prompts


@dataclass(frozen=True)
class Asked:
    """A request to a model.

    Attributes:
        kind: "policy", or what else the engine wanted: "novelty", "evaluation".
        system: System message.
        user: The user's messages.
        parent: Program to change, None if the prompt does not show one in the engine's form.
        rewrite: Whether a whole program is wanted, not a diff; None if the prompt does not say.
        fitness: Of the parent, as shown.
    """

    kind: str
    system: str
    user: str
    parent: str | None = None
    rewrite: bool | None = None
    fitness: float | None = None

    def program_of(self, answer: str) -> tuple[str | None, str | None]:
        """Return the program an answer stands for and None, or None and why the engine finds none in it.

        Both are None if that cannot be told.
        """
        if self.kind != "policy" or self.rewrite is None:
            return None, None
        from openevolve.utils import code_utils

        if self.rewrite:
            code = code_utils.parse_full_rewrite(answer, "python")
            if not code:
                return None, "No valid code found in response"
            return (None, "Rewrite is identical to the parent program") if code == self.parent else (code, None)
        try:
            blocks = code_utils.extract_diffs(answer)
        except ValueError as error:
            return None, str(error)
        if not blocks:
            return None, "No valid diffs found in response"
        code, applied = code_utils.apply_diff_blocks(self.parent or "", blocks)
        if not applied:
            return None, f"None of the {len(blocks)} SEARCH block(s) matched the parent program"
        return (None, "Diff did not change the parent program") if code == self.parent else (code, None)


def read(body: Mapping[str, Any]) -> Asked:
    """Return what the body of a chat completion asks for.

    Raises:
        Malformed: If it is no such body.
    """
    messages = body.get("messages", [])
    said: dict[str, list[str]] = {"system": [], "user": []}
    if not isinstance(messages, list):
        raise Malformed("body.messages is no list")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise Malformed("body.messages has an entry without a text")
        said["system" if message.get("role") in ("system", "developer") else "user"].append(message["content"])
    system, user = "\n".join(said["system"]), "\n".join(said["user"])
    prompt = prompts.read(user)
    if prompt is not None:
        return Asked("policy", system, user, prompt.parent, prompt.mode == "rewrite", prompt.fitness)
    kind = prompts.other_answer(system, user)[0]
    return Asked("policy" if kind == "other" else kind, system, user)
