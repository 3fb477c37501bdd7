"""Targets: met, missed, or not to be told."""

import pytest

from modelyard.inference_optimizer.targets import Targets, checked

BUSY = {
    "p99_latency_ms": 20.0,
    "throughput_qps": 250.0,
    "mean_latency_ms": 4.0,
    "gpu_utilization": 0.9,
}
WARM = {"max_size": 10, "hits": 9, "misses": 1, "hit_rate": 0.9}


def verdicts(stats=BUSY, cache=WARM, targets=None):
    return {c["name"]: c["is_met"] for c in checked(targets or Targets(), stats, cache)}


def test_all_met():
    assert verdicts() == {
        "p99_latency_ms": True,
        "throughput_qps": True,
        "hit_rate": True,
        "gpu_utilization": True,
    }


@pytest.mark.parametrize(
    ("changes", "name", "is_met"),
    [
        ({"p99_latency_ms": 100.0}, "p99_latency_ms", False),
        ({"p99_latency_ms": None}, "p99_latency_ms", None),
        ({"throughput_qps": 5.0}, "throughput_qps", None),  # could answer 250
        ({"throughput_qps": 5.0, "mean_latency_ms": 20.0}, "throughput_qps", False),
        ({"throughput_qps": 0.0, "mean_latency_ms": None}, "throughput_qps", None),
        ({"gpu_utilization": None}, "gpu_utilization", None),
        ({"gpu_utilization": 0.7}, "gpu_utilization", False),
    ],
)
def test_what_the_statistics_say(changes, name, is_met):
    assert verdicts({**BUSY, **changes})[name] is is_met


@pytest.mark.parametrize(
    ("changes", "is_met"),
    [
        ({"hit_rate": 0.5}, False),
        ({"max_size": 0}, None),
        ({"hits": 0, "misses": 0, "hit_rate": 0.0}, None),
    ],
)
def test_what_the_cache_says(changes, is_met):
    assert verdicts(cache={**WARM, **changes})["hit_rate"] is is_met


def test_target_that_is_none_is_not_checked():
    assert verdicts(targets=Targets(hit_rate=None, gpu_utilization=None)).keys() == {
        "p99_latency_ms",
        "throughput_qps",
    }


def test_what_is_not_met_says_why():
    (latency, *_) = checked(Targets(), {**BUSY, "p99_latency_ms": 150.0}, WARM)
    assert latency["reason"] == "150 against 100"
