"""The distillation losses against torch's own, and what a student and a teacher may be."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributions as dist
from torch import nn
from torch.nn import functional

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.training import DistillationPlan, distil_
from modelyard.compression.training.losses import distillation_loss, softened_divergence, task_loss
from modelyard.compression.training.objective import is_half_wanted


class Table(nn.Module):
    """Answers with rows of tables, shaped by a function; its gradient is the loss's."""

    def __init__(self, *tables, answer=lambda first, *rest: (first, *rest) if rest else first):
        super().__init__()
        self.tables = nn.ParameterList([nn.Parameter(table.clone()) for table in tables])
        self.answer = answer

    def forward(self, index):
        return self.answer(*(table[index] for table in self.tables))


def plan(**options):
    defaults = {"alpha": 0.7, "epochs": 1, "learning_rate": 1e-9}
    return DistillationPlan(**{**defaults, **options})


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


STUDENT, TEACHER, INDEX = normal(6, 5, seed=1), normal(6, 5, seed=2), torch.arange(6)


def losses(student, teacher, batch, *, loss_fn=None, **options):
    if isinstance(student, torch.Tensor):
        student, teacher = Table(student), Table(teacher)
    return distil_(student, teacher, [batch], plan(**options), loss_fn=loss_fn)[0]


# ── classes, values, vectors ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("temperature", [1.0, 3.0, 10.0])
def test_class_loss_is_hintons(temperature):
    targets = INDEX % 5
    found = losses(STUDENT, TEACHER, (INDEX, targets), temperature=temperature)
    divergence = nn.KLDivLoss(reduction="batchmean")(
        functional.log_softmax(STUDENT / temperature, dim=1),
        functional.softmax(TEACHER / temperature, dim=1),
    )
    task = functional.cross_entropy(STUDENT, targets)
    assert found["distillation_loss"] == pytest.approx(
        float(divergence) * temperature**2, rel=1e-5
    )
    assert found["task_loss"] == pytest.approx(float(task), rel=1e-5)


def test_value_loss_is_the_mean_squared_error():
    found = losses(STUDENT, TEACHER, (INDEX, torch.zeros(6, 5)))
    want = functional.mse_loss(STUDENT, TEACHER)
    assert found["distillation_loss"] == pytest.approx(float(want), rel=1e-5)
    assert found["task_loss"] == pytest.approx(float(STUDENT.square().mean()), rel=1e-5)


def test_embedding_loss_adds_the_angle():
    found = losses(STUDENT, TEACHER, INDEX, task="embedding", alpha=1.0)
    angle = 1 - functional.cosine_similarity(STUDENT, TEACHER).mean()
    want = functional.mse_loss(STUDENT, TEACHER) + angle
    assert found["distillation_loss"] == pytest.approx(float(want), rel=1e-5)
    assert found["task_loss"] is None


@given(st.floats(0.0, 1.0), st.sampled_from(["classification", "regression", "embedding"]))
def test_the_loss_is_linear_in_alpha(alpha, task):
    targets = INDEX % 5 if task == "classification" else torch.zeros(6, 5)
    found = losses(STUDENT, TEACHER, (INDEX, targets), alpha=alpha, task=task)
    want = alpha * found["distillation_loss"]
    want += 0.0 if alpha == 1.0 else (1 - alpha) * found["task_loss"]
    assert found["loss"] == pytest.approx(want, rel=1e-5)


@given(st.integers(0, 2**31), st.floats(0.1, 20.0), st.integers(1, 7), st.integers(2, 9))
def test_divergence_is_never_negative_and_zero_for_equals(seed, temperature, n, n_classes):
    answer, wanted = 5 * normal(n, n_classes, seed=seed), 5 * normal(n, n_classes, seed=seed + 1)
    assert float(softened_divergence(answer, wanted, temperature)) >= -1e-6
    same = softened_divergence(answer, answer, temperature)
    assert float(same) == pytest.approx(0.0, abs=1e-6)
    shifted = softened_divergence(answer, answer + 3.0, temperature)  # logits have no origin
    assert float(shifted) == pytest.approx(0.0, abs=1e-3)


