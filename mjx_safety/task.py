"""A task is a value: a robot, an objective, the objects around and a few numbers."""

import dataclasses

from mjx_safety import checks
from mjx_safety.lidar import Lidar
from mjx_safety.objectives import Objective
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
      robot_yaw: heading at the start, radians; None: any.
      margin: metres added to the distance that any two placed things must keep.
      num_steps: steps of an episode, after which it is truncated.
      frame_skip: physics steps of an environment step.
      frame_skip_p: chance of each of them to be taken: their number is binomial, as Safety Gym's engine allows.
      action_noise: standard deviation of the noise on every entry of the clipped action.
      lidar: how objects and goal are seen.
      compass: things of which the robot is told the direction: "goal", "box".
      compass_size: entries of a direction, 2 or 3.
      goal_distance: whether exp(-distance to the goal) is observed.
      remaining: whether the share of the episode that is over is observed, under Safety Gym's name "remaining".
      continue_goal: whether there is a next goal after a success; otherwise the episode terminates.
      reward_clip: bound on the absolute dense reward of a step, before the goal's bonus.
      reward_exception: reward of the step in which the physics fails.
      reward_orientation: reward for an upright robot: this times the vertical part of its z axis.
      indicator: whether costs are 0 or 1; otherwise they are the raw values.
    """

    robot: Robot
    objective: Objective
    objects: tuple[Objects, ...] = ()
    extents: Rectangle = (-2.0, -2.0, 2.0, 2.0)
    robot_placement: Placement = Placement(keepout=0.4)
    robot_yaw: float | None = None
    margin: float = 0.0
    num_steps: int = 1000
    frame_skip: int = 10
    frame_skip_p: float = 1.0
    action_noise: float = 0.0
    lidar: Lidar = Lidar()
    compass: tuple[str, ...] = ()
    compass_size: int = 2
    goal_distance: bool = False
    remaining: bool = False
    continue_goal: bool = True
    reward_clip: float = 10.0
    reward_exception: float = -10.0
    reward_orientation: float = 0.0
    indicator: bool = True

    def __post_init__(self):
        checks.kind("Task.robot (see mjx_safety.robots: POINT, CAR, DOGGO)", self.robot, Robot)
        checks.kind("Task.objective", self.objective, Objective)
        checks.kind("Task.objects", self.objects, tuple)
        for kind in self.objects:
            checks.kind("An entry of Task.objects", kind, Objects)
        checks.rectangle("Task.extents", self.extents)
        checks.kind("Task.robot_placement", self.robot_placement, Placement)
        if self.robot_yaw is not None:
            checks.number("Task.robot_yaw", self.robot_yaw)
        checks.number("Task.margin", self.margin, least=0)
        checks.whole("Task.num_steps", self.num_steps, least=1)
        checks.whole("Task.frame_skip", self.frame_skip, least=1)
        checks.number("Task.frame_skip_p", self.frame_skip_p, above=0, most=1)
        checks.number("Task.action_noise", self.action_noise, least=0)
        checks.kind("Task.lidar", self.lidar, Lidar)
        checks.kind("Task.compass", self.compass, tuple)
        checks.whole("Task.compass_size", self.compass_size, least=2, most=3)
        checks.number("Task.reward_clip", self.reward_clip, above=0)
        checks.number("Task.reward_exception", self.reward_exception)
        checks.number("Task.reward_orientation", self.reward_orientation)
        for field in ("goal_distance", "remaining", "continue_goal", "indicator"):
            checks.kind(f"Task.{field}", getattr(self, field), bool)
        self._check_parts()

    def _check_parts(self):
        """Refuses parts that do not go together."""
        names = [kind.name for kind in self.objects]
        if len(set(names)) < len(names):
            raise ValueError(f"Task.objects holds {names}; give each kind once, with its number in `num`.")
        objective = type(self.objective).__name__
        for thing, placement in (("robot", self.robot_placement), ("goal", self.objective.goal_placement)):
            if placement and len(placement.locations) > 1:
                raise ValueError(
                    f"There is one {thing}, but its placement has {len(placement.locations)} locations; give one, or "
                    "rectangles, of which each layout takes one."
                )
        needed = self.objective.needs
        if needed and not any(kind.name == needed and kind.num for kind in self.objects):
            raise ValueError(f"The objective {objective} needs {needed}; add {needed.capitalize()}() to Task.objects.")
        shown = {"goal": self.objective.name == "goal", "box": "box" in names}
        for name in self.compass:
            if not shown.get(name):
                known = [thing for thing, there in shown.items() if there]
                raise ValueError(f"Task.compass names {name!r}; this task has a compass for {known or 'nothing'}.")
        if self.goal_distance and not shown["goal"]:
            raise ValueError(f"Task.goal_distance is True, but the objective {objective} has no goal; leave it False.")
