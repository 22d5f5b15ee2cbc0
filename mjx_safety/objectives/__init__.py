"""What the robot is rewarded for, one file each: reward, success and where the next goal appears."""

from mjx_safety.objectives.goal import Goal

__all__ = ["Goal"]