def test_of_several_outputs_all_are_matched():
    student = Table(STUDENT, normal(6, 3), torch.ones(6, dtype=torch.long).float())
    teacher = Table(TEACHER, normal(6, 3, seed=3), torch.zeros(6))
    wanted = normal(6, 3, seed=3)
    unit = wanted.var(dim=0, unbiased=False).mean()
    rest = functional.mse_loss(normal(6, 3), wanted) / unit + 1.0  # a constant 0 has no unit
    for task in ("regression", "classification"):
        found = losses(student, teacher, INDEX, task=task, alpha=1.0)
        first = distillation_loss(STUDENT, TEACHER, task=task, temperature=3.0)
        assert found["distillation_loss"] == pytest.approx(float(first + rest), rel=1e-5)


def test_outputs_belong_together_by_name_and_whole_numbers_are_left_out():
    def swapped(first, second):
        return {"second": second, "first": first, "arg": first.argmax(-1)}

    student = Table(STUDENT, normal(6, 3), answer=lambda a, b: {"first": a, "second": b})
    teacher = Table(TEACHER, normal(6, 3), answer=swapped)
    found = losses(student, teacher, INDEX, task="regression", alpha=1.0)
    want = functional.mse_loss(STUDENT, TEACHER)
    assert found["distillation_loss"] == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("task", ["classification", "regression", "embedding", "policy"])
def test_the_scale_of_a_further_output_has_no_weight(task):
    def answer(first, value):
        return {"logits": first, "value": value}

    values = normal(6, 1, seed=4), normal(6, 1, seed=5)
    found = [
        losses(
            Table(STUDENT, scale * values[0] + offset, answer=answer),
            Table(TEACHER, scale * values[1] + offset, answer=answer),
            INDEX,
            task=task,
            alpha=1.0,
        )["distillation_loss"]
        for scale, offset in ((1.0, 0.0), (3000.0, 0.0), (3000.0, -5e5), (1e-3, 0.0))
    ]
    assert found == pytest.approx([found[0]] * 4, rel=1e-3)


@pytest.mark.parametrize("n_samples", [1, 6])
@pytest.mark.parametrize("value", [3000.1, 1e-3, 0.0])
def test_a_further_output_without_variance_is_measured_by_its_size(n_samples, value):
    wanted = torch.full((n_samples, 1), value)
    answer = wanted + 0.1
    first = STUDENT[:n_samples]
    found = distillation_loss((first, answer), (first, wanted), task="regression", temperature=1.0)
    want = 0.01 / (value**2 or 1.0)
    assert float(found) == pytest.approx(want, rel=2e-2)


def warnings_of(caplog, *args, **options):
    caplog.clear()
    losses(*args, **options)
    return [record.getMessage() for record in caplog.records]


def test_temperature_without_effect_is_warned_of_once(caplog):
    (told,) = warnings_of(caplog, STUDENT, TEACHER, INDEX, alpha=1.0, temperature=2.0, epochs=3)
    assert "temperature=2.0 has no effect: the task is regression (found by" in told
    assert "task='classification'" in told
    (told,) = warnings_of(
        caplog, STUDENT, TEACHER, INDEX, alpha=1.0, temperature=2.0, task="embedding"
    )
    assert "the task is embedding, and" in told
    for options in ({}, {"task": "classification", "temperature": 2.0}):
        assert not warnings_of(caplog, STUDENT, TEACHER, INDEX, alpha=1.0, **options)
    assert not warnings_of(caplog, STUDENT, TEACHER, (INDEX, INDEX % 5), temperature=2.0)


def test_a_pair_that_may_be_a_policy_is_warned_of(caplog):
    pair = Table(STUDENT, normal(6, 5)), Table(TEACHER, normal(6, 5, seed=3))
    (told,) = warnings_of(caplog, *pair, INDEX, alpha=1.0, epochs=2)
    assert "pass task='policy'" in told
    for task in ("regression", "policy"):
        assert not warnings_of(caplog, *pair, INDEX, alpha=1.0, task=task)
    other = Table(STUDENT, normal(6, 1)), Table(TEACHER, normal(6, 1))
    assert not warnings_of(caplog, *other, INDEX, alpha=1.0)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (Table(STUDENT), "1 floating tensors, the teacher with 2"),
        (Table(STUDENT, normal(6, 4)), r"shape \(6, 4\), the teacher with \(6, 3\)"),
        (Table(STUDENT, answer=lambda t: t.argmax(-1)), "holds no floating tensor"),
    ],
)
def test_answers_that_do_not_fit_are_refused(student, message):
    with pytest.raises(InputError, match=message):
        losses(student, Table(TEACHER, normal(6, 3)), INDEX, alpha=1.0)


# ── task loss ───────────────────────────────────────────────────────────────────────────────


