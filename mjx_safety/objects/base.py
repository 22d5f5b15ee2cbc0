"""What every kind of object has in common."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mjx_safety import boxes, checks
from mjx_safety.contact import Obstacle
from mjx_safety.view import View

Rectangle = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max in metres."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where things may be put when a layout is drawn.

    Attributes:
      keepout: radius that no other thing's keepout circle may enter, metres.
      rectangles: where the thing may lie; each is shrunk by `keepout` on all sides. Empty: the task's extents.
      locations: fixed points (x, y), one for each of the first things of the kind.
    """

    keepout: float
    rectangles: tuple[Rectangle, ...] = ()
    locations: tuple[tuple[float, float], ...] = ()

    def __post_init__(self):
        checks.number("Placement.keepout", self.keepout, least=0)
        checks.kind("Placement.rectangles", self.rectangles, tuple)
        for box in self.rectangles:
            checks.rectangle("An entry of Placement.rectangles", box)
        checks.kind("Placement.locations", self.locations, tuple)
        for location in self.locations:
            checks.point("An entry of Placement.locations", location)

    def split(self, num: int) -> list["Placement"]:
        """The placements of `num` single things: the first ones at the locations, the rest in the rectangles."""
        at = [dataclasses.replace(self, locations=(location,)) for location in self.locations]
        return [*at, *[dataclasses.replace(self, locations=())] * (num - len(at))]


@dataclasses.dataclass(frozen=True)
class Objects:
    """A kind of object: how many, where, how large, whether the robot sees it and what it costs.

    Subclasses fix the class attributes and the defaults, and say what they cost and whether they collide.

    Attributes:
      num: how many there are.
      placement: where they may lie.
      size: metres; radius or half-width, as the kind says.
      constrained: whether they cost anything.
      observed: whether the robot's lidar sees them.
    """

    num: int
    placement: Placement
    size: float
    constrained: bool = True
    observed: bool = True

    name: ClassVar[str]  # as in Safety Gym: names of costs, lidar and world arrays derive from it
    rgba: ClassVar[tuple[float, float, float, float]]  # Safety Gym's colour
    before_goal: ClassVar[bool] = False  # whether a layout places them before the goal

    def __post_init__(self):
        kind = type(self).__name__
        checks.whole(f"{kind}.num", self.num, least=0)
        checks.kind(f"{kind}.placement", self.placement, Placement)
        checks.number(f"{kind}.size", self.size, above=0)
        checks.kind(f"{kind}.constrained", self.constrained, bool)
        checks.kind(f"{kind}.observed", self.observed, bool)
        if len(self.placement.locations) > self.num:
            raise ValueError(f"{kind} has {len(self.placement.locations)} locations for {self.num} objects.")

    @property
    def height(self) -> float:
        """Height of the centres above the floor in a new layout, metres."""
        raise NotImplementedError

    def raw_costs(self, view: View) -> dict[str, jax.Array]:
        """Costs before the indicator, float32 [] by name that is Safety Gym's."""
        raise NotImplementedError

    def visible(self, view: View) -> jax.Array:
        """Whether lidar sees the kind now, bool []."""
        del view
        return jnp.array(True)

    def obstacle(self) -> Obstacle | None:
        """What the robot bumps into, for kinds that collide and stand still."""
        return None

    def boxes(self) -> boxes.Kind | None:
        """What the robot pushes, for kinds that collide and move."""
        return None
