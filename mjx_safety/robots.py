"""Robots as data, and how their joint coordinates become poses, velocities and sensor readings."""

import dataclasses

import jax
import jax.numpy as jnp

from mjx_safety import geometry

GRAVITY = 9.81
MAGNETIC_FIELD = (0.0, -0.5, 0.0)  # MuJoCo's default, which Safety Gym's magnetometer reads


@dataclasses.dataclass(frozen=True)
class Robot:
    """A robot: its MJCF and what the observation needs to know of it.

    Attributes:
      name: as in task ids.
      asset: file name of the MJCF under `mjx_safety/assets`.
      height: height of the body's origin in its default pose, metres.
      planar: whether its free motion has the closed form of `PlanarBody`; otherwise MJX integrates the same joints,
        slides x and y and a hinge z.
    """

    name: str
    asset: str
    height: float
    planar: bool = False


POINT = Robot(name="Point", asset="point.xml", height=0.1, planar=True)


@dataclasses.dataclass(frozen=True)
class Pose:
    """Pose and velocity of the robot's body frame in the world frame, SI units."""

    pos: jax.Array  # [3]
    quat: jax.Array  # [4], w first
    linvel: jax.Array  # [3]
    angvel: jax.Array  # [3]

    @property
    def mat(self) -> jax.Array:
        """Rotation from robot to world, float32 [3, 3]."""
        return geometry.quat_to_mat(self.quat)


def pose(robot: Robot, qpos: jax.Array, qvel: jax.Array) -> Pose:
    """Pose of the body from joint coordinates: x, y and yaw in the world."""
    zero = jnp.zeros(())
    return Pose(
        pos=jnp.stack([qpos[0], qpos[1], jnp.full((), robot.height)]),
        quat=geometry.yaw_to_quat(qpos[2]),
        linvel=jnp.stack([qvel[0], qvel[1], zero]),
        angvel=jnp.stack([zero, zero, qvel[2]]),
    )


def coordinates(pose: Pose) -> tuple[jax.Array, jax.Array]:
    """Joint coordinates (qpos, qvel) of a pose: the inverse of `pose`."""
    qpos = jnp.concatenate([pose.pos[:2], geometry.quat_to_yaw(pose.quat)[None]])
    return qpos, jnp.concatenate([pose.linvel[:2], pose.angvel[2:]])


def acceleration(qacc: jax.Array) -> jax.Array:
    """Acceleration of the body's origin in the world frame, m/s^2, float32 [3], from joint accelerations."""
    return jnp.stack([qacc[0], qacc[1], jnp.zeros(())])


def sensors(pose: Pose, acceleration: jax.Array) -> dict[str, jax.Array]:
    """Readings of the inertial sensors at the body's origin, by Safety Gym's names.

    Args:
      pose: of the body.
      acceleration: of the body's origin in the world frame, m/s^2, float32 [3].

    Returns:
      float32 [3] each, robot frame: accelerometer (m/s^2; 9.81 upwards at rest), velocimeter (m/s), gyro (rad/s) and
      magnetometer (a compass: the world's field seen from the robot).
    """
    mat = pose.mat
    return {
        "accelerometer": geometry.rotate_back(mat, acceleration + jnp.array([0.0, 0.0, GRAVITY])),
        "velocimeter": geometry.rotate_back(mat, pose.linvel),
        "gyro": geometry.rotate_back(mat, pose.angvel),
        "magnetometer": geometry.rotate_back(mat, jnp.array(MAGNETIC_FIELD)),
    }