def test_loss_function_of_the_caller_sees_all_outputs():
    seen = []

    def loss_fn(outputs, targets):
        seen.append((len(outputs), targets["label"].shape))
        return outputs[0].square().mean()

    student, teacher = Table(STUDENT, normal(6, 3)), Table(TEACHER, normal(6, 3))
    batch = (INDEX, {"label": INDEX})
    found = losses(student, teacher, batch, task="regression", loss_fn=loss_fn)
    assert seen == [(2, (6,))]
    assert found["task_loss"] == pytest.approx(float(STUDENT.square().mean()), rel=1e-5)


def test_loss_function_must_give_a_scalar_and_have_a_weight():
    for wrong in (lambda outputs, targets: outputs, lambda outputs, targets: 1.0):
        with pytest.raises(InputError, match="must return a tensor with one element"):
            losses(STUDENT, TEACHER, (INDEX, INDEX), loss_fn=wrong)
    with pytest.raises(ConfigError, match=r"no weight with alpha=1\.0"):
        losses(STUDENT, TEACHER, INDEX, alpha=1.0, loss_fn=nn.functional.mse_loss)


@pytest.mark.parametrize(
    ("answer", "targets"), [((6, 1), (6,)), ((6,), (6, 1)), ((6, 2, 1), (6, 2)), ((6, 2), (6, 2))]
)
def test_targets_never_broadcast(answer, targets):
    values, wanted = normal(*answer), normal(*targets, seed=1)
    found = task_loss(values, wanted, task="regression", loss_fn=None)
    want = (values.reshape(-1) - wanted.reshape(-1)).square().mean()
    assert float(found) == pytest.approx(float(want), rel=1e-6)


@pytest.mark.parametrize(
    ("answer", "targets", "task", "message"),
    [
        (normal(6, 6), normal(6), "regression", r"Targets have shape \(6,\), answers \(6, 6\)"),
        (normal(6, 1), torch.ones(6).long(), "classification", "have one class"),
        (normal(6, 5), INDEX, "classification", "Class label 5 is not in 0 to 4"),
        (normal(6, 5), INDEX - 1, "classification", "Class label -1 is not in 0 to 4"),
        (normal(6, 5), normal(6), "classification", "need whole numbers of shape"),
        (normal(6, 5, 4), INDEX[:, None] % 4, "classification", r"of shape \(6, 5\)"),
        (normal(6, 5), {"label": INDEX}, "classification", "a dict need loss_fn="),
    ],
)
def test_targets_that_do_not_fit_are_refused(answer, targets, task, message):
    with pytest.raises(InputError, match=message):
        task_loss(answer, targets, task=task, loss_fn=None)


def test_labels_may_be_a_column_or_probabilities():
    labels = INDEX % 5
    want = functional.cross_entropy(STUDENT, labels)
    for targets in (labels[:, None], functional.one_hot(labels, 5).double()):
        found = task_loss(STUDENT, targets, task="classification", loss_fn=None)
        torch.testing.assert_close(found, want)
    column = losses(STUDENT, TEACHER, (INDEX, labels[:, None]))  # "auto" finds it too
    assert column["task_loss"] == pytest.approx(float(want), rel=1e-5)


# ── features ────────────────────────────────────────────────────────────────────────────────


def network(width=8, *, seed=0, n_out=3):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, n_out))


X = normal(16, 4)


def test_features_of_equal_width_are_compared_as_they_are():
    student, teacher = network(seed=1), network()
    with torch.no_grad():
        want = functional.mse_loss(student[:2](X), teacher[:2](X))
    found = distil_(student, teacher, [X], plan(alpha=1.0, features={"1": "1"}, feature_weight=2))
    assert found[0]["feature_loss"] == pytest.approx(float(want), rel=1e-5)
    total = found[0]["distillation_loss"] + 2 * found[0]["feature_loss"]
    assert found[0]["loss"] == pytest.approx(total, rel=1e-5)


class Convolutional(nn.Module):
    def __init__(self, n_channels):
        super().__init__()
        self.conv = nn.Conv1d(4, n_channels, 3, padding=1)
        self.out = nn.Linear(n_channels, 2)

    def forward(self, x):
        return self.out(self.conv(x).mean(-1))


