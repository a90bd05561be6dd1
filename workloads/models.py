"""Well-known models: the shape of their KV cache and what a token costs to compute.

Knows published shapes and their arithmetic. Must not know caches, traces or files (``kv_bytes`` reads those).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from workloads.errors import TraceError, unknown_name

CACHE_DTYPES = {
    "float32": 32,
    "float16": 16,
    "bfloat16": 16,
    "fp8": 8,
    "fp8_e4m3": 8,
    "fp8_e5m2": 8,
    "int8": 8,
    "fp4": 4,
    "int4": 4,
}
"""Bits per cached number; scales of quantised caches, a few percent, are not counted, except in `DS_MLA`."""

DS_MLA, DS_MLA_BYTES = "fp8_ds_mla", 656
"""vLLM's fp8 layout for sparse MLA: 512 B latent, 16 B scales, 128 B of bf16 rope (vLLM 0.33.0, `MLAAttentionSpec`)."""


@dataclass(frozen=True)
class KvShape:
    """What a token leaves in the cache of a whole model.

    Attributes:
        layers: Layers whose cache grows with every token.
        heads: KV heads; 1 for the latent of MLA.
        values_per_head: Cached numbers per token, layer and head: key and value, or the latent of MLA with its rope.
        bits: Bits per number.
        latent: Whether it is the latent of MLA, which every tensor-parallel rank holds whole.
        indexer_bytes: Per token, of a sparse-attention indexer over all its layers.
        window_values: Numbers that layers with a sliding window hold for a request once it is longer than the window:
            not part of the bytes per token.
        ds_mla: Whether the cache has the layout `DS_MLA`.
        notes: What is not counted.
    """

    layers: int
    heads: int
    values_per_head: int
    bits: int = 16
    latent: bool = False
    indexer_bytes: int = 0
    window_values: int = 0
    ds_mla: bool = False
    notes: tuple[str, ...] = ()

    def bytes_per_token(self, tensor_parallel: int = 1) -> int:
        """Return the bytes a token occupies over all ranks.

        With more ranks than KV heads each head lies on several ranks; the latent and the indexer lie on every rank.

        Raises:
            TraceError: the heads cannot be spread over so many ranks.
        """
        large, small = max(self.heads, tensor_parallel), min(self.heads, tensor_parallel)
        if tensor_parallel < 1 or (not self.latent and large % small):
            raise TraceError(
                f"tensor_parallel {tensor_parallel}: expected a divisor or a multiple of the {self.heads} KV heads"
            )
        heads = tensor_parallel if self.latent else large
        per_head = DS_MLA_BYTES if self.ds_mla else -(-self.values_per_head * self.bits // 8)
        return self.layers * heads * per_head + self.indexer_bytes * tensor_parallel

    @property
    def arithmetic(self) -> str:
        """How `bytes_per_token` comes about."""
        width = f"{DS_MLA_BYTES} B" if self.ds_mla else f"{self.values_per_head} * {self.bits / 8:g} B"
        what = "latent and rope (MLA)" if self.latent else f"{self.heads} KV heads"
        indexer = f" + {self.indexer_bytes} B indexer" if self.indexer_bytes else ""
        return f"{self.layers} layers * {what} * {width}{indexer}"

    def stored_as(self, dtype: str) -> KvShape:
        """Return the shape with another type of cached numbers; the indexer keeps its own.

        Raises:
            TraceError: no such type, or one that does not fit.
        """
        if dtype == DS_MLA:
            if not self.latent or self.values_per_head != 512 + 64:
                raise TraceError(f"cache_dtype {DS_MLA}: expected MLA with a latent of 512 and a rope of 64")
            return replace(self, ds_mla=True, bits=8)
        if dtype not in CACHE_DTYPES:
            raise unknown_name("cache_dtype", dtype, [*CACHE_DTYPES, DS_MLA])
        return replace(self, bits=CACHE_DTYPES[dtype])


@dataclass(frozen=True)
class Model:
    """A model's KV cache and what a token costs to compute.

    Attributes:
        active_parameters: Weights a token is multiplied with.
        attention_width: Query heads * head size; for MLA the mean of query-key and value widths.
        kv: What a token leaves in the cache.
    """

    active_parameters: float
    attention_width: int
    kv: KvShape


def _grouped(parameters: float, heads: int, layers: int, kv_heads: int, head_size: int) -> Model:
    return Model(parameters, heads * head_size, KvShape(layers, kv_heads, 2 * head_size))


MODELS: dict[str, Model] = {
    "llama-3.1-8b": _grouped(8.03e9, 32, 32, 8, 128),
    "llama-3.1-70b": _grouped(70.6e9, 64, 80, 8, 128),
    "llama-3.1-405b": _grouped(405.9e9, 128, 126, 8, 128),
    "mistral-7b": _grouped(7.25e9, 32, 32, 8, 128),
    "qwen2.5-7b": _grouped(7.62e9, 28, 28, 4, 128),
    "qwen2.5-72b": _grouped(72.7e9, 64, 80, 8, 128),
    "qwen3-32b": _grouped(32.8e9, 64, 64, 8, 128),
    "deepseek-v3": Model(37e9, 128 * (192 + 128) // 2, KvShape(61, 1, 512 + 64, latent=True)),
}
"""Source: the models' published `config.json`."""


def model_of(name: str) -> Model:
    """Return a model by name.

    Raises:
        TraceError: unknown name, with a suggestion.
    """
    if name.lower() not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name.lower()]
