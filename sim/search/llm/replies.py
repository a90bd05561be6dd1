"""The program a model's reply makes, exactly as the engine would make it, and whether the gate takes it.

Knows the engine's parsers and the policy gate; must not know where replies come from.
"""

from __future__ import annotations

from sim.policy.language import PolicyRejected
from sim.policy.program import Policy
from sim.search.prompt import Prompt

MAX_FINDINGS = 12


class Unusable(ValueError):
    """A reply makes no admissible program; `findings` says why, for the writer of the reply."""

    def __init__(self, findings: list[str]) -> None:
        self.findings = findings
        super().__init__("; ".join(findings))


def program(prompt: Prompt, reply: str) -> Policy:
    """Return the program a reply makes of the prompt's parent.

    Raises:
        Unusable: If there is none, it equals the parent, or the gate refuses it.
    """
    source = _diffed(prompt.parent, reply) if prompt.mode == "diff" else _rewritten(reply)
    if source == prompt.parent:
        raise Unusable(["the program is unchanged"])
    try:
        return Policy.from_source(source)
    except PolicyRejected as rejection:
        raise Unusable([str(finding) for finding in rejection.findings[:MAX_FINDINGS]]) from None


def _diffed(parent: str, reply: str) -> str:
    from openevolve.utils.code_utils import apply_diff_blocks, extract_diffs

    try:
        blocks = extract_diffs(reply)
    except ValueError as error:
        raise Unusable([f"{error}. Fix: each block has one line <<<<<<< SEARCH, =======, >>>>>>> REPLACE"]) from None
    if not blocks:
        raise Unusable(["there is no SEARCH/REPLACE block"])
    if not all(search.strip() for search, _ in blocks):
        raise Unusable(["a SEARCH is empty. Fix: search for lines of the current program"])
    source: str
    source, applied = apply_diff_blocks(parent, blocks)
    if applied == 0:
        raise Unusable(["no SEARCH matches the current program. Fix: copy its lines exactly"])
    return source


def _rewritten(reply: str) -> str:
    from openevolve.utils.code_utils import parse_full_rewrite

    if "```" not in reply:
        raise Unusable(["there is no code block. Fix: put the whole program between ```python and ```"])
    source: str = parse_full_rewrite(reply, "python") or ""
    return source