@pytest.mark.parametrize(
    ("make", "x", "layer"),
    [(network, X, "0"), (Convolutional, normal(16, 4, 9), "conv")],
)
def test_features_of_unequal_width_go_through_a_seeded_projector(make, x, layer):
    torch.manual_seed(0)
    teacher, student = make(8), make(5)
    names = set(student.state_dict())
    runs = []
    for noise in range(2):
        torch.manual_seed(noise)  # the caller's random state has no part in it
        copied = copy.deepcopy(student)
        options = {"alpha": 1.0, "epochs": 30, "learning_rate": 0.02, "features": {layer: layer}}
        history = distil_(copied, teacher, [x], plan(**options))
        assert history[-1]["feature_loss"] < 0.7 * history[0]["feature_loss"]
        assert set(copied.state_dict()) == names
        runs.append(copied.state_dict())
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in names)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"9": "0"}, r"teacher \(Sequential\) has no layer '9'. Near names: 0, 1, 2"),
        ({"0": "first"}, r"student \(Sequential\) has no layer 'first'"),
    ],
)
def test_wrong_layer_names_are_named_with_those_near(features, message):
    with pytest.raises(ConfigError, match=message):
        distil_(network(seed=1), network(), [X], plan(alpha=1.0, features=features))


def test_features_that_differ_in_more_than_the_width_are_refused():
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.Linear(2, 3), nn.Flatten(), nn.Linear(6, 3)
    )
    with pytest.raises(InputError, match="may differ in one dimension"):
        distil_(network(5), teacher, [X], plan(alpha=1.0, features={"1": "0"}))


def test_hooks_are_gone_after_success_and_after_an_error():
    def interrupt(record):
        raise KeyboardInterrupt

    for progress, error in ((None, None), (interrupt, KeyboardInterrupt)):
        student, teacher = network(seed=1), network()
        options = plan(alpha=1.0, features={"0": "0"})
        if error is None:
            distil_(student, teacher, [X], options, progress=progress)
        else:
            with pytest.raises(error):
                distil_(student, teacher, [X], options, progress=progress)
        assert not any(m._forward_hooks for m in (*student.modules(), *teacher.modules()))


# ── who may teach whom ──────────────────────────────────────────────────────────────────────


def test_teacher_and_random_state_are_left_alone():
    teacher = nn.Sequential(nn.Linear(5, 5), nn.Dropout()).train()
    before = [p.clone() for p in teacher.parameters()]
    state = torch.get_rng_state()
    distil_(nn.Linear(5, 5), teacher, [STUDENT], plan(alpha=1.0))
    assert teacher.training
    assert teacher[1].training
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert all(p.grad is None for p in teacher.parameters())
    # The student was made in between, by the caller.
    torch.set_rng_state(state)
    student = nn.Linear(5, 5)
    state = torch.get_rng_state()
    distil_(student, teacher, [STUDENT], plan(alpha=1.0))
    assert torch.equal(torch.get_rng_state(), state)


def test_student_that_shares_with_its_teacher_is_refused():
    teacher = network()
    shares_module = nn.Sequential(teacher[0], nn.Linear(8, 3))
    shares_memory = network(seed=1)
    shares_memory.load_state_dict(teacher.state_dict(), assign=True)
    with pytest.raises(ConfigError, match=r"student is the teacher.*copy\.deepcopy"):
        distil_(teacher, teacher, [X], plan(alpha=1.0))
    for student in (shares_module, shares_memory):
        with pytest.raises(ConfigError, match="'0' is shared with the teacher"):
            distil_(student, teacher, [X], plan(alpha=1.0))


def test_frozen_parameters_and_their_statistics_stay():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    for frozen in (student[0], student[1]):
        frozen.requires_grad_(False)
    before = copy.deepcopy(student.state_dict())
    distil_(student, network(), [X], plan(alpha=1.0, learning_rate=0.1, epochs=2))
    after = student.state_dict()
    for name, tensor in before.items():
        is_frozen = name.startswith(("0.", "1."))
        assert torch.equal(after[name], tensor) == is_frozen, name
    assert not student[0].weight.requires_grad


def test_dropout_is_on_only_where_there_are_targets():
    def hidden(alpha):
        torch.manual_seed(0)
        student, seen = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), []
        student[1].register_forward_hook(lambda module, x, y: seen.append(module.training))
        batch = X if alpha == 1.0 else (X, torch.zeros(16, 3))
        distil_(student, network(), [batch], plan(alpha=alpha))
        return seen

    assert hidden(1.0) == [False]
    assert hidden(0.9) == [True]


