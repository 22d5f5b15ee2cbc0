"""The robot's dynamics on MJX, and the boxes it pushes. The only file that calls MJX."""

import contextlib
import io
from collections.abc import Iterator
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

with contextlib.redirect_stdout(io.StringIO()):  # it prints a notice when the optional Warp back end is missing
    from mujoco import mjx

from mjx_safety import movers as mover_physics
from mjx_safety import scene, sparse
from mjx_safety.movers import Movers, Shape, Trajectory
from mjx_safety.robots import Robot


@flax.struct.dataclass
class PhysicsState:
    """What moves, and no more.

    Attributes:
      qpos: float32 [nq], the robot's joint positions.
      qvel: float32 [nv], its joint velocities.
      movers: the boxes.
      time: float32 [], seconds since reset.
    """

    qpos: jax.Array
    qvel: jax.Array
    movers: Movers
    time: jax.Array


class Motion(NamedTuple):
    """What a step of the physics tells beside the new state.

    Attributes:
      qacc: float32 [nv], the robot's joint accelerations at the new state.
      contacts: float32 [num], robot's contact points with each box at the new state.
    """

    qacc: jax.Array
    contacts: jax.Array


@contextlib.contextmanager
def _mjx() -> Iterator[None]:
    """What MJX needs round it: full float32 products (recent GPUs default to TF32, which breaks fidelity silently),
    and JAX's ordinary dtype promotion where the user has chosen the strict one."""
    with jax.default_matmul_precision("highest"), jax.numpy_dtype_promotion("standard"):
        yield


class Physics:
    """Steps one environment's robot and boxes.

    Args:
      robot: who moves.
      num_movers: how many boxes there are.
      mover_half: their half-width, metres.
      frame_skip: physics steps of an environment step.
    """

    def __init__(self, robot: Robot, num_movers: int, mover_half: float, frame_skip: int):
        model = scene.physics_model(robot)
        self.model = mjx.put_model(model)
        self.timestep = float(model.opt.timestep)
        self.step_time = frame_skip * self.timestep
        self.action_size = model.nu
        self._outline = scene.outline(robot)
        self._reach = max(sum(c * c for c in s.centre) ** 0.5 + max(s.radius, sum(h * h for h in s.half) ** 0.5) for s in self._outline)
        self._num_movers, self._half, self._frame_skip = num_movers, mover_half, frame_skip

    def accelerations(self, state: PhysicsState, ctrl: jax.Array) -> jax.Array:
        """Joint accelerations of the robot at `state`, contact with boxes left out: float32 [nv]."""
        with _mjx():
            return self._forward(state.qpos, state.qvel, ctrl).qacc

    def step(self, state: PhysicsState, ctrl: jax.Array) -> tuple[PhysicsState, Motion]:
        """One environment step: `frame_skip` physics steps and the forces at the new state.

        Args:
          state: before.
          ctrl: float32 [action_size], clipped.
        """
        with _mjx():
            qpos, qvel, qacc = self._move_robot(state.qpos, state.qvel, ctrl)
        movers, contacts = self._move_boxes(state.movers, Trajectory(qpos[:, :3], qvel[:, :3]))
        return PhysicsState(qpos[-1], qvel[-1], movers, state.time + self.step_time), Motion(qacc, contacts)

    def _forward(self, qpos, qvel, ctrl):
        return mjx.forward(self.model, mjx.make_data(self.model).replace(qpos=qpos, qvel=qvel, ctrl=ctrl))

    def _move_robot(self, qpos, qvel, ctrl):
        """Joint positions and velocities [frame_skip + 1, ...] and the last accelerations [nv].

        The accelerations at the new state need a forward pass more than there are steps. It is the same pass as the
        others', so that MJX is traced and compiled once: the integration behind it is thrown away.
        """

        def substep(carry, _):
            qpos, qvel = carry
            data = self._forward(qpos, qvel, ctrl)
            after = mjx.euler(self.model, data)
            return (after.qpos, after.qvel), (qpos, qvel, data.qacc)

        _, (qpos, qvel, qacc) = jax.lax.scan(substep, (qpos, qvel), length=self._frame_skip + 1)
        return qpos, qvel, qacc[-1]

    def _move_boxes(self, movers: Movers, robot: Trajectory) -> tuple[Movers, jax.Array]:
        untouched = movers, jnp.zeros(self._num_movers)
        if not self._num_movers:
            return untouched
        # The robot's path over the step is at most a few centimetres: a circle round its start covers it.
        path = jnp.max(jnp.linalg.norm(robot.pose[:, :2] - robot.pose[0, :2], axis=-1))
        distance = jnp.linalg.norm(movers.pose[:, :2] - robot.pose[0, :2], axis=-1)
        in_reach = distance < self._reach + self._half * 2**0.5 + path
        moving = jnp.any(movers.vel != 0, axis=-1)

        def interact(movers, robot):
            return mover_physics.advance(self._outline, self._half, movers, robot, self.timestep)

        return sparse.cond(jnp.any(in_reach | moving), interact, (movers, robot), untouched, fraction=16)
