"""What every objective has in common."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mjx_safety import checks
from mjx_safety.objects.base import Placement
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Objective:
    """What the robot is rewarded for: pure functions of the small `View`.

    The dense reward of a step is a change since the step before: `measure` says what of a world is kept for the next
    step, and `reward` compares.

    Attributes:
      observed: whether the robot's lidar sees what the objective is about.
    """

    observed: bool = dataclasses.field(default=True, kw_only=True)

    name: ClassVar[str]  # of what it is about, in the names of lidar and world arrays: "goal", "circle"
    rgba: ClassVar[tuple[float, float, float, float]] = (0.0, 1.0, 0.0, 0.25)  # Safety Gym's colour
    needs: ClassVar[str | None] = None  # the kind of object without which it makes no sense
    touches: ClassVar[tuple[str, ...]] = ()  # the kinds whose contacts with the robot it asks for
    bonus: ClassVar[str | None] = None  # field with the reward for a goal reached, where there are goals
    somewhere: ClassVar[bool] = True  # whether it is about a place

    def __post_init__(self):
        kind = type(self).__name__
        checks.kind(f"{kind}.observed", self.observed, bool)
        for field in dataclasses.fields(self):
            if field.name.startswith("reward_"):
                checks.number(f"{kind}.{field.name}", getattr(self, field.name))

    @property
    def goal_placement(self) -> Placement | None:
        """Where goals are drawn, for objectives that put one into the layout."""
        return None

    @property
    def height(self) -> float:
        """Height above the floor of a goal that the layout places, metres."""
        raise NotImplementedError

    def position(self, view: View) -> jax.Array:
        """The place that it is about, float32 [3]."""
        raise NotImplementedError

    def measure(self, view: View) -> jax.Array:
        """What the next step's reward is measured from, float32 [k]."""
        raise NotImplementedError

    def reward(self, view: View, before: jax.Array) -> jax.Array:
        """Dense reward of a step, float32 [].

        Args:
          view: the world after the step.
          before: `measure` of the world before it, float32 [k].
        """
        raise NotImplementedError

    def reached(self, view: View) -> jax.Array:
        """Whether the goal is reached, bool []."""
        del view
        return jnp.array(False)
