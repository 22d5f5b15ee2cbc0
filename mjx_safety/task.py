"""A task is a value: a robot, an objective, the objects around and a few numbers."""

import dataclasses

from mjx_safety.lidar import Lidar
from mjx_safety.objectives import Goal
from mjx_safety.objects import Objects, Placement
from mjx_safety.objects.base import Rectangle
from mjx_safety.robots import Robot


@dataclasses.dataclass(frozen=True)
class Task:
    """Everything that defines an environment: printable, comparable, hashable.

    Attributes:
      robot: who acts.
      objective: what it is rewarded for.
      objects: kinds of objects, each at most once, in the order in which a layout places them.
      extents: the rectangle in which things are placed, metres.
      robot_placement: where the robot starts.
      margin: metres added to the distance that any two placed things must keep.
      num_steps: steps of an episode, after which it is truncated.
      frame_skip: physics steps of an environment step.
      lidar: how objects and goal are seen.
      reward_clip: bound on the absolute dense reward of a step, before the goal's bonus.
      reward_exception: reward of the step in which the physics fails.
      indicator: whether costs are 0 or 1; otherwise they are the raw values.
    """

    robot: Robot
    objective: Goal
    objects: tuple[Objects, ...] = ()
    extents: Rectangle = (-2.0, -2.0, 2.0, 2.0)
    robot_placement: Placement = Placement(keepout=0.4)
    margin: float = 0.0
    num_steps: int = 1000
    frame_skip: int = 10
    lidar: Lidar = Lidar()
    reward_clip: float = 10.0
    reward_exception: float = -10.0
    indicator: bool = True

    def __post_init__(self):
        names = [kind.name for kind in self.objects]
        if len(set(names)) < len(names):
            raise ValueError(f"Task.objects holds {names}; give each kind once, with its number in `num`.")
        x_min, y_min, x_max, y_max = self.extents
        if x_min >= x_max or y_min >= y_max:
            raise ValueError(f"Task.extents is {self.extents}; it must be (x_min, y_min, x_max, y_max) in order.")
        for field in ("num_steps", "frame_skip"):
            if getattr(self, field) < 1:
                raise ValueError(f"Task.{field} is {getattr(self, field)}; it must be at least 1.")
        if self.margin < 0:
            raise ValueError(f"Task.margin is {self.margin} m; it must not be negative.")
        if self.reward_clip <= 0:
            raise ValueError(f"Task.reward_clip is {self.reward_clip}; it must be positive.")

    @property
    def movers(self) -> tuple[Objects, ...]:
        """The kinds that the robot can push."""
        return tuple(kind for kind in self.objects if kind.movable)
