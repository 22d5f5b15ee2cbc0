"""A task is a value: a robot, an objective, the objects around and a few numbers."""

import dataclasses

from mjx_safety import checks
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
        checks.kind("Task.robot", self.robot, Robot)
        checks.kind("Task.objective", self.objective, Goal)
        checks.kind("Task.objects", self.objects, tuple)
        for kind in self.objects:
            checks.kind("An entry of Task.objects", kind, Objects)
        names = [kind.name for kind in self.objects]
        if len(set(names)) < len(names):
            raise ValueError(f"Task.objects holds {names}; give each kind once, with its number in `num`.")
        if len({kind.size for kind in self.movers}) > 1:
            raise ValueError("Task.objects holds movable kinds of different sizes; the physics takes one size.")
        checks.rectangle("Task.extents", self.extents)
        checks.kind("Task.robot_placement", self.robot_placement, Placement)
        checks.number("Task.margin", self.margin, least=0)
        checks.whole("Task.num_steps", self.num_steps, least=1)
        checks.whole("Task.frame_skip", self.frame_skip, least=1)
        checks.kind("Task.lidar", self.lidar, Lidar)
        checks.number("Task.reward_clip", self.reward_clip, above=0)
        checks.number("Task.reward_exception", self.reward_exception)
        checks.kind("Task.indicator", self.indicator, bool)

    @property
    def movers(self) -> tuple[Objects, ...]:
        """The kinds that the robot can push."""
        return tuple(kind for kind in self.objects if kind.movable)
