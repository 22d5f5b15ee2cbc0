"""Robots as data, and how their joint coordinates become poses, velocities and sensor readings."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mjx_safety import geometry
from mjx_safety.angles import cos_sin

GRAVITY = 9.81
MAGNETIC_FIELD = (0.0, -0.5, 0.0)  # MuJoCo's default, which Safety Gym's magnetometer reads


@dataclasses.dataclass(frozen=True)
class Robot:
    """A robot (Safety Gym, section 4.1): its MJCF and how it is held.

    Attributes:
      name: as in task ids.
      asset: file name of the MJCF under `mjx_safety/assets`.
      height: height of the body's origin in its default pose, metres.
      planar: whether it slides and turns on the plane (joints x, y and yaw in the world, see `PlanarBody`); otherwise
        it is a free body whose first joint is free (see `Articulated`).
    """

    name: str
    asset: str
    height: float
    planar: bool


POINT = Robot(name="Point", asset="point.xml", height=0.1, planar=True)
CAR = Robot(name="Car", asset="car.xml", height=0.1, planar=False)
DOGGO = Robot(name="Doggo", asset="doggo.xml", height=0.22, planar=False)


class Pose(NamedTuple):
    """Pose and velocity of the robot's body frame in the world frame, SI units."""

    pos: jax.Array  # [3]
    quat: jax.Array  # [4], w first
    mat: jax.Array  # [3, 3], from robot to world
    linvel: jax.Array  # [3]
    angvel: jax.Array  # [3]


class Joint(NamedTuple):
    """A joint sensor of a robot, as its MJCF names it.

    Attributes:
      name: of the reading, Safety Gym's: "jointpos_hip_1_z".
      kind: "jointpos", "jointvel", "ballquat", "ballangvel" or "touch".
      start: its place in qpos, in qvel or among the touch sensors.
    """

    name: str
    kind: str
    start: int


def pose(robot: Robot, qpos: jax.Array, qvel: jax.Array) -> Pose:
    """Pose of the body from joint coordinates."""
    if not robot.planar:
        mat = geometry.quat_to_mat(qpos[3:7])
        return Pose(qpos[:3], qpos[3:7], mat, qvel[:3], geometry.rotate(mat, qvel[3:6]))
    zero = jnp.zeros(())
    return Pose(
        pos=jnp.stack([qpos[0], qpos[1], jnp.full((), robot.height)]),
        quat=geometry.yaw_to_quat(qpos[2]),
        mat=geometry.yaw_to_mat(qpos[2]),
        linvel=jnp.stack([qvel[0], qvel[1], zero]),
        angvel=jnp.stack([zero, zero, qvel[2]]),
    )


def joints(robot: Robot, qpos: jax.Array, qvel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Positions and velocities of the joints beside those that carry the body."""
    return (qpos[3:], qvel[3:]) if robot.planar else (qpos[7:], qvel[6:])


def coordinates(robot: Robot, pose: Pose, joint_pos: jax.Array, joint_vel: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Joint coordinates (qpos, qvel): the inverse of `pose` and `joints`."""
    if robot.planar:
        qpos = jnp.concatenate([pose.pos[:2], geometry.quat_to_yaw(pose.quat)[None], joint_pos])
        return qpos, jnp.concatenate([pose.linvel[:2], pose.angvel[2:], joint_vel])
    turn = geometry.rotate_back(pose.mat, pose.angvel)
    return jnp.concatenate([pose.pos, pose.quat, joint_pos]), jnp.concatenate([pose.linvel, turn, joint_vel])


def acceleration(robot: Robot, qacc: jax.Array) -> jax.Array:
    """Acceleration of the body's origin in the world frame, m/s^2, float32 [3], from joint accelerations."""
    return jnp.append(qacc[:2], 0.0) if robot.planar else qacc[:3]


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


def joint_sensors(
    joints: tuple[Joint, ...], qpos: jax.Array, qvel: jax.Array, touch: jax.Array
) -> dict[str, jax.Array]:
    """Readings of the joint and touch sensors, by Safety Gym's names (engine option `sensors_angle_components`).

    Returns:
      float32; hinges: sine and cosine [2], and rate [1] in rad/s; balls: rotation matrix [9] and angular velocity [3]
      in rad/s; touch: summed normal force [1] in newtons.
    """
    readings = {}
    for name, kind, start in joints:
        match kind:
            case "jointpos":
                readings[name] = jnp.stack(cos_sin(qpos[start])[::-1])
            case "jointvel":
                readings[name] = qvel[start : start + 1]
            case "ballquat":
                readings[name] = geometry.quat_to_mat(qpos[start : start + 4]).ravel()
            case "ballangvel":
                readings[name] = qvel[start : start + 3]
            case _:
                readings[name] = touch[start : start + 1]
    return readings
