"""The kinds of objects, one file each: numbers, placement, colour, cost and what of them collides."""

from mjx_safety.objects.base import Objects, Placement
from mjx_safety.objects.box import Box
from mjx_safety.objects.buttons import Buttons
from mjx_safety.objects.gremlins import Gremlins
from mjx_safety.objects.hazards import Hazards
from mjx_safety.objects.pillars import Pillars
from mjx_safety.objects.vases import Vases
from mjx_safety.objects.walls import Walls

__all__ = ["Box", "Buttons", "Gremlins", "Hazards", "Objects", "Pillars", "Placement", "Vases", "Walls"]
