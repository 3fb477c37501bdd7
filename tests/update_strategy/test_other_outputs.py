"""A candidate that answers in another form than production reaches no caller unasked."""

import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError
from modelyard.deployment.forms import answer_form
from modelyard.update_strategy.outputs import is_one_form
from modelyard.version_manager import register_class


@register_class
class Pair(nn.Module):
    """Two answers to everything."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        answer = self.inner(x)
        return answer, answer


@register_class
class Classes(nn.Module):
    """Whole numbers."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        return self.inner(x).long()


def described(*shape, dtype="float32", name="output"):
    return {"name": name, "shape": [None, *shape], "dtype": dtype}


ACTION, VALUE, RISK = (
    described(n, name=name) for n, name in [(2, "action"), (1, "value"), (1, "risk")]
)


@pytest.mark.parametrize(
    ("a", "b", "is_one"),
    [
        ([described(2)], [described(2, dtype="float16")], True),
        ([described(2)], [{**described(2), "name": "logits"}], True),
        ([described(2)], [described(3)], False),
        ([described(2)], [described(2), described(2)], False),
        ([described(2)], [described(1, 2)], False),
        ([described(2)], [described(2, dtype="int64")], False),
        ([described(2, dtype="uint8")], [described(2, dtype="int64")], True),
        ([described(None, 2)], [described(64, 2)], True),
        ([ACTION, VALUE], [VALUE, ACTION], True),
        ([ACTION, VALUE], [ACTION, RISK], False),
        ([ACTION, VALUE], [described(2, name="output_0"), described(1, name="output_1")], True),
        ([ACTION, VALUE], [VALUE, described(2, name="action", dtype="int64")], False),
    ],
)
def test_one_form_is_number_sizes_and_kind(a, b, is_one):
    assert is_one_form(a, b) is is_one


@pytest.mark.parametrize("model", [nn.Linear(4, 3), Pair(), Classes()])
@pytest.mark.parametrize("is_smooth", [True, False])
def test_other_outputs_are_refused_unless_somebody_says_so(yard, ids, model, is_smooth):
    strategy = yard.strategy(yard.deploy())
    other = yard.registry.save_model(model, "ppo", example_input=torch.ones(2, 4))
    with pytest.raises(ConfigError, match=r"answers in another form than .*allow_other_outputs"):
        strategy.update_model(other, smooth_transition=is_smooth)
    assert strategy.get_rollout() is None
    assert yard.production() == ids[0]
    state = strategy.update_model(other, smooth_transition=is_smooth, allow_other_outputs=True)
    assert state["status"] == ("running" if is_smooth else "promoted")


def test_what_was_told_to_go_on_is_no_failure(yard, ids, ask):
    deployment = yard.deploy()
    strategy = yard.strategy(deployment, steps=[50, 100])
    other = yard.registry.save_model(nn.Linear(4, 3), "ppo", example_input=torch.ones(2, 4))
    strategy.update_model(other, allow_other_outputs=True)
    answers = ask(deployment, 20)
    assert {answer.output.shape[1] for answer in answers} == {2, 3}
    assert {answer.error for answer in answers} == {None}


def saved_sequence(yard, n_outputs, n_steps):
    model = nn.Conv1d(3, n_outputs, kernel_size=1)
    return yard.registry.save_model(model, "ppo", example_input=torch.ones(2, 3, n_steps))


def test_outputs_as_long_as_the_inputs_differ_with_the_example_alone(yard):
    first, shorter, wider = (
        saved_sequence(yard, n, steps) for n, steps in [(2, 64), (2, 32), (3, 64)]
    )
    yard.registry.rollback_to_version(first)
    strategy = yard.strategy(yard.deploy())
    with pytest.raises(ConfigError, match=r"output \(any, 3, 64\) float32 instead of"):
        strategy.update_model(wider)
    assert strategy.update_model(shorter)["status"] == "running"


@pytest.mark.parametrize("model", [nn.Linear(4, 3), Pair(), Classes()])
def test_without_signatures_another_form_is_a_failure_that_the_stable_version_answers(
    yard, ask, model
):
    first, other = (yard.registry.save_model(each, "ppo") for each in (nn.Linear(4, 2), model))
    deployment = yard.deploy()
    deployment.serve(first)
    deployment.add_version(other)
    deployment.set_shares({first: 0.5, other: 0.5}, stable=first)
    deployment._routing.served[first].last_answer.note(torch.ones(1, 4), torch.ones(1, 2))
    answers = ask(deployment, 20)
    assert {answer.output.shape for answer in answers} == {(1, 2)}
    assert deployment.health(other).n_errors == deployment.n_answers(other) > 0
    assert deployment.health(first).n_errors == 0


def test_answers_in_a_dict_have_one_form_in_whatever_order():
    one, other = torch.ones(1, 2), torch.ones(1, 3)
    assert answer_form({"a": one, "b": other}) == answer_form({"b": other, "a": one})
    assert answer_form({"a": one}) != answer_form({"b": one})


def test_an_input_of_another_size_is_no_measure_of_the_answer(yard):
    first, second = (
        yard.registry.save_model(nn.Conv1d(3, 2, kernel_size=1), "ppo") for _ in range(2)
    )
    deployment = yard.deploy()
    deployment.serve(first)
    deployment.add_version(second)
    deployment.set_shares({first: 0.5, second: 0.5}, stable=first)
    for i in range(40):
        answer = deployment.predict(torch.ones(1, 3, 5 + i % 7), user_id=f"user-{i}")
        assert answer.error is None
    assert deployment.n_answers(second) > 0


@register_class
class AsLongAsItTakes(nn.Module):
    """Answers that are as long as the input's values make them, of one kind or two."""

    def __init__(self, *, is_pair=False):
        super().__init__()
        self.is_pair = is_pair

    def forward(self, x):
        answer = x.new_zeros(len(x), int(x.flatten()[0]))
        return (answer, answer) if self.is_pair else answer


@pytest.mark.parametrize("is_pair", [False, True])
def test_answers_whose_sizes_come_from_the_values_are_compared_without_them(yard, is_pair):
    first, second = (
        yard.registry.save_model(AsLongAsItTakes(is_pair=is_two), "ppo")
        for is_two in (False, is_pair)
    )
    deployment = yard.deploy()
    deployment.serve(first)
    deployment.add_version(second)
    for length in (1.0, 2.0):  # while both have traffic
        served = deployment._routing.served[first]
        served.last_answer.note(torch.full((1, 4), length), torch.zeros(1, int(length)))
    deployment.set_shares({first: 0.5, second: 0.5}, stable=first)
    for i in range(40):
        answer = deployment.predict(torch.full((1, 4), 1.0 + i % 7), user_id=f"user-{i}")
        assert isinstance(answer.output, torch.Tensor)
    n_answers, n_errors = deployment.n_answers(second), deployment.health(second).n_errors
    assert n_errors == (n_answers if is_pair else 0)
    assert n_answers > 0
