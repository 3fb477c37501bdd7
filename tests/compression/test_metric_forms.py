"""Which form a metric function is called in, and that measuring leaves the original trainable."""

import inspect

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard._core.errors import ConfigError
from modelyard.compression.metric_forms import form_of
from modelyard.compression.scoring import score_of


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def function_of(*names):
    def metric(*_):
        return 0.0

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    metric.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    return metric


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (("model", "test_loader"), "model"),
        (("m", "data"), "model"),
        (("predictor", "loader"), "model"),
        (("pred_model", "x"), "model"),
        (("net", "labelled_loader"), "model"),
        (("model", "label_batches"), "model"),
        (("f", "labelled"), "model"),
        (("policy_net", "y"), "model"),
        (("outputs", "targets"), "outputs first"),
        (("y_pred", "y_true"), "outputs first"),
        (("yhat", "y"), "outputs first"),
        (("input", "target"), "outputs first"),
        (("y", "t"), "outputs first"),
        (("logits", "x"), "outputs first"),
        (("y_true", "y_pred"), "targets first"),
        (("y_true", "y_score"), "targets first"),
        (("labels", "predictions"), "targets first"),
        (("expected", "got"), "targets first"),
        (("y", "y_hat"), "targets first"),
        (("y_test", "y_hat"), "targets first"),
        (("actual", "predicted"), "targets first"),
        (("gold", "pred"), "targets first"),
        (("true_labels", "pred_labels"), "targets first"),
        (("labels_true", "labels_pred"), "targets first"),
        (("true_label", "predicted_label"), "targets first"),
        (("model_output", "target"), "outputs first"),
        (("net_pred", "label"), "outputs first"),
        (("policy_out", "target"), "outputs first"),
        (("pred_data", "true_data"), "outputs first"),
        (("pred_labels", "true_labels"), "outputs first"),
        (("forecast", "actual"), "outputs first"),
    ],
)
def test_names_tell_the_form(names, form):
    assert form_of(function_of(*names)) == form


def test_a_metric_of_one_argument_is_refused_and_a_loss_takes_outputs_first():
    with pytest.raises(ConfigError, match=r"it takes \(x\)"):
        form_of(function_of("x"))
    assert form_of(nn.MSELoss()) == "outputs first"


def r2(y_true, y_pred):
    residual = ((y_true - y_pred) ** 2).sum()
    return float(1 - residual / ((y_true - y_true.mean()) ** 2).sum())


def test_metrics_in_the_order_of_sklearn_are_given_the_targets_first(new_mlp):
    model, inputs, targets = new_mlp(), normal(64, 8), normal(64, 4, seed=1)
    with torch.no_grad():
        right = r2(targets, model(inputs))
    compressor = ModelCompressor(model)
    found = compressor.evaluate_compressed_model([(inputs, targets)], r2)
    assert found["original_metric"] == pytest.approx(right)
    compressor.fine_tune(
        [(inputs, targets)],
        1,
        learning_rate=1e-9,
        validation_loader=[(inputs, targets)],
        metric_fn=r2,
        progress=False,
    )
    history = compressor.training_history
    assert history[0]["validation_metric"] == pytest.approx(right, abs=1e-3)


def test_a_model_by_a_misleading_name_is_still_given_the_model(new_mlp):
    def metric(pred, y):
        return float(sum(pred(x).mean() for x, _ in y))

    found = ModelCompressor(new_mlp()).evaluate_compressed_model(
        [(normal(8, 8), normal(8, 4))], metric
    )
    assert found["original_metric"] == pytest.approx(found["compressed_metric"])


def test_a_metric_that_fails_in_both_forms_tells_its_own_error(new_mlp):
    def metric(outputs, targets):
        raise ValueError("my own reason")

    with pytest.raises(ValueError, match="my own reason"):
        ModelCompressor(new_mlp()).evaluate_compressed_model(
            [(normal(8, 8), normal(8, 4))], metric
        )


class Caching(nn.Module):
    """Keeps a tensor of its first call, as rotary positions do."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.cache = nn.Linear(16, 64), nn.Linear(64, 4), None

    def forward(self, x):
        if self.cache is None:
            self.cache = torch.linspace(0.5, 1.5, x.shape[-1])
        return self.b(torch.relu(self.a(x * self.cache)))


MEASURES = {
    "error": lambda c, data: c.error_to_original(),
    "report": lambda c, data: c.report(),
    "evaluate": lambda c, data: c.evaluate_compressed_model([(data, data[:, :4])], r2),
    "quantize": lambda c, data: c.dynamic_quantization(),
    "search": lambda c, data: c.search(lambda m: float(m(data).mean()), time_budget_s=0.5),
    "score": lambda c, data: score_of(c.original_model, data).of(c.model),
    "remove channels": lambda c, data: c.prune_model(0.3, "structured"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEASURES)
def test_the_original_can_be_trained_after_it_was_measured(name):
    model, data = Caching().eval(), normal(64, 16)
    compressor = ModelCompressor(model, validation_data=data)
    MEASURES[name](compressor, data)
    for one in (model, compressor._float_model):
        one(data.clone().requires_grad_()).sum().backward()
