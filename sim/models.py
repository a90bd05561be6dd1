"""KV-cache bytes per token and FLOPs of well-known models, with the arithmetic. Knows shapes of models only."""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A model's KV geometry and what a token costs to compute.

    Attributes:
        active_parameters: Weights a token is multiplied with.
        attention_width: Query heads * head size; for MLA the mean of query-key and value widths.
        layers: Layers with a KV cache.
        values_per_layer: Cached numbers per token and layer: 2 (K and V) * KV heads * head size, or the latent of MLA.
        bytes_per_value: 2 for fp16 and bf16, 1 for fp8.
        arithmetic: How `values_per_layer` comes about.
    """

    active_parameters: float
    attention_width: int
    layers: int
    values_per_layer: int
    bytes_per_value: int
    arithmetic: str

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes one token occupies in the cache of the whole model."""
        return self.layers * self.values_per_layer * self.bytes_per_value


def _grouped(parameters: float, heads: int, layers: int, kv_heads: int, head_size: int) -> Model:
    arithmetic = f"{layers} layers * 2 * {kv_heads} KV heads * {head_size} * 2 B"
    return Model(parameters, heads * head_size, layers, 2 * kv_heads * head_size, 2, arithmetic)


MODELS: dict[str, Model] = {
    "llama-3.1-8b": _grouped(8.03e9, 32, 32, 8, 128),
    "llama-3.1-70b": _grouped(70.6e9, 64, 80, 8, 128),
    "llama-3.1-405b": _grouped(405.9e9, 128, 126, 8, 128),
    "mistral-7b": _grouped(7.25e9, 32, 32, 8, 128),
    "qwen2.5-7b": _grouped(7.62e9, 28, 28, 4, 128),
    "qwen2.5-72b": _grouped(72.7e9, 64, 80, 8, 128),
    "qwen3-32b": _grouped(32.8e9, 64, 64, 8, 128),
    "deepseek-v3": Model(
        37e9, 128 * (192 + 128) // 2, 61, 512 + 64, 2, "61 layers * (512 latent + 64 rope) * 2 B (MLA)"
    ),
}
"""bf16 caches, tensor parallelism not counted twice. Source: the models' published `config.json`."""


def model_of(name: str) -> Model:
    """Return a model by name.

    Raises:
        ValueError: If the model is unknown.
    """
    if name.lower() not in MODELS:
        near = difflib.get_close_matches(name.lower(), MODELS, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown model {name!r}; {hint}known: {', '.join(MODELS)}")
    return MODELS[name.lower()]


def kv_bytes_per_token(model: str | int) -> int:
    """Return bytes per token for a model name, or the number given.

    Raises:
        ValueError: If the model is unknown or the number is not positive.
    """
    if isinstance(model, int):
        if model <= 0:
            raise ValueError(f"KV bytes per token must be positive, got {model}")
        return model
    try:
        return model_of(model).kv_bytes_per_token
    except ValueError as error:
        raise ValueError(f"{error}; or give bytes per token") from None
