"""The shape of a model's KV cache from its Hugging Face ``config.json``.

Knows the keys of such files, of which every family has its own. Must not know capacities or traces. What it does not
understand it refuses: a wrong number of bytes would look like any other.

Keys and their meaning after vLLM 0.33.0 (``vllm/transformers_utils/model_arch_config_convertor.py``,
``vllm/v1/kv_cache_interface.py``) and the configuration classes of transformers; from source, not measured.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

from workloads.errors import TraceError
from workloads.models import CACHE_DTYPES, KvShape

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_HIDDEN = ("hidden_size", "n_embd", "d_model")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "num_attention_groups")
_GROWING = ("full_attention", "attention", "full")
_SLIDING = ("sliding_attention", "chunked_attention")
_CONSTANT = ("linear_attention", "mamba", "conv", "recurrent")
_NOT_UNDERSTOOD = (
    "compress_ratios",
    "kv_source_layer_ids",
    "hybrid_override_pattern",
    "hybrid_layer_pattern",
    "layers_block_type",
    "attn_layer_period",
    "attn_layer_indices",
    "block_configs",
    "cross_attention_layers",
)
_FIX = "give the bytes per token as a number instead of the file"


def kv_shape(path: Path, dtype: str | None = None) -> KvShape:
    """Return what a token leaves in the cache of the model a ``config.json`` describes.

    Layers with a sliding window, and linear attention, hold a fixed amount per request: only what grows with every
    token is counted, and the notes say what is not.

    Args:
        path: The file, or the folder it lies in.
        dtype: Type of the cached numbers; default: the model's own.

    Raises:
        TraceError: unreadable, a field that is missing or makes no sense, or an architecture that is not understood.
    """
    return _Config(path / "config.json" if path.is_dir() else path).shape(dtype)


class _Config:
    """One file, and how it is refused."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            found = json.loads(path.read_bytes())
        except OSError as error:
            raise TraceError(f"{path}: {error.strerror or error} - fix: give the path of a config.json") from None
        except (ValueError, RecursionError) as error:
            raise TraceError(f"{path}: not JSON ({error}) - fix: give the config.json of a model") from None
        if not isinstance(found, dict):
            raise TraceError(f"{path}: expected a JSON object - fix: give the config.json of a model")
        inner = next((found[key] for key in ("text_config", "llm_config") if isinstance(found.get(key), dict)), None)
        self.root: dict[str, Any] = found
        self.text: dict[str, Any] = found if inner is None else inner

    def refuse(self, field: str, expected: str, fix: str = _FIX) -> NoReturn:
        got = repr(self.text.get(field, "nothing"))
        shown = got if len(got) <= 80 else got[:77] + "..."
        raise TraceError(f"{self.path}: field {field!r}: expected {expected}, got {shown} - fix: {fix}", field=field)

    def number(self, *names: str, default: int | None = None) -> int:
        """Return the first of the fields that is there."""
        name = next((name for name in names if self.text.get(name) is not None), names[0])
        value = self.text.get(name)
        if value is None and default is not None:
            return default
        if type(value) is not int or not 0 < value < 2**31:
            self.refuse(name, "a positive integer", "give a whole config.json, not an excerpt")
        return value

    def shape(self, dtype: str | None) -> KvShape:
        text = self.text
        for field in _NOT_UNDERSTOOD:
            if text.get(field) not in (None, [], {}):
                self.refuse(field, "an architecture without it")
        if self.root.get("is_encoder_decoder"):
            raise TraceError(f"{self.path}: an encoder-decoder model has no prefix cache of prompts - fix: {_FIX}")
        growing, sliding, other = self._layers()
        if not growing:
            raise TraceError(
                f"{self.path}: no layer's cache grows with the prompt (all slide or are linear): there are no bytes per"
                f" token - fix: {_FIX}"
            )
        heads, values = self._attention()
        latent = text.get("kv_lora_rank") is not None
        notes = []
        if sliding:
            notes.append(f"{sliding} layers with a sliding window hold a fixed amount per request: not counted")
        if other:
            notes.append(f"{other} layers of linear attention hold a fixed amount per request: not counted")
        window = sliding * heads * values * self.number("sliding_window", "attention_chunk_size") if sliding else 0
        if text.get("global_head_dim") is not None:  # Gemma 4: the full layers have heads of their own
            heads = self.number("num_global_key_value_heads", default=heads)
            values = 2 * self.number("global_head_dim")
        indexer = self._indexer_bytes(growing)
        found = KvShape(growing, heads, values, 16, latent, indexer, window, notes=tuple(notes))
        return found.stored_as(dtype or self._dtype())

    def _attention(self) -> tuple[int, int]:
        """Return KV heads, and cached numbers per token, layer and head."""
        if self.text.get("kv_lora_rank") is not None:
            return 1, self.number("kv_lora_rank") + self.number("qk_rope_head_dim")
        queries = self.number(*_HEADS)
        kv_heads = self.number(*_KV_HEADS, default=1 if self.text.get("multi_query") else queries)
        hidden = self.number(*_HIDDEN, default=queries)
        if self.text.get("head_dim") is None and self.text.get("kv_channels") is None and hidden % queries:
            self.refuse("head_dim", f"the head size (hidden {hidden} is no multiple of {queries} heads)")
        if self.text.get("head_dim") is None and not any(name in self.text for name in (*_HIDDEN, "kv_channels")):
            self.refuse("head_dim", "a head size, or the hidden size it follows from")
        key = self.number("head_dim", "kv_channels", default=hidden // queries)
        return kv_heads, key + self.number("v_head_dim", default=key)

    def _layers(self) -> tuple[int, int, int]:
        """Return how many layers grow, slide, and do neither."""
        text, layers = self.text, self.number(*_LAYERS)
        kinds = text.get("layer_types")
        if kinds is not None:
            if type(kinds) is not list or len(kinds) != layers:
                self.refuse("layer_types", f"a list of {layers} kinds of layers")
            return self._counted(kinds[: layers - self._sharing(layers)])
        if isinstance(linear := text.get("linear_attn_config"), dict):  # Kimi Linear
            full = linear.get("full_attn_layers")
            if type(full) is not list or not 0 < len(full) <= layers:
                self.refuse("linear_attn_config", "full_attn_layers, a list of layer numbers")
            return len(full), 0, layers - len(full)
        if isinstance(types := text.get("attn_type_list"), list):  # MiniMax: 1 full, 0 lightning
            if len(types) != layers or any(kind not in (0, 1) for kind in types):
                self.refuse("attn_type_list", f"{layers} times 0 or 1")
            return sum(types), 0, layers - sum(types)
        if text.get("full_attention_interval") is not None:  # Qwen3-Next
            full_layers = layers // self.number("full_attention_interval")
            return full_layers, 0, layers - full_layers
        return self._sliding(layers)

    def _sliding(self, layers: int) -> tuple[int, int, int]:
        """Return the layers of a model that may have a sliding window and lists no kinds of layers."""
        text = self.text
        if self._sharing(layers):
            self.refuse("layer_types", "the kinds of layers, of which some share a cache")
        if text.get("attention_chunk_size") is not None:
            self.refuse("layer_types", "the kinds of layers, of which some attend to chunks")
        pattern = text.get("sliding_window_pattern", text.get("_sliding_window_pattern"))
        family = str(text.get("model_type", ""))
        pattern = pattern or {"gemma2": 2, "gemma3_text": 6, "gemma3": 6}.get(family)
        if pattern is not None:
            if type(pattern) is not int or pattern < 1:
                self.refuse("sliding_window_pattern", "a positive integer")
            return layers // pattern, layers - layers // pattern, 0
        window, longest = text.get("sliding_window"), text.get("max_position_embeddings")
        if window is None or text.get("use_sliding_window") is False:
            return layers, 0, 0
        if type(window) is int and type(longest) is int and window >= longest:
            return layers, 0, 0
        if text.get("use_sliding_window") is True:  # Qwen2: layers from max_window_layers on slide
            full = min(self.number("max_window_layers"), layers)
            return full, layers - full, 0
        return 0, layers, 0

    def _counted(self, kinds: list[Any]) -> tuple[int, int, int]:
        for kind in kinds:
            if kind not in (*_GROWING, *_SLIDING, *_CONSTANT):
                self.refuse("layer_types", f"of {', '.join((*_GROWING, *_SLIDING, *_CONSTANT))}")
        count = Counter(kinds)
        return tuple(sum(count[kind] for kind in group) for group in (_GROWING, _SLIDING, _CONSTANT))  # type: ignore[return-value]

    def _sharing(self, layers: int) -> int:
        """Return how many of the last layers use the cache of an earlier one (Gemma 3n, 4)."""
        shared = self.text.get("num_kv_shared_layers") or 0
        if type(shared) is not int or not 0 <= shared < layers:
            self.refuse("num_kv_shared_layers", f"an integer from 0 to {layers - 1}")
        return shared

    def _indexer_bytes(self, layers: int) -> int:
        """Return bytes per token of a sparse-attention indexer.

        Fp8 keys and a 4-byte scale per 128 of them, as vLLM stores them whatever the type of the cache
        (``DeepseekV32IndexerCache``).
        """
        if self.text.get("index_head_dim") is None:
            return 0
        width = self.number("index_head_dim")
        kinds = self.text.get("indexer_types")  # GLM 5.2: the layers in between share the choice of the last full one
        if kinds is not None:
            if type(kinds) is not list or set(map(str, kinds)) - {"full", "shared"}:
                self.refuse("indexer_types", "a list of 'full' and 'shared'")
            layers = kinds.count("full")
        return layers * (width + 4 * (width // 128))

    def _dtype(self) -> str:
        quantised = self.root.get("quantization_config") or self.text.get("quantization_config") or {}
        if isinstance(quantised, dict) and (quantised.get("kv_cache_scheme") or quantised.get("kv_cache_quant_algo")):
            raise TraceError(
                f"{self.path}: its quantization_config speaks of the KV cache - fix: say how it is stored, with"
                " ?cache_dtype=fp8 or ?cache_dtype=bfloat16 after the path"
            )
        named = (part.get(key) for part in (self.text, self.root) for key in ("dtype", "torch_dtype"))
        found = next((value for value in named if value is not None), None)
        if not isinstance(found, str) or found not in CACHE_DTYPES:
            raise TraceError(
                f"{self.path}: field 'torch_dtype': expected one of {', '.join(CACHE_DTYPES)}, got {found!r} - fix: say"
                " how the cache is stored, for example with ?cache_dtype=bfloat16 after the path",
                field="torch_dtype",
            )
        return found
