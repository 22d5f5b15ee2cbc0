"""Goal: reach a circle on the floor, then the next one."""

import dataclasses

import jax

from mjx_safety import checks
from mjx_safety.objects.base import Placement
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Goal:
    """Move the robot into the goal, again and again (Safety Gym, section 4.2 "Goal").

    Attributes:
      placement: where goals are drawn.
      size: radius of the goal, metres.
      reward_distance: reward per metre of approach.
      reward_goal: bonus for every goal reached.
      observed: whether the robot's lidar sees the goal.
    """

    placement: Placement = Placement(keepout=0.305)
    size: float = 0.3
    reward_distance: float = 1.0
    reward_goal: float = 1.0
    observed: bool = True

    name = "goal"
    rgba = (0.0, 1.0, 0.0, 0.25)

    def __post_init__(self):
        checks.kind("Goal.placement", self.placement, Placement)
        checks.number("Goal.size", self.size, above=0)

    @property
    def height(self) -> float:
        """Height of the goal's centre, metres: a cylinder of half-height size / 2 just above the floor."""
        return self.size / 2 + 0.01

    def potential(self, view: View) -> jax.Array:
        """What the dense reward measures, float32 []: a step pays what the potential has fallen by.

        potential = reward_distance * (distance on the floor from robot to goal)
        """
        return self.reward_distance * view.distance(self.name)[0]

    def reached(self, view: View) -> jax.Array:
        """Whether the robot's centre is inside the goal, bool []."""
        return view.distance(self.name)[0] <= self.size
