"""Pillars: columns that stand in the way and cost when they are touched."""

import dataclasses

import jax

from mjx_safety import checks, short
from mjx_safety.contact import Obstacle
from mjx_safety.objects.base import Objects, Placement
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Pillars(Objects):
    """Upright cylinders of radius `size` (Safety Gym, section 4.2 "Pillars"; options `pillars_*`).

    Attributes:
      half_height: metres; what moves passes over a low one, but robots bump into all as if they were high.
      cost: of each contact point with the robot.
    """

    num: int = 1
    placement: Placement = Placement(keepout=0.3)
    size: float = 0.2
    half_height: float = 0.5
    cost: float = 1.0

    name = "pillars"
    rgba = (0.5, 0.5, 1.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        checks.number("Pillars.half_height", self.half_height, above=0)
        checks.number("Pillars.cost", self.cost, least=0)

    @property
    def height(self) -> float:
        return self.half_height

    def raw_costs(self, view: View) -> dict[str, jax.Array]:
        """cost * (number of contact points between the robot and pillars)."""
        return {"cost_pillars": self.cost * short.sum(view.contacts[self.name], 0)}

    def obstacle(self) -> Obstacle:
        return Obstacle("cylinder", (self.size, self.half_height, 0.0), self.height)
