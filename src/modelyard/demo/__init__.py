"""The one command on real data: train the trading chain and take it through its whole life."""

from modelyard.demo.run import run_demo

__all__ = ["run_demo"]
