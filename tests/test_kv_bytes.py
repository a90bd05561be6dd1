"""KV bytes per token: by hand, from `config.json` of every kind of attention, against a third party's table."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import missing

from workloads import TraceError
from workloads.kv_bytes import describe, is_memory, kv_bytes_per_token, memory_blocks
from workloads.locate import trace_dirs
from workloads.models import MODELS

Write = Callable[..., str]


@pytest.fixture
def config(tmp_path: Path) -> Write:
    """Write a config.json and return its path; what is not said is that of Llama 3.1 8B."""

    def write(whole: bool = False, **fields: Any) -> str:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(fields if whole else LLAMA | fields))
        return str(path)

    return write


def grouped(layers: int, heads: int, kv_heads: int, head_dim: int | None, hidden: int = 4096, **more: Any) -> dict:
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads}
    return sizes | {"hidden_size": hidden, "head_dim": head_dim, "torch_dtype": "bfloat16"} | more


def latent(layers: int, **more: Any) -> dict:
    return grouped(layers, 128, 128, None, 7168, kv_lora_rank=512, qk_rope_head_dim=64, **more)


def every(interval: int, layers: int, between: str) -> list[str]:
    return ["full_attention" if (i + 1) % interval == 0 else between for i in range(layers)]


LLAMA = grouped(32, 32, 8, None, model_type="llama")

# What the models' published configurations say of their caches.
CONFIGS: dict[str, dict] = {
    "llama-3.1-8b": LLAMA,
    "llama-3.1-70b": grouped(80, 64, 8, None, 8192),
    "qwen2.5-7b": grouped(28, 28, 4, None, 3584, sliding_window=131_072, use_sliding_window=False),
    "qwen2.5-14b": grouped(48, 40, 8, None, 5120, sliding_window=131_072, use_sliding_window=False),
    "qwen2.5-32b": grouped(64, 40, 8, None, 5120, sliding_window=131_072, use_sliding_window=False),
    "qwen2.5-72b": grouped(80, 64, 8, None, 8192, sliding_window=131_072, use_sliding_window=False),
    "qwen3-0.6b": grouped(28, 16, 8, 128, 1024),
    "qwen3-8b": grouped(36, 32, 8, 128),
    "qwen3-14b": grouped(40, 40, 8, 128, 5120),
    "qwen3-32b": grouped(64, 64, 8, 128, 5120),
    "qwen3-30b-a3b": grouped(48, 32, 4, 128, 2048),
    "qwen3-235b-a22b": grouped(94, 64, 4, 128),
    "qwen3.5-27b": {"text_config": grouped(64, 24, 4, 256, 5120, layer_types=every(4, 64, "linear_attention"))},
    "qwen3.5-35b-a3b": {"text_config": grouped(40, 16, 2, 256, 2048, full_attention_interval=4)},
    "minimax-m2": grouped(62, 48, 8, 128, 3072, attn_type_list=[1] * 62),
    "cohere-command-r-v01": grouped(40, 64, 64, None, 8192),
    "cohere-command-r-plus": grouped(64, 96, 8, None, 12288),
    "deepseek-v3": latent(61),
    "kimi-k2.5": {"text_config": latent(61)},
}
# Three layers in four slide: the table spreads their windows over the mean prompt of each trace, we count what grows.
WINDOWED: dict[str, dict] = {
    "cohere-command-r7b-12-2024": grouped(32, 32, 8, 128, sliding_window=4096, sliding_window_pattern=4),
    "cohere-command-a-03-2025": grouped(64, 96, 8, 128, 12288, sliding_window=4096, sliding_window_pattern=4),
    "gemma-4-31b": {
        "text_config": grouped(
            60,
            32,
            16,
            256,
            5376,
            num_global_key_value_heads=4,
            global_head_dim=512,
            sliding_window=1024,
            layer_types=every(6, 60, "sliding_attention"),
            attention_k_eq_v=True,
        )
    },
}
# The table stores the indexer's keys without scales (and in bf16 if asked to), vLLM in fp8 with 4 bytes of scale per
# 128: one byte in 33 of the indexer, and so the only model family where we differ for the same layout.
INDEXED: dict[str, tuple[dict, int]] = {
    "deepseek-v3.2": (latent(61, index_head_dim=128), 61),
    "glm-5": (latent(78, index_head_dim=128), 78),
    "glm-5.2": (latent(78, index_head_dim=128, indexer_types=["full"] * 21 + ["shared"] * 57), 21),
}


def settings() -> dict[str, dict[str, list]]:
    """Return the third party's bytes per token: trace, setting, [bytes, sizes]."""
    for folder in trace_dirs():
        path = folder / "reference_curves" / "kvcache_ai_precomputed.json.gz"
        if path.is_file():
            traces = json.loads(gzip.decompress(path.read_bytes()))["traces"]
            return {name: trace["settings"] for name, trace in traces.items()}
    missing("reference_curves/kvcache_ai_precomputed.json.gz")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("dtype", "precision"), [("bfloat16", "bf16_fp16"), ("fp8", "fp8_int8"), ("fp4", "fp4_int4")])