def test_bfloat16_training_gives_float32_weights_near_those_of_float32():
    answers = {}
    for amp in (False, True, "auto"):
        student = network(seed=1)
        options = plan(alpha=1.0, epochs=20, learning_rate=0.01, amp=amp)
        history = distil_(student, network(), [X], options)
        assert all(p.dtype == torch.float32 for p in student.parameters())
        assert history[-1]["loss"] < history[0]["loss"]
        answers[amp] = student(X)
    assert torch.equal(answers["auto"], answers[False])  # no half precision on a CPU unasked
    assert not torch.equal(answers[True], answers[False])
    torch.testing.assert_close(answers[True], answers[False], rtol=0.05, atol=0.05)


def test_auto_means_bfloat16_only_on_cuda_devices_that_have_it(monkeypatch):
    for is_supported in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, ok=is_supported, **_: ok)
        assert is_half_wanted(plan(), torch.device("cuda")) == is_supported
        assert not is_half_wanted(plan(), torch.device("cpu"))
        assert is_half_wanted(plan(amp=True), torch.device("cpu"))
        assert not is_half_wanted(plan(amp=False), torch.device("cuda"))


def test_teacher_on_another_device_whose_answer_cannot_be_moved_is_named():
    teacher = Table(TEACHER, answer=lambda t: dist.Categorical(logits=t, validate_args=False))
    with pytest.raises(ConfigError, match=r"on meta, the student on cpu.*move the teacher"):
        losses(Table(STUDENT), teacher.to("meta"), INDEX, task="policy", alpha=1.0)


def test_half_precision_answers_are_compared_and_judged_in_float32():
    class Named(dict):
        @property
        def logits(self):
            return self["logits"]

    @dataclasses.dataclass
    class Record:
        logits: torch.Tensor

    seen = []

    def loss_fn(outputs, targets):
        seen.append((type(outputs), outputs.logits.dtype))
        return functional.mse_loss(outputs.logits, targets)

    for kind in (Named, Record):

        class Answering(nn.Module):
            def __init__(self):
                super().__init__()
                self.out = nn.Linear(4, 3)

            def forward(self, x, kind=kind):
                return kind(logits=self.out(x))

        batch = (X, torch.zeros(16, 3))
        options = plan(alpha=0.5, amp=True, task="regression")
        distil_(Answering(), Answering(), [batch], options, loss_fn=loss_fn)
    assert seen == [(Named, torch.float32), (Record, torch.float32)]


# ── policies ────────────────────────────────────────────────────────────────────────────────


def gaussian(mean, log_std):
    return dist.Independent(dist.Normal(mean, log_std.exp()), 1)


POLICIES = {
    "logits": (lambda a, b: a, lambda a, b: dist.Categorical(logits=a)),
    "categorical": (
        lambda a, b: dist.Categorical(logits=a),
        lambda a, b: dist.Categorical(logits=a),
    ),
    "dict of logits": (lambda a, b: {"logits": a}, lambda a, b: dist.Categorical(logits=a)),
    "pair": (lambda a, b: (a, b), gaussian),
    "dict": (lambda a, b: {"log_std": b, "mean": a}, gaussian),
    "dict of std": (lambda a, b: {"loc": a, "scale": b.exp()}, gaussian),
    "components": (lambda a, b: dist.Normal(a, b.exp()), gaussian),
    "independent": (gaussian, gaussian),
}


@pytest.mark.parametrize("name", POLICIES)
def test_policy_loss_is_the_divergence_from_teacher_to_student(name):
    answer, reference = POLICIES[name]
    spread, other = 0.3 * normal(6, 5, seed=4), 0.3 * normal(6, 5, seed=5)
    found = losses(
        Table(STUDENT, spread, answer=answer),
        Table(TEACHER, other, answer=answer),
        INDEX,
        task="policy",
        alpha=1.0,
    )
    want = dist.kl_divergence(reference(TEACHER, other), reference(STUDENT, spread)).mean()
    assert found["distillation_loss"] == pytest.approx(float(want), rel=1e-5)
    reverse = dist.kl_divergence(reference(STUDENT, spread), reference(TEACHER, other)).mean()
    assert abs(float(want - reverse)) > 1e-3


def test_parts_of_a_policy_belong_together_by_name():
    def swapped(a, b):
        return {"value": b[:, 0], "cost": b[:, 1], "size": dist.Normal(b, 1.0), "side": sides(a)}

    def sides(logits):
        return dist.Categorical(logits=logits)

    def answer(a, b):
        return {"side": sides(a), "size": dist.Normal(b, 1.0), "cost": b[:, 1], "value": b[:, 0]}

    rows = normal(6, 5), normal(6, 2)
    found = losses(Table(*rows, answer=answer), Table(*rows, answer=swapped), INDEX, alpha=1.0)
    assert found["distillation_loss"] == pytest.approx(0.0, abs=1e-6)


