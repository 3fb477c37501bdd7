"""What measuring tells, keeps and shows."""

import json
import os

import numpy as np
import pytest
import torch

from modelyard import Deployment, ManualClock, ModelVersionManager
from modelyard._core.errors import ConfigError, InputError, NotReadyError
from modelyard.inference_optimizer import InferenceOptimizer


def rows(n, width=8, *, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def measured(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", batch_size=16)
    optimizer.optimize_for_inference(rows(2))
    return optimizer


def test_explanation_names_every_candidate_and_what_is_in_use(measured):
    text = measured.explain()
    assert all(name in text for name in ("eager", "torchscript", "onnxruntime", "In use (*)"))
    assert all(f"batch {n}" in text for n in (1, 8, 16))


@pytest.mark.parametrize("call", ["explain", "tuning_record", "report"])
def test_before_measuring_it_says_what_to_call(mlp, call):
    with pytest.raises(NotReadyError, match="optimize_for_inference"):
        getattr(InferenceOptimizer(mlp, device="cpu"), call)()


def test_batch_sizes_that_matter_are_the_callers(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    found = optimizer.optimize_for_inference(rows(2), batch_sizes=(1, 4))
    assert found["backend_by_batch"].keys() == {"1", "4"}
    assert found["chunk_size"] in {1, 4}


def test_choice_is_kept_as_json_and_used_again_without_timing(measured, new_mlp):
    record = json.loads(json.dumps(measured.tuning_record()))
    other = InferenceOptimizer(new_mlp(seed=1), device="cpu", batch_size=16)
    found = other.optimize_for_inference(rows(2), reuse=record)
    assert found["is_reused"]
    assert found["backend_by_batch"] == {
        n: winner["name"] for n, winner in record["winners"].items()
    }
    x = rows(5)
    torch.testing.assert_close(other.predict(x), other.model(x).detach())


def test_choice_made_elsewhere_is_measured_anew_and_says_what_differs(measured, mlp):
    record = measured.tuning_record()
    record["hardware"]["processor"] = "another"
    found = InferenceOptimizer(mlp, device="cpu", batch_size=16).optimize_for_inference(
        rows(2), reuse=record
    )
    assert not found["is_reused"]
    assert "processor" in found["reason"]


def test_what_is_no_record_is_refused(mlp):
    with pytest.raises(ConfigError):
        InferenceOptimizer(mlp, device="cpu").optimize_for_inference(rows(2), reuse={"a": 1})


def test_deployment_uses_the_choice_stored_with_the_version(tmp_path, measured, mlp):
    manager = ModelVersionManager(base_dir=tmp_path)
    version = manager.save_model(mlp, "policy", example_input=rows(2))
    other = InferenceOptimizer(mlp)
    other.optimize_for_inference(rows(2))
    manager.attach(version, "tuning", other.tuning_record())
    deployment = Deployment(manager, "policy", optimize=True, clock=ManualClock())
    deployment.serve(version)
    served = deployment._routing.served[version].optimizer
    assert served._found()["is_reused"]


def test_page_holds_the_table_and_escapes_what_it_shows(tmp_path, measured):
    page = measured.report(tmp_path / "new" / "bench.html", num_iterations=5)
    assert (tmp_path / "new" / "bench.html").read_text(encoding="utf-8") == page
    assert "Inference of Sequential" in page
    assert "onnxruntime" in page


def test_benchmark_without_a_shape_takes_one_sample_of_the_example(measured):
    assert measured.benchmark(num_iterations=5)["median_latency_ms"] > 0


def test_engine_of_the_optimizer_gives_what_predict_gives(measured, mlp):
    xs = [rows(1, seed=seed) for seed in range(40)]
    arrays = [x.numpy() for x in xs]
    with measured.engine() as engine:
        answers = [engine.submit(x).result(10) for x in xs]
        futures = [engine.submit(x) for x in arrays]
        for x, answer, future in zip(xs, answers, futures, strict=True):
            want = mlp(x).detach()
            torch.testing.assert_close(answer, want)
            np.testing.assert_allclose(future.result(10), want.numpy(), rtol=1e-5, atol=1e-5)
        assert engine.stats()["n_cached"] >= 0


@pytest.mark.parametrize("cache_size", [0, 100])
def test_inputs_may_be_changed_after_they_were_handed_to_the_engine(mlp, cache_size):
    optimizer = InferenceOptimizer(mlp, device="cpu", cache_size=cache_size, backend="onnxruntime")
    optimizer.optimize_for_inference(rows(2))
    x = rows(1).numpy()
    want = mlp(rows(1)).detach().numpy()
    with optimizer.engine() as engine:
        futures = []
        for _ in range(50):
            futures.append(engine.submit(x))
            x += 1.0
            x -= 1.0
        for future in futures:
            np.testing.assert_allclose(future.result(10), want, rtol=1e-4, atol=1e-4)


def test_engine_mixes_forms_and_a_wrong_one_fails_alone(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", cache_size=0)
    optimizer.optimize_for_inference(rows(2))
    given = [rows(1).numpy(), rows(3), rows(1, 9).numpy(), rows(2).numpy(), rows(1)]
    with optimizer.engine() as engine:
        futures = [engine.submit(x) for x in given]
        for x, future in zip(given, futures, strict=True):
            if x.shape[1] == 9:
                with pytest.raises(InputError, match="optimised for"):
                    future.result(10)
            else:
                answer = future.result(10)
                assert type(answer) is type(x)
                torch.testing.assert_close(
                    torch.as_tensor(answer), mlp(torch.as_tensor(x)).detach()
                )


def test_example_may_be_an_array_of_another_floating_point_type(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    assert optimizer.optimize_for_inference(rows(2).double().numpy())["candidates"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_child_of_a_fork_gets_an_engine_of_its_own():
    optimizer = InferenceOptimizer(torch.nn.Identity(), device="cpu", cache_size=0)
    assert torch.equal(optimizer.submit(rows(1)).result(10), rows(1))
    child = os.fork()
    if child == 0:
        try:
            is_right = torch.equal(optimizer.submit(rows(1, seed=1)).result(10), rows(1, seed=1))
            os._exit(0 if is_right else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    optimizer.close()
