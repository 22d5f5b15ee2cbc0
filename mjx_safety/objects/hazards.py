"""Hazards: discs on the floor that cost while the robot's centre is inside."""

import dataclasses

import jax
import jax.numpy as jnp

from mjx_safety import checks, short
from mjx_safety.objects.base import Objects, Placement
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Hazards(Objects):
    """Flat discs that nothing collides with (Safety Gym, section 4.2 "Hazards"; engine options `hazards_*`).

    Attributes:
      cost: per metre of depth inside a disc.
    """

    num: int = 1
    placement: Placement = Placement(keepout=0.18)
    size: float = 0.2
    cost: float = 1.0

    name = "hazards"
    rgba = (0.0, 0.0, 1.0, 0.25)

    def __post_init__(self):
        super().__post_init__()
        checks.number("Hazards.cost", self.cost, least=0)

    @property
    def height(self) -> float:
        return 0.02

    def raw_costs(self, view: View) -> dict[str, jax.Array]:
        """Depth inside each disc, summed: cost * sum_i (size - d_i) where d_i <= size."""
        return {"cost_hazards": self.cost * short.sum(jnp.maximum(0.0, self.size - view.distance(self.name)), 0)}
