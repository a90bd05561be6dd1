"""What a hit is worth: the value of a block by its depth, in tokens, bytes, FLOPs or seconds of prefill saved.

Knows models and depths; must not know traces or policies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

OBJECTIVES = {
    "tokens": "prompt tokens not computed again",
    "bytes": "bytes of KV cache not written again",
    "flops": "FLOPs of prefill saved, attention to the prefix included",
    "seconds": "seconds of prefill saved at a constant FLOP rate",
}
FLOPS_PER_S = 4e14
"""Default rate: one H100 at 40% of its 989 TFLOP/s dense bf16 peak (NVIDIA H100 SXM data sheet)."""


def depth_values(
    objective: str,
    depths: int,
    block_tokens: int,
    model: str = "llama-3.1-8b",
    flops_per_s: float = FLOPS_PER_S,
) -> npt.NDArray[np.float64]:
    """Return float64 (depths,): what a hit on the block at each depth of a prompt saves.

    Bytes of any model (`workloads.kv_bytes`); FLOPs and seconds of a named one (`workloads.models`), of which a block
    takes 2 * parameters per token, and 4 * layers * query heads * head size per token and token before it.

    Raises:
        ValueError: If the objective or model is unknown, or the rate is not positive.
    """
    import numpy as np  # here: the command line's help names the objectives without these

    from workloads.kv_bytes import kv_bytes_per_token
    from workloads.models import model_of

    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; choose one of {', '.join(OBJECTIVES)}")
    if not flops_per_s > 0:
        raise ValueError(f"flops_per_s must be positive, got {flops_per_s}")
    if objective == "tokens":
        return np.full(depths, float(block_tokens))
    if objective == "bytes":
        return np.full(depths, float(block_tokens * kv_bytes_per_token(model)))
    shape = model_of(model)
    before = (np.arange(depths, dtype=np.float64) + 0.5) * block_tokens
    attention = 4.0 * shape.kv.layers * shape.attention_width * before
    flops: npt.NDArray[np.float64] = block_tokens * (2.0 * shape.active_parameters + attention)
    return flops if objective == "flops" else flops / flops_per_s