def test_bytes_equal_those_of_a_third_party(name: str, dtype: str, precision: str, config: Write) -> None:
    published = settings()["mooncake_fast25"][f"{name}|precision={precision}|indexer=|draft=0"][0]
    assert kv_bytes_per_token(f"{config(whole=True, **CONFIGS[name])}?cache_dtype={dtype}") == published


@pytest.mark.parametrize("name", WINDOWED)
def test_a_third_party_spreads_windows_over_the_prompts_where_we_count_what_grows(name: str, config: Write) -> None:
    from workloads.hf_config import kv_shape

    shape = kv_shape(Path(config(whole=True, **WINDOWED[name])))
    assert "not counted" in describe(config(whole=True, **WINDOWED[name]))
    reference = "cohere-command-a-plus-05-2026"  # 8 of 32 layers full: its windows tell the mean prompt of each trace
    for published in settings().values():
        mean_prompt = 24 * 4096 * 4096 / (published[f"{reference}|precision=bf16_fp16|indexer=|draft=0"][0] - 32_768)
        spread = published[f"{name}|precision=bf16_fp16|indexer=|draft=0"][0]
        assert shape.bytes_per_token() < spread
        if mean_prompt > 4096:  # else the windows are not full
            assert shape.bytes_per_token() + shape.window_values * 2 / mean_prompt == pytest.approx(spread)


@pytest.mark.parametrize("name", INDEXED)
def test_the_indexer_has_scales_where_a_third_party_has_none(name: str, config: Write) -> None:
    fields, layers = INDEXED[name]
    published = settings()["mooncake_fast25"][f"{name}|precision=bf16_fp16|indexer=fp8_int8|draft=0"][0]
    assert kv_bytes_per_token(config(whole=True, **fields)) == published + 4 * layers


def test_named_models_equal_their_configurations(config: Write) -> None:
    for name in MODELS.keys() & CONFIGS.keys():
        assert kv_bytes_per_token(name) == kv_bytes_per_token(config(whole=True, **CONFIGS[name]))
    assert kv_bytes_per_token("llama-3.1-70b") == kv_bytes_per_token(327_680) == kv_bytes_per_token("327680")
    assert kv_bytes_per_token("deepseek-v3?cache_dtype=fp8") == 61 * 576


def test_ranks_with_too_few_heads_hold_copies(config: Write) -> None:
    assert [kv_bytes_per_token(f"llama-3.1-8b?tensor_parallel={n}") // 2**17 for n in (1, 2, 8, 16, 32)] == [
        1, 1, 1, 2, 4,
    ]  # fmt: skip
    assert kv_bytes_per_token("deepseek-v3?tensor_parallel=8") == 8 * 61 * 576 * 2
    assert kv_bytes_per_token(f"{config(**latent(61))}?cache_dtype=fp8_ds_mla") == 61 * 656
    with pytest.raises(TraceError, match="a divisor or a multiple of the 8 KV heads"):
        kv_bytes_per_token("llama-3.1-8b?tensor_parallel=12")


@pytest.mark.parametrize(
    ("fields", "layers_counted"),
    [
        ({"layer_types": every(2, 32, "sliding_attention"), "sliding_window": 128}, 16),  # gpt-oss
        ({"model_type": "gemma2", "sliding_window": 4096}, 16),
        ({"model_type": "gemma3_text", "sliding_window": 1024}, 5),
        ({"sliding_window": 4096, "use_sliding_window": True, "max_window_layers": 28}, 28),
        ({"sliding_window": 262_144, "max_position_embeddings": 131_072}, 32),  # Phi 3: wider than any prompt
        ({"num_kv_shared_layers": 8, "layer_types": every(4, 32, "sliding_attention"), "sliding_window": 512}, 6),
        ({"attn_type_list": [0] * 28 + [1] * 4}, 4),
        ({"linear_attn_config": {"full_attn_layers": [4, 8, 12, 32]}}, 4),  # Kimi Linear
    ],
)
def test_only_layers_that_grow_are_counted(fields: dict, layers_counted: int, config: Write) -> None:
    assert kv_bytes_per_token(config(**fields)) == layers_counted * 2 * 8 * 128 * 2