def test_spread_without_a_batch_is_that_of_every_row():
    def answer(mean, _):
        return mean, torch.zeros(5)

    found = losses(
        Table(STUDENT, STUDENT, answer=answer),
        Table(TEACHER, TEACHER, answer=answer),
        INDEX,
        task="policy",
        alpha=1.0,
    )
    want = 0.5 * (STUDENT - TEACHER).square().sum(-1).mean()
    assert found["distillation_loss"] == pytest.approx(float(want), rel=1e-5)


def test_policies_of_several_parts_and_a_value_are_matched_in_all():
    def answer(logits, mean):
        return dist.Categorical(logits=logits), dist.Normal(mean, 1.0), mean[:, 0]

    found = losses(
        Table(STUDENT, normal(6, 2), answer=answer),
        Table(TEACHER, normal(6, 2, seed=3), answer=answer),
        INDEX,
        task="auto",  # a distribution says what it is
        alpha=1.0,
    )
    kl = dist.kl_divergence(dist.Categorical(logits=TEACHER), dist.Categorical(logits=STUDENT))
    gap = normal(6, 2) - normal(6, 2, seed=3)
    value = gap[:, 0].square().mean() / normal(6, 2, seed=3)[:, 0].var(unbiased=False)
    want = kl.mean() + 0.5 * gap.square().sum(-1).mean() + value
    assert found["distillation_loss"] == pytest.approx(float(want), rel=1e-5)


@given(st.integers(0, 2**31))
def test_policy_divergence_is_never_negative_and_zero_for_equals(seed):
    one, two = (normal(3, 2, seed=seed), normal(3, 2, seed=seed + 1))
    for wanted in ((one, two), one):
        for answer in ((two, one), two):
            if type(answer) is type(wanted):
                found = distillation_loss(answer, wanted, task="policy", temperature=1.0)
                assert float(found) >= -1e-6
        same = distillation_loss(wanted, wanted, task="policy", temperature=1.0)
        assert float(same) == pytest.approx(0.0, abs=1e-6)


def test_task_loss_of_a_policy_is_how_unlikely_the_actions_are():
    found = task_loss(STUDENT, INDEX % 5, task="policy", loss_fn=None)
    torch.testing.assert_close(found, functional.cross_entropy(STUDENT, INDEX % 5))
    actions, spread = normal(6, 5, seed=7), torch.zeros(5)
    found = task_loss((STUDENT, spread), actions, task="policy", loss_fn=None)
    want = -dist.Normal(STUDENT, 1.0).log_prob(actions).sum(-1).mean()
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize(
    ("answer", "targets", "message"),
    [
        (STUDENT, INDEX, "no actions of the policy"),
        ((STUDENT, torch.zeros(5)), normal(6), r"Targets have shape \(6,\), actions.*\(6, 5\)"),
        ((dist.Normal(STUDENT, 1.0), dist.Normal(STUDENT, 1.0)), STUDENT, "has 2 distributions"),
        ({"value": STUDENT}, STUDENT, "a dict of value, describes no distribution"),
        ((STUDENT, normal(6, 1)), STUDENT, "a tuple of 2, describes no distribution"),
        ({"mean": STUDENT, "log_std": normal(3)}, STUDENT, r"log_std has shape \(3,\)"),
        ("buy", STUDENT, "a str, describes no distribution"),
    ],
)
def test_what_is_no_policy_is_refused(answer, targets, message):
    with pytest.raises(InputError, match=message):
        task_loss(answer, targets, task="policy", loss_fn=None)


@pytest.mark.parametrize(
    ("answer", "wanted", "message"),
    [
        (dist.Normal(STUDENT, 1.0), dist.Cauchy(STUDENT, torch.ones(())), "no closed form"),
        (dist.Normal(STUDENT, 1.0), dist.Normal(STUDENT[:, :1], 1.0), "they must be equal"),
        (STUDENT, (dist.Categorical(logits=STUDENT), dist.Normal(STUDENT, 1.0)), "as many"),
    ],
)
def test_policies_that_do_not_fit_each_other_are_refused(answer, wanted, message):
    with pytest.raises(InputError, match=message):
        distillation_loss(answer, wanted, task="policy", temperature=1.0)
