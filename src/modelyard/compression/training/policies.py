"""Answers of stochastic policies as distributions of actions.

The rule by which an answer is understood, in this order:

1. a `torch.distributions.Distribution` is itself; a tuple or dict that holds some is all of them,
   independent of each other;
2. a tensor is the logits of a categorical distribution over its last dimension;
3. a dict with "logits" is the same; one with "mean" (or "loc") and "log_std" (or "std", "scale")
   is a Gaussian with independent components;
4. a tuple of two tensors `(mean, log_std)` is such a Gaussian, where the second has the shape of
   the first or of one row of it.

Whatever tensors remain beside a distribution or in a dict (a value, say) belong to no policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributions
from torch.distributions import Distribution

from modelyard._core.errors import InputError

_MEAN = ("mean", "loc")
_STD = ("std", "scale")


@dataclass(frozen=True)
class Policy:
    """A distribution of actions.

    Attributes:
        parts: Independent of each other, by where they are in the answer; the first dimension of
            each is the batch.
        others: Floating tensors of the answer that belong to no distribution, likewise.
    """

    parts: dict[Any, Distribution]
    others: dict[Any, torch.Tensor]


def has_distribution(answer: Any) -> bool:
    """Whether the answer is or holds, in its first layer, a `Distribution`."""
    return any(isinstance(item, Distribution) for item in _items(answer).values())


def is_gaussian_pair(answer: Any) -> bool:
    """Whether the answer is a tuple of two floating tensors of one shape.

    It may be the (mean, log_std) of a policy, but says so nowhere.
    """
    if not isinstance(answer, tuple) or len(answer) != 2:  # noqa: PLR2004 - a pair
        return False
    first, second = answer
    are_tensors = isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
    return are_tensors and first.shape == second.shape and len(_floats(_items(answer))) == 2  # noqa: PLR2004


def policy_of(answer: Any) -> Policy:
    """The distribution that an answer describes, by the rule of this module.

    Raises:
        InputError: It describes none.
    """
    items = _items(answer)
    parts = {key: item for key, item in items.items() if isinstance(item, Distribution)}
    if parts:
        return Policy(parts, _floats(items))
    if isinstance(answer, torch.Tensor):
        return Policy({"": _categorical(answer)}, {})
    if isinstance(answer, Mapping):
        return _from_names(items)
    tensors = [item for item in items.values() if isinstance(item, torch.Tensor)]
    if len(tensors) == len(items) == 2 and _fits(*tensors):  # noqa: PLR2004 - a pair
        mean, log_std = tensors
        return Policy({"": _gaussian(mean, log_std.exp())}, {})
    raise _not_understood(answer)


def divergence(teacher: Policy, student: Policy) -> torch.Tensor:
    """KL(teacher || student) in nats, in closed form: the mean over the batch of the sum of parts.

    Raises:
        InputError: Different numbers or shapes of distributions, or no closed form.

    Source:
        Rusu et al. (2016), Policy Distillation, equation 3, with temperature 1: what is sampled
        from is matched, not a softened form of it.
    """
    if len(teacher.parts) != len(student.parts):
        raise InputError(
            f"The teacher answers with {len(teacher.parts)} distributions, the student with "
            f"{len(student.parts)}; they must be as many."
        )
    theirs = teacher.parts
    if theirs.keys() == student.parts.keys():
        pairs = [(theirs[key], answer) for key, answer in student.parts.items()]
    else:
        pairs = list(zip(theirs.values(), student.parts.values(), strict=True))
    return torch.stack([_divergence(wanted, answer) for wanted, answer in pairs]).sum()


def negative_log_likelihood(policy: Policy, actions: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of how unlikely the policy finds the actions, in nats.

    Raises:
        InputError: Actions of another shape or that the policy could never take, or a policy of
            several distributions.
    """
    if len(policy.parts) != 1:
        raise InputError(
            f"The policy has {len(policy.parts)} distributions and one tensor of targets: pass "
            "loss_fn=, which says how they belong together, or alpha=1.0."
        )
    (part,) = policy.parts.values()
    shape = part.batch_shape + part.event_shape
    if actions.shape not in {shape, (*shape, 1)} and (*actions.shape, 1) != shape:
        # log_prob would broadcast: (n,) against (n, 1) to (n, n).
        raise InputError(
            f"Targets have shape {tuple(actions.shape)}, actions of this policy {tuple(shape)}."
        )
    actions = actions.reshape(shape)
    _check_support(part, actions)
    log_prob: torch.Tensor = part.log_prob(actions)
    return -_per_sample(log_prob).mean()