def test_other_names_of_the_same_fields(tmp_path: Path) -> None:
    gpt2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "torch_dtype": "float32"}
    falcon = {"num_hidden_layers": 32, "num_attention_heads": 71, "hidden_size": 4544, "multi_query": True}
    split = grouped(4, 8, 8, 192, v_head_dim=128)
    for fields, expected in (
        (gpt2, 12 * 2 * 768 * 4),
        (falcon | {"torch_dtype": "bfloat16"}, 32 * 2 * 64 * 2),
        (split, 4 * 8 * 320 * 2),
    ):
        (tmp_path / "config.json").write_text(json.dumps(fields))
        assert kv_bytes_per_token(str(tmp_path)) == expected  # a folder will do


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"compress_ratios": [0, 4]}, "'compress_ratios'"),
        ({"layer_types": ["full_attention"] * 31}, "a list of 32 kinds of layers"),
        ({"layer_types": ["full_attention"] * 31 + ["retention"]}, "of full_attention, "),
        ({"layer_types": ["mamba"] * 32}, "no layer's cache grows"),
        ({"sliding_window": 4096, "max_position_embeddings": 32_768}, "no layer's cache grows"),  # Mistral 7B v0.1
        ({"attention_chunk_size": 8192}, "attend to chunks"),
        ({"num_kv_shared_layers": 8}, "some share a cache"),
        ({"num_hidden_layers": None}, "'num_hidden_layers': expected a positive integer, got None"),
        ({"num_hidden_layers": 32.0}, "got 32.0"),
        ({"num_hidden_layers": True}, "got True"),
        ({"num_key_value_heads": 0}, "got 0"),
        ({"num_attention_heads": 3000}, "no multiple of 3000 heads"),
        ({"hidden_size": None, "head_dim": "128"}, "got '128'"),
        ({"torch_dtype": "int7"}, r"got 'int7' - fix: .*\?cache_dtype=bfloat16"),
        ({"torch_dtype": None}, "got None"),
        ({"torch_dtype": ["bfloat16"]}, r"got \['bfloat16'\]"),
        ({"quantization_config": {"kv_cache_scheme": {"num_bits": 8}}}, "speaks of the KV cache"),
        ({"kv_lora_rank": 512}, "'qk_rope_head_dim'"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"linear_attn_config": {"full_attn_layers": []}}, "full_attn_layers"),
        ({"index_head_dim": 128, "indexer_types": ["half"]}, "'full' and 'shared'"),
    ],
)
def test_what_is_not_understood_is_refused_with_file_field_and_fix(fields: dict, said: str, config: Write) -> None:
    path = config(**fields)
    with pytest.raises(TraceError, match=said) as refusal:
        kv_bytes_per_token(path)
    assert str(refusal.value).startswith(path)
    assert "fix: " in str(refusal.value)


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", "[" * 100_000, '"text"'])
def test_what_is_no_config_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(TraceError, match=r"config\.json"):
        kv_bytes_per_token(str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("lama-3.1-8b", "did you mean 'llama-3.1-8b'"),
        ("0", "must be positive"),
        ("-5", "must be positive"),
        ("no/such/config.json", "no such file"),
        ("llama-3.1-8b?dtype=fp8", "expected cache_dtype or tensor_parallel"),
        ("llama-3.1-8b?cache_dtype=fp9", "cache_dtype 'fp9'"),
        ("llama-3.1-8b?cache_dtype=fp8_ds_mla", "expected MLA"),
        ("llama-3.1-8b?tensor_parallel=two", "a number of ranks"),
        ("llama-3.1-8b?tensor_parallel=2&tensor_parallel=4", "each once"),
    ],
)
def test_models_that_make_no_sense(model: str, said: str) -> None:
    with pytest.raises(TraceError) as refusal:
        kv_bytes_per_token(model)
    assert said in str(refusal.value)


def test_memory_in_blocks() -> None:
    # 40 GiB / (16 tokens * 131,072 bytes) = 20,480 blocks
    assert memory_blocks("40GiB", 16, "llama-3.1-8b") == memory_blocks("40 GiB", 16, 131_072) == 20_480
    assert memory_blocks("1.5MiB", 1, 2**20) == 1
    assert memory_blocks("3KB", 1, 1_000) == 3
    assert [is_memory(text) for text in ("40GiB", "1.5 TB", "40", "40%", "40gib", "GiB")] == [True, True, *[False] * 4]
    for memory, model, said in (
        ("40GiB", None, "depend on the model"),
        ("1KiB", "llama-3.1-8b", "takes 2,097,152 bytes"),
        ("40 gigs", 1, "expected a number and one of"),
    ):
        with pytest.raises(TraceError, match=said):
            memory_blocks(memory, 16, model)


def test_the_arithmetic_is_told(config: Write) -> None:
    assert describe("llama-3.1-8b") == "llama-3.1-8b: 131,072 KV bytes per token = 32 layers * 8 KV heads * 256 * 2 B"
    assert "latent and rope (MLA) * 576 * 1 B" in describe("deepseek-v3?cache_dtype=fp8")
    assert describe("1000") == "1,000 KV bytes per token, as given"
    windowed = config(layer_types=every(4, 32, "sliding_attention"), sliding_window=512)
    assert "24 layers with a sliding window hold a fixed amount per request: not counted" in describe(windowed)
