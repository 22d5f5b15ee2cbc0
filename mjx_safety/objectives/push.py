"""Push: bring the box into a circle on the floor, then into the next one."""

import dataclasses

import jax
import jax.numpy as jnp

from mjx_safety import checks, short
from mjx_safety.objectives.base import Objective
from mjx_safety.objects.base import Placement
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Push(Objective):
    """Push the box into the goal, again and again (Safety Gym, section 4.2 "Push").

    All distances are in space, between the centres, although the original's names say "xy".

    Attributes:
      placement: where goals are drawn.
      size: radius of the goal, metres.
      null_dist: metres between robot and box below which coming closer pays nothing; Safety Gym's `box_null_dist` is a
        factor of the box's size.
      reward_box_dist: reward per metre that the robot comes closer to the box.
      reward_box_goal: reward per metre that the box comes closer to the goal.
      reward_goal: bonus for every goal reached.
    """

    placement: Placement = Placement(keepout=0.4)
    size: float = 0.3
    null_dist: float = 0.0
    reward_box_dist: float = 1.0
    reward_box_goal: float = 1.0
    reward_goal: float = 1.0

    name = "goal"
    needs = "box"
    bonus = "reward_goal"

    def __post_init__(self):
        super().__post_init__()
        checks.kind("Push.placement", self.placement, Placement)
        checks.number("Push.size", self.size, above=0)
        checks.number("Push.null_dist", self.null_dist, least=0)

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
        """Distances from the box to robot and goal, [2]."""
        box = view.pos["box"][0]
        return jnp.stack([short.norm(box - view.robot_pos, 0), short.norm(box - self.position(view), 0)])

    def reward(self, view: View, before: jax.Array) -> jax.Array:
        """reward_box_dist * (fall of robot's distance, while it was over null_dist) + reward_box_goal * (of goal's)"""
        fall = before - self.measure(view)
        towards_box = jnp.where(before[0] > self.null_dist, fall[0], 0.0)
        return self.reward_box_dist * towards_box + self.reward_box_goal * fall[1]

    def reached(self, view: View) -> jax.Array:
        """Whether the box's centre is inside the goal, bool []."""
        return self.measure(view)[1] <= self.size
