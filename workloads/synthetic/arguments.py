"""How a family begins: its arguments checked, its random stream, an empty log.

Knows which values make sense for which kind of argument, told by its annotation and the end of its name. Must not know
any family.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from math import isfinite

import numpy as np

from workloads.errors import TraceError, unknown_name
from workloads.synthetic.draws import stream
from workloads.synthetic.prompts import PromptTree, RequestLog
from workloads.trace import Trace

_MAY_BE_ZERO = ("popularity", "priority")


def begin(family: Callable[..., Trace], given: dict[str, object]) -> tuple[np.random.Generator, RequestLog]:
    """Return the random stream of a family and seed, and a log without requests.

    Args:
        family: The family's function; its name is part of the stream's seed.
        given: Its arguments by name, ``seed`` and ``block_tokens`` among them.

    Raises:
        TraceError: an argument makes no sense: ``int`` is an integer >= 1, ``float`` finite and > 0, what ends in
            ``_share`` is from 0 to 1, and what ends in ``popularity`` or ``priority`` may be 0.
    """
    for key, value in given.items():
        if key != "seed" and family.__annotations__[key] in ("int", "float"):
            _check(key, value, family.__annotations__[key])
    seed, block_tokens = given["seed"], given["block_tokens"]
    assert isinstance(block_tokens, int)
    return stream(family.__name__, seed), RequestLog(PromptTree(block_tokens))  # type: ignore[arg-type]


def _check(key: str, value: object, kind: str) -> None:
    share = key.endswith("_share")
    low = 0 if share or key.endswith(_MAY_BE_ZERO) else 1
    if kind == "int":
        fits = type(value) is int and value >= low
        wanted = f"an integer >= {low}"
    else:
        number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
        fits = number and (value >= 0 if low == 0 else value > 0) and not (share and value > 1)  # type: ignore[operator]
        wanted = "a share from 0 to 1" if share else f"a finite number >{'=' if low == 0 else ''} 0"
    if not fits:
        raise TraceError(f"{key}: expected {wanted}, got {value!r}", field=key)


def choice(key: str, value: object, known: Collection[str]) -> None:
    """Refuse a word that is not among the known ones.

    Raises:
        TraceError: with a suggestion.
    """
    if value not in known:
        raise unknown_name(key, str(value), known)
