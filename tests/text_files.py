"""Text logs for tests: a tokenizer whose tokens are characters, and what may never be seen outside of a reader."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from conftest import extra

SECRETS = ("Xylophone-7319", "eve.quill@example.org", "203.0.113.77", "sess-Marigold")
"""A text, a user, an address and a session."""


def characters(folder: Path) -> str:
    """Write a tokenizer.json: one token a character (unknown ones: 0), ChatML's markers special; return its path."""
    tokenizers = extra("tokenizers")
    alphabet = [chr(code) for code in range(1, 256)]
    vocabulary = {token: number for number, token in enumerate(["?", *alphabet, "<|im_start|>", "<|im_end|>"])}
    model = tokenizers.models.WordLevel(vocabulary, unk_token="?")
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    made.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    path = folder / "tokenizer.json"
    made.save(str(path))
    return str(path)


def lines(path: Path, records: Iterable[Any]) -> Path:
    """Write records as JSON lines; strings are written as they are."""
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


def forms(text: str, tokens: Sequence[int] = ()) -> set[bytes]:
    """Return how a text, or its tokens, would look in a file."""
    found = {text.encode(), text.encode("utf-16-le"), json.dumps(text)[1:-1].encode(), repr(text)[1:-1].encode()}
    if len(tokens) >= 4:
        some = list(map(str, tokens[:4]))
        found |= {",".join(some).encode(), ", ".join(some).encode()}
        found |= {np.array(tokens[:4], kind).tobytes() for kind in ("<i4", "<i8", ">i4")}
    return found
