"""Attention that loses channels: the same positions in every head, and the same temperature.

`nn.MultiheadAttention` cuts its projections into heads by position. Channels that went from one
head alone would shift the rows of all others into the wrong head, so each head has to lose the
same ones.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch_pruning
from torch import nn

_logger = logging.getLogger("modelyard")

_HEAD_COUNTS = ("num_heads", "n_heads", "n_head", "num_attention_heads", "heads", "nhead")


class EvenHeads(torch_pruning.importance.GroupMagnitudeImportance):  # type: ignore[misc]  # untyped
    """Magnitude of a group of channels, equal for the same position in every head.

    Where a group runs through attention, channels that must go together (one position of all
    heads; of all attentions in the group) get one rank, no two such sets the same: the n smallest
    are then whole sets wherever n is a multiple of the numbers of heads.
    """

    def __call__(self, group: Any) -> torch.Tensor | None:
        """The importance of each channel of the group; None where it has no weights."""
        importance: torch.Tensor | None = super().__call__(group)
        spans = list(_attention_spans(group))
        if importance is None or not spans:
            return importance
        # Not a number: weights that are all zero, over their mean.
        importance = importance.cpu().float().nan_to_num()
        for attention, positions, roots in spans:
            own = _magnitude(attention)[positions]
            importance[roots] += own / own.mean().clamp_min(1e-12)
        return _ranks(importance, _sets(len(importance), spans))


Span = tuple[nn.MultiheadAttention, torch.Tensor, torch.Tensor]


def _attention_spans(group: Any) -> Iterator[Span]:
    """Each attention of the group, with its channels' positions and indices in the group."""
    for item in group:
        attention = item.dep.target.module
        if isinstance(attention, nn.MultiheadAttention):
            pairs = [
                (i, root)
                for i, root in zip(item.idxs, item.root_idxs, strict=True)
                if root is not None
            ]
            positions, roots = zip(*pairs, strict=True) if pairs else ((), ())
            yield attention, torch.tensor(positions).long(), torch.tensor(roots).long()


def _magnitude(attention: nn.MultiheadAttention) -> torch.Tensor:
    """Sum of squares of the weights that go with each channel, shape (embed_dim,)."""
    width = attention.embed_dim
    squares = attention.in_proj_weight.detach().float().square().cpu()
    out = attention.out_proj.weight.detach().float().square().cpu()
    return squares.sum(1).view(3, width).sum(0) + squares.sum(0) + out.sum(1) + out.sum(0)


def _sets(n: int, spans: list[Span]) -> torch.Tensor:
    """For each of `n` channels, the smallest of those it has to go with."""
    labels = torch.arange(n)
    while True:
        before = labels.clone()
        for attention, positions, roots in spans:
            head_dim = attention.embed_dim // attention.num_heads
            place = positions % head_dim
            lowest = torch.full((head_dim,), n).scatter_reduce(0, place, labels[roots], "amin")
            labels[roots] = lowest[place]
        if torch.equal(labels, before):
            return labels


def _ranks(importance: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The rank of each channel's set by its mean importance."""
    _, members, counts = labels.unique(return_inverse=True, return_counts=True)
    means = torch.zeros(len(counts)).index_add(0, members, importance.cpu().float()) / counts
    ranks = torch.empty_like(means)
    ranks[means.argsort(stable=True)] = torch.arange(len(means), dtype=means.dtype)
    return ranks[members]


def keeps_heads_even(group: Any) -> bool:
    """Whether what a group removes is the same in every head of each attention in it."""
    for item in group:
        attention = item.dep.target.module
        if isinstance(attention, nn.MultiheadAttention):
            head_dim = attention.embed_dim // attention.num_heads
            per_place = Counter(i % head_dim for i in set(item.idxs))
            if any(count != attention.num_heads for count in per_place.values()):
                return False
    return True


def attentions(model: nn.Module) -> dict[str, nn.MultiheadAttention]:
    """The `nn.MultiheadAttention` modules by name."""
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, nn.MultiheadAttention)
    }


def has_own_widths(attention: nn.MultiheadAttention) -> bool:
    """Whether its keys or values have another width: torch-pruning cannot narrow those."""
    return attention.in_proj_weight is None


def head_dims(model: nn.Module) -> dict[str, int]:
    """Channels of a head, for each `nn.MultiheadAttention` by name."""
    return {name: part.embed_dim // part.num_heads for name, part in attentions(model).items()}


def keep_temperature_(model: nn.Module, head_dims_before: Mapping[str, int]) -> None:
    """Scale the queries, in place, so that attention weighs as it did with wider heads.

    Attention divides query times key by the root of the heads' width (Vaswani et al., 2017),
    which is smaller now.
    """
    for name, attention in attentions(model).items():
        width = attention.embed_dim
        factor = math.sqrt(width // attention.num_heads / head_dims_before[name])
        with torch.no_grad():
            for tensor in (attention.in_proj_weight, attention.in_proj_bias):
                if factor != 1.0 and tensor is not None:
                    tensor[:width] *= factor


def warn_of_unknown_heads(before: nn.Module, after: nn.Module) -> None:
    """Name the attention modules of the user's own that have lost channels.

    How they cut channels into heads is in their forward, where nobody can see it.
    """
    now = dict(after.named_modules())
    mixed = [
        name or type(part).__name__
        for name, part in before.named_modules()
        if _own_head_counts(part) and name in now and _shapes(part) != _shapes(now[name])
    ]
    if mixed:
        _logger.warning(
            "Channels went from %s, which cuts them into heads by itself: heads may be mixed. "
            "Check the answers and fine-tune or distil, or name its layers in layers_to_keep.",
            ", ".join(mixed),
        )


def head_counts(model: nn.Module) -> list[int]:
    """The numbers of heads in the model, of the user's own attention too."""
    known = [attention.num_heads for attention in attentions(model).values()]
    return known + [n for part in model.modules() for n in _own_head_counts(part)]


def _own_head_counts(module: nn.Module) -> list[int]:
    if type(module).__module__.startswith("torch.nn.") or attentions(module):
        return []
    counts = [getattr(module, name, None) for name in _HEAD_COUNTS]
    return [n for n in counts if isinstance(n, int) and n > 1]


def _shapes(module: nn.Module) -> list[torch.Size]:
    return [parameter.shape for parameter in module.parameters()]
