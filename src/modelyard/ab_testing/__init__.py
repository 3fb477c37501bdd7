"""Experiments whose winners are winners, and bandits that learn at any scale."""

from modelyard.ab_testing.bandits import MultiArmedBandit
from modelyard.ab_testing.experiment import ABTest
from modelyard.ab_testing.metrics import Metric
from modelyard.ab_testing.outputs import IntervalHistory
from modelyard.ab_testing.persistence import stored_experiments
from modelyard.ab_testing.variant import ModelVariant

__all__ = [
    "ABTest",
    "IntervalHistory",
    "Metric",
    "ModelVariant",
    "MultiArmedBandit",
    "stored_experiments",
]
