"""Attention spelt out, for the exporters that leave out what it does with a row all masked."""

import math

import torch
from torch.nn import functional

_attention = functional.scaled_dot_product_attention


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
