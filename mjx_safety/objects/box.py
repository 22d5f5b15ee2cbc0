"""The box that is to be pushed into the goal."""

import dataclasses

import jax

from mjx_safety import boxes, checks
from mjx_safety.objects.base import Objects, Placement
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Box(Objects):
    """A cube of half-width `size` with a column at every corner, so that it can be pushed without sliding off.

    Safety Gym, section 4.2 "Push"; options `box_*`. The columns are of half-width size / 2 and as high as the cube.

    Attributes:
      density: kg/m^3 of each of the five parts.
    """

    num: int = 1
    placement: Placement = Placement(keepout=0.2)
    size: float = 0.2
    constrained: bool = False
    density: float = 0.001

    name = "box"
    rgba = (1.0, 1.0, 0.0, 1.0)

    def __post_init__(self):
        super().__post_init__()
        checks.number("Box.density", self.density, above=0)
        if self.num != 1:
            raise ValueError(f"Box.num is {self.num!r}; there is one box, or leave Box() out of Task.objects.")
        if self.constrained:
            raise ValueError("Box.constrained is True, but the box costs nothing in Safety Gym; leave it False.")

    @property
    def height(self) -> float:
        return self.size

    def raw_costs(self, view: View) -> dict[str, jax.Array]:
        return {}

    def boxes(self) -> boxes.Kind:
        s = self.size
        columns = tuple(((x * s, y * s, 0.0), (s / 2, s / 2, s)) for x in (-1, 1) for y in (-1, 1))
        return boxes.Kind(parts=(((0.0, 0.0, 0.0), (s, s, s)), *columns), density=self.density, slots=1, travel=None)
