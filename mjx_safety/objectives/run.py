"""Run: move along the x axis."""

import dataclasses

import jax

from mjx_safety.objectives.base import Objective
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Run(Objective):
    """Move towards positive x (Safety Gym's `task: x`).

    Attributes:
      reward_x: reward per metre.
    """

    reward_x: float = 1.0

    name = "run"
    somewhere = False

    def measure(self, view: View) -> jax.Array:
        """x of the robot's centre of mass, metres, [1]."""
        return view.robot_com[:1]

    def reward(self, view: View, before: jax.Array) -> jax.Array:
        """reward_x * (x now - x before), of the robot's centre of mass"""
        return self.reward_x * (view.robot_com[0] - before[0])
