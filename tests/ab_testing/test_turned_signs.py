"""Drawdowns that are recorded below zero: the larger number is the better one."""

import json
from pathlib import Path

import numpy as np
import pytest

from modelyard import ABTest, ModelVariant
from modelyard.ab_testing import Metric


def experiment(sign, metric, **options):
    """An experiment in which b's drawdowns are ten times as large as a's."""
    variants = [ModelVariant(name, lambda x: x) for name in ("a", "b")]
    test = ABTest("t", variants, metric, seed=0, cycle_s=0, **options)
    generator = np.random.default_rng(0)
    for name, size in (("a", 0.05), ("b", 0.5)):
        for value in np.abs(generator.normal(size, 0.01, 400)):
            test.record_result(name, {"max_dd": sign * float(value), "ret": float(size)})
    return test


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["mean", "quantile", "rank"])
def test_the_smaller_drawdown_wins_whichever_sign_it_has(kind, sign, tmp_path):
    test = experiment(sign, "max_dd", metric_type=kind)
    compared = test.compare_variants("a", "b")
    assert compared["result"]["winner"] == "a"
    assert compared["lower_is_better"] is (sign > 0)
    assert test.get_winner() == "a"
    [line] = [line for line in test.compare_all() if line["metric"] == "max_dd"]
    assert line["better"] == "a"
    told = json.loads(Path(test.export_results(tmp_path / "t.json")).read_text())
    assert told["lower_is_better"] == (["max_dd"] if sign > 0 else [])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_guardrail_on_the_drawdown_holds_whichever_sign_it_has(sign):
    test = experiment(sign, "ret", metrics=[Metric("max_dd", margin=0.02)])
    [guardrail] = test.compare_variants("a", "b")["guardrails"]
    assert guardrail["status"] == "fails"


def test_who_says_the_direction_is_believed():
    test = experiment(-1.0, "max_dd", lower_is_better=["max_dd"])
    assert test.compare_variants("a", "b")["result"]["winner"] == "b"
