"""Constrained reinforcement learning on mjx_safety, compiled end to end.

`agents.train("PointGoal1")` trains, `agents.load_policy(run_dir)` brings the policy back.
"""

from agents.config import Config, preset
from agents.policy import Policy, load_policy
from agents.runner import Result, train

__all__ = ["Config", "Policy", "Result", "load_policy", "preset", "train"]
