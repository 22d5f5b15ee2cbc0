"""The kinds of objects, one file each: numbers, placement, colour and cost."""

from mjx_safety.objects.base import Objects, Placement
from mjx_safety.objects.hazards import Hazards
from mjx_safety.objects.vases import Vases

__all__ = ["Hazards", "Objects", "Placement", "Vases"]
