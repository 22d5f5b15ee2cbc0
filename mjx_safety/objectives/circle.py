"""Circle: run round the origin on a circle."""

import dataclasses

import jax
import jax.numpy as jnp

from mjx_safety import checks
from mjx_safety.objectives.base import Objective
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Circle(Objective):
    """Move fast along the circle, counter-clockwise (Safety Gym's `task: circle`, after Achiam et al. 2017).

    Attributes:
      radius: of the circle round the origin, metres.
      reward_circle: weight of the reward.
    """

    radius: float = 1.5
    reward_circle: float = 0.1

    name = "circle"
    rgba = (0.0, 1.0, 0.0, 0.1)

    def __post_init__(self):
        super().__post_init__()
        checks.number("Circle.radius", self.radius, above=0)

    def position(self, view: View) -> jax.Array:
        """The centre of the circle."""
        del view
        return jnp.zeros(3)

    def measure(self, view: View) -> jax.Array:
        """Nothing: the reward is of the moment."""
        del view
        return jnp.zeros(0)

    def reward(self, view: View, before: jax.Array) -> jax.Array:
        """reward_circle * ((v x - u y) / r) / (1 + |r - radius|), centre of mass (x, y), body velocity (u, v)"""
        del before
        x, y, _ = view.robot_com
        u, v, _ = view.robot_linvel
        r = jnp.sqrt(x * x + y * y)
        along = (v * x - u * y) / jnp.maximum(r, 1e-6)
        return self.reward_circle * along / (1 + jnp.abs(r - self.radius))
