"""Goal: reach a circle on the floor, then the next one."""

import dataclasses

import jax

from mjx_safety import checks
from mjx_safety.objectives.base import Objective
from mjx_safety.objects.base import Placement
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Goal(Objective):
    """Move the robot into the goal, again and again (Safety Gym, section 4.2 "Goal").

    Attributes:
      placement: where goals are drawn.
      size: radius of the goal, metres.
      reward_distance: reward per metre of approach.
      reward_goal: bonus for every goal reached.
    """

    placement: Placement = Placement(keepout=0.305)
    size: float = 0.3
    reward_distance: float = 1.0
    reward_goal: float = 1.0

    name = "goal"
    bonus = "reward_goal"

    def __post_init__(self):
        super().__post_init__()
        checks.kind("Goal.placement", self.placement, Placement)
        checks.number("Goal.size", self.size, above=0)

    @property
    def goal_placement(self) -> Placement:
        return self.placement

    @property
    def height(self) -> float:
        """Height of the goal's centre, metres: a cylinder of half-height size / 2 just above the floor."""
        return self.size / 2 + 0.01

    def position(self, view: View) -> jax.Array:
        return view.pos[self.name][0]

    def measure(self, view: View) -> jax.Array:
        """Distance on the floor from robot to goal, [1]."""
        return view.distance(self.name)

    def reward(self, view: View, before: jax.Array) -> jax.Array:
        """reward_distance * (distance before - distance now)"""
        return self.reward_distance * (before[0] - view.distance(self.name)[0])

    def reached(self, view: View) -> jax.Array:
        """Whether the robot's centre is inside the goal, bool []."""
        return view.distance(self.name)[0] <= self.size
