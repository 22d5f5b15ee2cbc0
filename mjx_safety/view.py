"""What objects and objectives may see of the world."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class View:
    """The world after a step, in the world frame and SI units; small enough to write by hand in a test.

    Attributes:
      robot_pos: float32 [3], origin of the robot's body.
      robot_mat: float32 [3, 3], rotation from robot to world.
      robot_linvel: float32 [3], velocity of that origin.
      robot_com: float32 [3], centre of mass of the whole robot.
      pos: positions of each kind of thing, float32 [num, 3], by name: "goal", "hazards", "vases", ...
      placed: where the layout put things that move since, float32 [num, 2].
      linvel: velocities of the kinds that move, float32 [num, 3].
      contacts: robot's contact points with each object of the kinds that collide and are constrained, or that the
        objective `touches`, float32 [num].
      target: int32 [], which button is the goal; -1 where none is.
      timer: int32 [], steps for which the buttons stay dark.
    """

    robot_pos: jax.Array
    robot_mat: jax.Array
    robot_linvel: jax.Array
    robot_com: jax.Array
    pos: dict[str, jax.Array]
    placed: dict[str, jax.Array]
    linvel: dict[str, jax.Array]
    contacts: dict[str, jax.Array]
    target: jax.Array
    timer: jax.Array

    def distance(self, kind: str) -> jax.Array:
        """Distances on the floor from the robot to every thing of a kind, float32 [num]."""
        # Axis by axis: XLA would first store all three of every thing.
        x, y = (self.pos[kind][:, axis] - self.robot_pos[axis] for axis in range(2))
        return jnp.sqrt(x * x + y * y)
