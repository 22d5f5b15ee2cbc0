"""Walls: cubes that stand in the way and cost nothing."""

import dataclasses

import jax

from mjx_safety.contact import Obstacle
from mjx_safety.objects.base import Objects, Placement
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Walls(Objects):
    """Cubes of half-width `size`, mostly put at fixed locations (Safety Gym's options `walls_*`)."""

    num: int = 1
    placement: Placement = Placement(keepout=0.0)
    size: float = 0.5
    constrained: bool = False

    name = "walls"
    rgba = (0.5, 0.5, 0.5, 1.0)
    before_goal = True

    def __post_init__(self):
        super().__post_init__()
        if self.constrained:
            raise ValueError("Walls.constrained is True, but walls cost nothing in Safety Gym; use Pillars for a cost.")

    @property
    def height(self) -> float:
        return self.size

    def raw_costs(self, view: View) -> dict[str, jax.Array]:
        return {}

    def obstacle(self) -> Obstacle:
        return Obstacle("box", (self.size, self.size, self.size), self.height)
