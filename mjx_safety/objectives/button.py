"""Button: press the button that is lit, then the next one."""

import dataclasses

import jax

from mjx_safety import checks
from mjx_safety.objectives.base import Objective
from mjx_safety.view import View


@dataclasses.dataclass(frozen=True)
class Button(Objective):
    """Touch the goal button, again and again (Safety Gym, section 4.2 "Button").

    The next goal is any button, the one just pressed among them.

    Attributes:
      delay: steps after a success for which buttons are dark and cost nothing.
      reward_distance: reward per metre of approach to the goal button.
      reward_goal: bonus for every goal pressed.
    """

    delay: int = 10
    reward_distance: float = 1.0
    reward_goal: float = 1.0

    name = "goal"
    needs = "buttons"
    touches = ("buttons",)
    bonus = "reward_goal"

    def __post_init__(self):
        super().__post_init__()
        checks.whole("Button.delay", self.delay, least=0)

    def position(self, view: View) -> jax.Array:
        return view.pos["buttons"][view.target]

    def measure(self, view: View) -> jax.Array:
        """Distance on the floor from robot to goal button, [1]."""
        return view.distance("buttons")[view.target][None]

    def reward(self, view: View, before: jax.Array) -> jax.Array:
        """reward_distance * (distance before - distance now)"""
        return self.reward_distance * (before - self.measure(view))[0]

    def reached(self, view: View) -> jax.Array:
        """Whether the robot touches the goal button, bool []."""
        return view.contacts["buttons"][view.target] > 0
