"""KV-cache bytes per token of a model, and sizes of memory in blocks.

Knows how users name models and memory: ``llama-3.1-70b``, ``config.json?cache_dtype=fp8&tensor_parallel=8``, ``40GiB``.
Must not know caches or policies.
"""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

from workloads.errors import TraceError
from workloads.hf_config import kv_shape
from workloads.models import MODELS, KvShape, model_of

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6}
_UNITS |= {"GB": 10**9, "TB": 10**12}
_MEMORY = re.compile(r"(\d+(?:\.\d+)?) ?(" + "|".join(_UNITS) + ")")
_OPTIONS = ("cache_dtype", "tensor_parallel")


def kv_bytes_per_token(model: str | int) -> int:
    """Return the bytes a token occupies in the KV cache, over all ranks together.

    Args:
        model: A name of `workloads.models.MODELS` or a Hugging Face ``config.json``, both with
            ``?cache_dtype=fp8&tensor_parallel=8`` behind if wanted; or bytes per token.

    Raises:
        TraceError: no such model or option, or a file that is not understood.
    """
    text = str(model)
    if text.isascii() and text.lstrip("-").isdigit():
        if int(text) <= 0:
            raise TraceError(f"KV bytes per token must be positive, got {text}")
        return int(text)
    return _shape(text)[0].bytes_per_token(_shape(text)[1])


def describe(model: str | int) -> str:
    """Return how the bytes per token of a model come about, and what is not counted."""
    total = kv_bytes_per_token(model)
    if str(model).isdigit():
        return f"{total:,} KV bytes per token, as given"
    shape, ranks = _shape(str(model))
    spread = f", on {ranks} tensor-parallel ranks" if ranks > 1 else ""
    return "; ".join([f"{model}: {total:,} KV bytes per token = {shape.arithmetic}{spread}", *shape.notes])


def is_memory(text: str) -> bool:
    """Return whether a text is a size of memory, as "40GiB"."""
    return _MEMORY.fullmatch(text.strip()) is not None


def memory_blocks(memory: str, block_tokens: int, model: str | int | None) -> int:
    """Return how many whole blocks fit into memory.

    Args:
        memory: "40GiB", "512 MiB", "1.5TB"; KV cache of all ranks together.
        block_tokens: Tokens per block.
        model: As for `kv_bytes_per_token`.

    Raises:
        TraceError: no size of memory, no model, or not a single block.
    """
    found = _MEMORY.fullmatch(memory.strip())
    if found is None:
        raise TraceError(f"memory {memory!r}: expected a number and one of {', '.join(_UNITS)}, for example 40GiB")
    if model is None:
        raise TraceError(
            f"capacity {memory}: blocks in memory depend on the model - fix: name it (--model, or model: in a panel):"
            f" one of {', '.join(MODELS)}, a config.json, or KV bytes per token"
        )
    per_block = kv_bytes_per_token(model) * block_tokens
    blocks = int(Fraction(found[1]) * _UNITS[found[2]] / per_block)
    if blocks < 1:
        raise TraceError(f"capacity {memory}: a block of {block_tokens} tokens of {model} takes {per_block:,} bytes")
    return blocks


def _shape(model: str) -> tuple[KvShape, int]:
    """Return the shape of a model and the number of tensor-parallel ranks."""
    target, _, query = model.partition("?")
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if key not in _OPTIONS or not value or key in options:
            raise TraceError(f"model {model!r}: option {pair!r}: expected {' or '.join(_OPTIONS)}, each once, =value")
        options[key] = value
    ranks = options.get("tensor_parallel", "1")
    if not ranks.isascii() or not ranks.isdigit() or not 0 < int(ranks) <= 4096:
        raise TraceError(f"model {model!r}: tensor_parallel {ranks!r}: expected a number of ranks")
    if Path(target).exists():
        return kv_shape(Path(target), options.get("cache_dtype")), int(ranks)
    if target.endswith(".json") or "/" in target:
        raise TraceError(f"model {model!r}: no such file - fix: give the path of a config.json")
    try:
        shape = model_of(target).kv
    except TraceError as error:
        raise TraceError(f"{error}; or give a config.json, or bytes per token") from None
    return (shape.stored_as(options["cache_dtype"]) if "cache_dtype" in options else shape), int(ranks)
