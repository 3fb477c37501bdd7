"""Attention spelt out, where the exporters lose what it does."""

import inspect
import math
from typing import Any

import torch
from torch.nn import functional

_attention = functional.scaled_dot_product_attention
_multi_head = functional.multi_head_attention_forward
_SIGNATURE = inspect.signature(_multi_head)
_RARE = ("bias_k", "bias_v", "static_k", "static_v")


def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - the signature of what it stands for
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002 - as above
) -> torch.Tensor:
    """`scaled_dot_product_attention` whose rows without any key left answer 0, as torch's do.

    Both exporters write a plain softmax, which gives NaN there: a sequence that is all padding
    would poison what is computed from it. Without a mask, or with other options, it is torch's.
    """
    if attn_mask is None or dropout_p or is_causal or enable_gqa:
        return _attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = query @ key.transpose(-2, -1) * scale
    if attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    else:
        scores = scores + attn_mask
    is_all_masked = scores.amax(-1, keepdim=True) == -math.inf
    # Filled before the softmax too: some runtimes carry its NaN through the choice behind it.
    weights = torch.softmax(scores.masked_fill(is_all_masked, 0.0), -1)
    return weights.masked_fill(is_all_masked, 0.0) @ value


def multi_head_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: torch.Tensor | None,
    in_proj_bias: torch.Tensor | None,
    *args: Any,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """`multi_head_attention_forward` in a form whose sequence length a trace keeps.

    In torch's own, the trace takes the length of keys and values for a constant. Its rarer options
    are left to it.

    Shape:
        - query (length, batch, features), key and value (source, batch, features)
        - Output: (length, batch, features), and (batch, length, source) or (batch, heads, length,
          source) if the weights are asked for.
    """
    bound = _SIGNATURE.bind(
        query,
        key,
        value,
        embed_dim_to_check,
        num_heads,
        in_proj_weight,
        in_proj_bias,
        *args,
        **kwargs,
    )
    bound.apply_defaults()
    options = bound.arguments
    is_rare = any(options[name] is not None for name in _RARE)
    is_rare = is_rare or options["add_zero_attn"] or options["training"]
    if is_rare or query.dim() != 3:  # noqa: PLR2004 - as the shapes above
        return _multi_head(*bound.args, **bound.kwargs)
    q, k, v = _heads(query, key, value, options)
    mask = _merged_mask(q, k, options["attn_mask"], options["key_padding_mask"])
    weights = None
    if options["need_weights"]:
        scores = q * math.sqrt(1.0 / q.shape[-1]) @ k.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        answer = weights @ v
        weights = weights.mean(1) if options["average_attn_weights"] else weights
    elif mask is None and not options["is_causal"]:
        # The exporters write the scale of torch's own as eight operators instead of a number.
        answer = torch.softmax(q * (1.0 / math.sqrt(q.shape[-1])) @ k.transpose(-2, -1), -1) @ v
    else:
        answer = functional.scaled_dot_product_attention(
            q, k, v, mask, is_causal=options["is_causal"] and mask is None
        )
    joined = answer.permute(2, 0, 1, 3).flatten(2)
    return functional.linear(joined, options["out_proj_weight"], options["out_proj_bias"]), weights


def _heads(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, options: dict[str, Any]
) -> list[torch.Tensor]:
    """Projections as (batch, heads, length, width of a head)."""
    if options["use_separate_proj_weight"]:
        weights = [options[f"{name}_proj_weight"] for name in "qkv"]
    else:
        weights = options["in_proj_weight"].chunk(3)
    bias = options["in_proj_bias"]
    biases = [None] * 3 if bias is None else bias.chunk(3)
    n_heads = options["num_heads"]
    return [
        functional.linear(x, w, b).unflatten(-1, (n_heads, -1)).permute(1, 2, 0, 3)
        for x, w, b in zip((query, key, value), weights, biases, strict=True)
    ]


def _merged_mask(
    q: torch.Tensor,
    k: torch.Tensor,
    mask: torch.Tensor | None,
    is_padding: torch.Tensor | None,
) -> torch.Tensor | None:
    """Both masks as one to add to the scores, (batch, heads, length, source) by broadcasting."""
    if mask is not None:
        mask = _additive(mask, q)
        if mask.dim() == 3:  # noqa: PLR2004 - (batch x heads, length, source)
            mask = mask.reshape(q.shape[0], q.shape[1], q.shape[2], k.shape[2])
    if is_padding is not None:
        padding = _additive(is_padding, q)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def _additive(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A mask of truth values, true where nothing may be seen, as numbers to add."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)
