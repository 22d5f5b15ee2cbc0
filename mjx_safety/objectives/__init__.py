"""What the robot is rewarded for, one file each: reward, success and where the next goal appears."""

from mjx_safety.objectives.base import Objective
from mjx_safety.objectives.button import Button
from mjx_safety.objectives.circle import Circle
from mjx_safety.objectives.goal import Goal
from mjx_safety.objectives.push import Push
from mjx_safety.objectives.run import Run

__all__ = ["Button", "Circle", "Goal", "Objective", "Push", "Run"]
