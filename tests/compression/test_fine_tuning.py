"""Fine-tuning, by itself and as the compressor does it: pruned weights stay at zero."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression import ModelCompressor
from modelyard.compression.training import TrainingPlan, fine_tune_
from modelyard.torchtools.onnx_module import OnnxModule


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, LABELS = normal(64, 8), torch.arange(64) % 4
LOADER = [(X[:32], LABELS[:32]), (X[32:], LABELS[32:])]


def test_task_is_found_by_the_targets(new_mlp):
    cases = [
        (LABELS, lambda y: functional.cross_entropy(y, LABELS)),
        (normal(64, 4), lambda y: functional.mse_loss(y, normal(64, 4))),
    ]
    for targets, reference in cases:
        model = new_mlp()
        want = reference(model(X).detach())
        found = fine_tune_(model, [(X, targets)], TrainingPlan(epochs=1))[0]
        assert found["task_loss"] == found["loss"] == pytest.approx(float(want), rel=1e-5)
        assert found["distillation_loss"] is None
        assert found["is_best"] is None


def test_steps_are_those_of_torchs_adam(new_mlp):
    found, want = new_mlp(), new_mlp()
    fine_tune_(found, LOADER, TrainingPlan(epochs=3, learning_rate=0.01))
    optimizer = torch.optim.Adam(want.parameters(), lr=0.01)
    for _ in range(3):
        for x, y in LOADER:
            optimizer.zero_grad()
            functional.cross_entropy(want(x), y).backward()
            nn.utils.clip_grad_norm_(want.parameters(), 1.0)
            optimizer.step()
    for name, tensor in want.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(8, 4, batch_first=True),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.1),
    ],
    ids=["lstm", "attention"],
)
@pytest.mark.parametrize("amp", [False, True])
def test_sequence_models_are_trained_too(model, amp):
    x = normal(8, 5, 8)
    n_out = 4 if isinstance(model, nn.LSTM) else 8
    plan = TrainingPlan(epochs=8, learning_rate=0.01, amp=amp)
    history = fine_tune_(model, [(x, torch.zeros(8, 5, n_out))], plan)
    assert history[-1]["loss"] < history[0]["loss"]


def test_inputs_of_several_tensors():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(12, 2)

        def forward(self, left, right):
            return self.out(torch.cat([left, right], dim=-1))

    left, right, y = normal(6, 8), normal(6, 4), normal(6, 2)
    losses = set()
    for batch in ((left, right, y), ((left, right), y), ({"left": left, "right": right}, y)):
        torch.manual_seed(0)
        losses.add(fine_tune_(Two(), [batch], TrainingPlan(epochs=1))[0]["loss"])
    assert len(losses) == 1


# ── the compressor ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def compressor(new_mlp):
    return ModelCompressor(new_mlp(8, 32, 4))


def zeros_of(model):
    return {name: p == 0 for name, p in model.named_parameters() if name.endswith("weight")}


def test_pruned_weights_stay_zero_whatever_the_optimizer_does(compressor):
    compressor.fine_tune(LOADER, epochs=2, learning_rate=0.01)  # moves momentum before pruning
    compressor.prune_model(0.5)
    zeros = zeros_of(compressor.model)
    trained = compressor.fine_tune(LOADER, epochs=5, learning_rate=0.05, weight_decay=0.1)
    assert trained is compressor.model
    for name, is_zero in zeros.items():
        values = trained.get_parameter(name)
        assert (values[is_zero] == 0).all()
        assert (values[~is_zero] != 0).all()


def test_fine_tuning_mends_notes_and_drops_what_was_quantized(compressor):
    original = [p.clone() for p in compressor.original_model.parameters()]
    compressor.prune_model(0.5)
    compressor.dynamic_quantization(max_error=0.5)
    assert isinstance(compressor.model, OnnxModule)
    seen = []
    compressor.fine_tune(
        LOADER, epochs=30, learning_rate=0.01, validation_loader=LOADER, progress=seen.append
    )
    assert not isinstance(compressor.model, OnnxModule)
    history = compressor.training_history
    assert history == seen
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]
    assert all(
        torch.equal(a, b)
        for a, b in zip(original, compressor.original_model.parameters(), strict=True)
    )
    step = compressor.get_compression_stats()["steps"][-1]
    assert (step["step"], step["epochs"]) == ("fine_tune", 30)
    assert step["last"] == history[-1]
    json.dumps(step, allow_nan=False)


def test_fine_tuning_goes_on_from_its_checkpoint(compressor, new_mlp, tmp_path):
    def stop(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    other = ModelCompressor(compressor.original_model)
    for one in (compressor, other):
        one.prune_model(0.5)
    want = compressor.fine_tune(LOADER, epochs=4).state_dict()
    with pytest.raises(KeyboardInterrupt):
        other.fine_tune(LOADER, epochs=4, checkpoint=tmp_path / "c", progress=stop)
    found = other.fine_tune(LOADER, epochs=4, checkpoint=tmp_path / "c").state_dict()
    assert all(torch.equal(found[name], want[name]) for name in want)
    assert [record["epoch"] for record in other.training_history] == [1, 2, 3, 4]


def test_a_checkpoint_is_not_loaded_over_other_weights_or_pruning(compressor, tmp_path):
    path = tmp_path / "c"
    compressor.fine_tune(LOADER, epochs=2, checkpoint=path)
    compressor.fine_tune(LOADER, epochs=2, checkpoint=path)  # done: nothing to do
    compressor.prune_model(0.5)
    zeros = zeros_of(compressor.model)
    with pytest.raises(ConfigError, match="other weights are pruned; the model has other weights"):
        compressor.fine_tune(LOADER, epochs=2, checkpoint=path)
    assert all(torch.equal(zeros[n], z) for n, z in zeros_of(compressor.model).items())
    other = tmp_path / "other"
    compressor.fine_tune(LOADER, epochs=2, checkpoint=other)
    compressor.make_pruning_permanent()
    with pytest.raises(ConfigError, match=r"training: other weights are pruned\. Train"):
        compressor.fine_tune(LOADER, epochs=2, checkpoint=other)


def test_weights_from_a_checkpoint_are_held_at_zero_too(new_mlp, tmp_path):
    model = new_mlp()
    fine_tune_(model, LOADER, TrainingPlan(epochs=1), checkpoint=tmp_path / "c")

    def hold():
        with torch.no_grad():
            model[0].weight[0] = 0.0

    plan = TrainingPlan(epochs=1)
    fine_tune_(model, LOADER, plan, checkpoint=tmp_path / "c", after_step=hold)
    assert (model[0].weight[0] == 0).all()


def test_wrong_fine_tuning_is_named(compressor):
    with pytest.raises(ConfigError, match="epochs must be 1 or more"):
        compressor.fine_tune(LOADER, epochs=0)
    with pytest.raises(InputError, match="inputs without targets"):
        compressor.fine_tune([X])
    for parameter in compressor.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="no parameters to train"):
        compressor.fine_tune(LOADER)
    assert compressor.training_history == []


def test_an_adopted_student_is_a_copy_that_pruning_does_not_reach(compressor, new_mlp):
    student = new_mlp(8, 8, 4, seed=5)
    returned = compressor.knowledge_distillation(
        compressor.original_model, student, LOADER, epochs=1, adopt=True
    )
    assert returned is student
    assert not compressor.model.training
    compressor.prune_model(0.5)
    assert all((parameter != 0).all() for parameter in student.parameters())


def test_the_original_is_no_student(compressor, new_mlp):
    original, teacher = compressor.original_model, new_mlp(8, 64, 4, seed=5)
    before = copy.deepcopy(original.state_dict())
    shares = new_mlp(8, 32, 4, seed=6)
    shares[0] = original[0]
    for student in (original, shares):
        with pytest.raises(ConfigError, match=r"shared with.*original.*copy\.deepcopy"):
            compressor.knowledge_distillation(teacher, student, LOADER, epochs=1)
    assert all(torch.equal(before[name], t) for name, t in original.state_dict().items())
    compressor.knowledge_distillation(teacher, copy.deepcopy(original), LOADER, epochs=1)


@pytest.mark.parametrize("data", [[X], [(X, LABELS + 1)], []])
def test_training_that_changes_nothing_leaves_the_quantized_result(compressor, data):
    compressor.dynamic_quantization(max_error=0.5)
    quantized, float_model = compressor.model, compressor._float_model
    with pytest.raises(InputError):
        compressor.fine_tune(data)
    with pytest.raises(InputError):
        compressor.knowledge_distillation(compressor.original_model, float_model, data)
    assert compressor.model is quantized


def test_training_that_breaks_off_after_a_change_drops_the_quantized_result(compressor):
    def stop(record):
        raise KeyboardInterrupt

    compressor.dynamic_quantization(max_error=0.5)
    with pytest.raises(KeyboardInterrupt):
        compressor.fine_tune(LOADER, progress=stop)
    assert compressor.model is compressor._float_model


def test_distillation_through_the_compressor_takes_every_option(compressor, new_mlp, tmp_path):
    teacher, student = compressor.original_model, new_mlp(8, 8, 4, seed=5)
    compressor.knowledge_distillation(
        teacher,
        student,
        LOADER,
        epochs=6,
        loss_fn=functional.cross_entropy,
        features={"1": "1"},
        feature_weight=0.1,
        validation_loader=LOADER,
        metric_fn=lambda outputs, targets: (outputs.argmax(-1) == targets).float().mean(),
        patience=3,
        amp=False,
        weight_decay=0.01,
        schedule="cosine",
        warmup_epochs=0.5,
        checkpoint=tmp_path / "c",
        progress=False,
        adopt=True,
    )
    assert compressor.model is not student
    assert all(
        torch.equal(tensor, student.state_dict()[name])
        for name, tensor in compressor.model.state_dict().items()
    )
    history = compressor.distillation_history
    assert all(record["validation_metric"] is not None for record in history)
    best = max(record["validation_metric"] for record in history)
    accuracy = float((student(X).argmax(-1) == LABELS).float().mean())
    assert accuracy == pytest.approx(best)
