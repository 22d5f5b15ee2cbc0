"""The robot's dynamics on MJX, and the boxes it pushes. The only file that calls MJX."""

import contextlib
import io
from collections.abc import Iterator
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import mujoco

with contextlib.redirect_stdout(io.StringIO()):  # it prints a notice when the optional Warp back end is missing
    from mujoco import mjx

from mjx_safety import movers as mover_physics
from mjx_safety import scene, sparse
from mjx_safety.movers import Movers, Trajectory
from mjx_safety.planar import PlanarBody
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
        self.timestep = float(model.opt.timestep)
        self.step_time = frame_skip * self.timestep
        self.action_size = model.nu
        self._body = PlanarBody.of(model) if robot.planar else MjxBody(model)
        self._outline = scene.outline(robot)
        self._num_movers, self._half, self._frame_skip = num_movers, mover_half, frame_skip

    def accelerations(self, state: PhysicsState, ctrl: jax.Array) -> jax.Array:
        """Joint accelerations of the robot at `state`, contact with boxes left out: float32 [nv]."""
        return self._body.accelerations(state.qpos, state.qvel, ctrl)

    def step(self, state: PhysicsState, ctrl: jax.Array) -> tuple[PhysicsState, Motion]:
        """One environment step: `frame_skip` physics steps and the forces at the new state.

        Args:
          state: before.
          ctrl: float32 [action_size], clipped.
        """
        qpos, qvel, qacc = self._body.roll(state.qpos, state.qvel, ctrl, self._frame_skip)
        movers, contacts = self._move_boxes(state.movers, Trajectory(qpos[:, :3], qvel[:, :3]))
        return PhysicsState(qpos[-1], qvel[-1], movers, state.time + self.step_time), Motion(qacc, contacts)

    def contacts(self, state: PhysicsState) -> jax.Array:
        """The robot's contact points with each box at `state`, float32 [num]."""
        if not self._num_movers:
            return jnp.zeros(0)
        return mover_physics.contacts(self._outline, self._half, state.movers, state.qpos[:3])

    def _move_boxes(self, movers: Movers, robot: Trajectory) -> tuple[Movers, jax.Array]:
        untouched = movers, jnp.zeros(self._num_movers)
        if not self._num_movers:
            return untouched
        in_reach = mover_physics.reach(self._outline, self._half, movers, robot)
        moving = jnp.any(movers.vel != 0, axis=-1)

        def interact(movers, robot):
            return mover_physics.advance(self._outline, self._half, movers, robot, self.timestep)

        return sparse.cond(jnp.any(in_reach | moving), interact, (movers, robot), untouched, fraction=16)


class MjxBody:
    """A robot's motion by MJX: any MJCF that MJX takes.

    Args:
      model: the compiled model.
    """

    def __init__(self, model: mujoco.MjModel):
        self._model = mjx.put_model(model)

    def accelerations(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array) -> jax.Array:
        """Joint accelerations, float32 [nv]."""
        with _mjx():
            return self._forward(qpos, qvel, ctrl).qacc

    def roll(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array, num_steps: int) -> tuple[jax.Array, ...]:
        """Physics steps under one command.

        The accelerations at the last state need a forward pass more than there are steps. It is the same pass as the
        others', so that MJX is traced and compiled once: the integration behind it is thrown away.

        Returns:
          Joint positions [num_steps + 1, nq] and velocities [num_steps + 1, nv], the first ones included, and the
          accelerations [nv] at the last state.
        """

        def substep(carry, _):
            qpos, qvel = carry
            data = self._forward(qpos, qvel, ctrl)
            after = mjx.euler(self._model, data)
            return (after.qpos, after.qvel), (qpos, qvel, data.qacc)

        with _mjx():
            _, (qpos, qvel, qacc) = jax.lax.scan(substep, (qpos, qvel), length=num_steps + 1)
        return qpos, qvel, qacc[-1]

    def _forward(self, qpos, qvel, ctrl):
        return mjx.forward(self._model, mjx.make_data(self._model).replace(qpos=qpos, qvel=qvel, ctrl=ctrl))