def _items(answer: Any) -> dict[Any, Any]:
    if isinstance(answer, Mapping):
        return dict(answer)
    if isinstance(answer, tuple | list):
        return dict(enumerate(answer))
    return {"": answer}


def _floats(items: Mapping[Any, Any]) -> dict[Any, torch.Tensor]:
    return {
        key: item
        for key, item in items.items()
        if isinstance(item, torch.Tensor) and item.is_floating_point()
    }


def _from_names(answer: Mapping[str, Any]) -> Policy:
    others = _floats(answer)
    if "logits" in others:
        return Policy({"": _categorical(others.pop("logits"))}, others)
    mean_name = next((name for name in _MEAN if name in others), None)
    std_name = next((name for name in ("log_std", *_STD) if name in others), None)
    if mean_name is None or std_name is None:
        raise _not_understood(answer)
    mean, spread = others.pop(mean_name), others.pop(std_name)
    if not _fits(mean, spread):
        raise InputError(
            f"{std_name} has shape {tuple(spread.shape)}; it must have that of {mean_name}, "
            f"{tuple(mean.shape)}, or of one row of it."
        )
    std = spread if std_name in _STD else spread.exp()
    return Policy({"": _gaussian(mean, std)}, others)


def _categorical(logits: torch.Tensor) -> Distribution:
    # Not validated: a NaN must become a loss that is not finite, which the loop reports.
    return distributions.Categorical(logits=logits, validate_args=False)


def _gaussian(mean: torch.Tensor, std: torch.Tensor) -> Distribution:
    normal = distributions.Normal(mean, std.expand_as(mean), validate_args=False)
    return distributions.Independent(normal, max(mean.ndim - 1, 0), validate_args=False)


def _fits(mean: torch.Tensor, spread: torch.Tensor) -> bool:
    row = mean.shape[1:]
    return spread.is_floating_point() and spread.shape in {mean.shape, row, (1, *row)}


def _divergence(wanted: Distribution, answer: Distribution) -> torch.Tensor:
    shapes = [(tuple(d.batch_shape), tuple(d.event_shape)) for d in (wanted, answer)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"The teacher's distribution has batch and event shape {shapes[0]}, the student's "
            f"{shapes[1]}; they must be equal."
        )
    try:
        found = distributions.kl_divergence(wanted, answer)
    except NotImplementedError as error:
        raise InputError(
            f"There is no closed form of the divergence of {type(answer).__name__} from "
            f"{type(wanted).__name__}: let both models answer with the same family."
        ) from error
    return _per_sample(found).mean()


def _per_sample(values: torch.Tensor) -> torch.Tensor:
    """Sums over all dimensions but the batch: components that are independent."""
    return values.reshape(values.shape[0] if values.ndim else 1, -1).sum(dim=1)


def _check_support(part: Distribution, actions: torch.Tensor) -> None:
    try:
        support = part.support
    except NotImplementedError:  # a family that does not say what it can give
        return
    if support is not None and not bool(support.check(actions).all()):
        raise InputError(
            f"Some targets are no actions of the policy, a {type(part).__name__} over {support}."
        )


def _not_understood(answer: Any) -> InputError:
    shown = (
        f"a dict of {', '.join(map(str, answer))}"
        if isinstance(answer, Mapping)
        else f"a {type(answer).__name__} of {len(answer)}"
        if isinstance(answer, tuple | list)
        else f"a {type(answer).__name__}"
    )
    return InputError(
        f"The answer, {shown}, describes no distribution of actions. Understood are a tensor of "
        "logits, a torch.distributions.Distribution (or a tuple of them), (mean, log_std), and "
        'dicts with "logits" or with "mean" and "log_std".'
    )
