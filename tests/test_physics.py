"""One physics, three engines: closed form, MJX and C MuJoCo on the same model; and boxes beside C MuJoCo."""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_safety import movers, scene
from mjx_safety.movers import Movers, Trajectory
from mjx_safety.physics import MjxBody, Physics, PhysicsState
from mjx_safety.planar import PlanarBody
from mjx_safety.robots import POINT

MODEL = scene.physics_model(POINT)
OUTLINE = scene.outline(POINT)
STEPS = 100
ROLL = {
    "closed form": jax.jit(PlanarBody.of(MODEL).roll, static_argnums=3),
    "MJX": jax.jit(MjxBody(MODEL).roll, static_argnums=3),
}


@jax.jit
def push(boxes, robot, robot_acc):
    return movers.accelerations(OUTLINE, 0.1, boxes, robot, robot_acc, 0.002)


def start(seed):
    rng = np.random.default_rng(seed)
    return rng.uniform(-2, 2, 3), rng.uniform(-1, 1, 3), rng.uniform(-1, 1, 2)


def mujoco_path(pose, vel, ctrl):
    data = mujoco.MjData(MODEL)
    data.qpos[:], data.qvel[:], data.ctrl[:] = pose, vel, ctrl
    path = []
    for _ in range(STEPS):
        mujoco.mj_step(MODEL, data)
        path.append(np.concatenate([data.qpos, data.qvel]))
    return np.array(path)


def mujoco_acc(pose, vel, ctrl):
    data = mujoco.MjData(MODEL)
    data.qpos[:], data.qvel[:], data.ctrl[:] = pose, vel, ctrl
    mujoco.mj_forward(MODEL, data)
    return data.qacc.copy()


@pytest.mark.parametrize("engine", ROLL)
@pytest.mark.parametrize("seed", range(5))
def test_the_point_moves_as_in_mujoco(engine, seed):
    pose, vel, qacc = ROLL[engine](*(jnp.asarray(x, jnp.float32) for x in start(seed)), STEPS)
    expected = mujoco_path(*start(seed))
    got = np.concatenate([pose, vel], axis=1)[1:]
    np.testing.assert_allclose(got[:10], expected[:10], atol=2e-5, rtol=2e-5)
    # The yaw servo is unstable at this physics step and magnifies rounding; the path hardly feels it.
    np.testing.assert_allclose(got[:, :2], expected[:, :2], atol=1e-3)
    np.testing.assert_allclose(got[:, 2], expected[:, 2], atol=2e-2)
    # Accelerations at the last state, from C MuJoCo at this very state.
    np.testing.assert_allclose(qacc, mujoco_acc(pose[-1], vel[-1], start(seed)[2]), atol=1e-3, rtol=1e-4)


def test_the_point_s_published_speeds():
    """Speed after 1, 5, 10, 20, 50 and 100 environment steps at full thrust; turning rate at full command."""
    roll = ROLL["closed form"]
    pose = vel = jnp.zeros(3)
    speeds = []
    for _ in range(10):
        poses, vels, _ = roll(pose, vel, jnp.array([1.0, 0.0]), STEPS)  # ten environment steps
        speeds += np.asarray(vels)[10::10, 0].tolist()
        pose, vel = poses[-1], vels[-1]
    published = [0.057, 0.263, 0.479, 0.805, 1.281, 1.468]
    np.testing.assert_allclose([speeds[n - 1] for n in (1, 5, 10, 20, 50, 100)], published, atol=2e-3)
    _, vels, _ = roll(jnp.zeros(3), jnp.zeros(3), jnp.array([0.0, 1.0]), STEPS)
    np.testing.assert_allclose(vels[-1, 2], 2.998, atol=2e-2)


def test_a_robot_that_is_not_planar_goes_through_mjx():
    none = jnp.zeros((0, 3))
    state = PhysicsState(jnp.array([0.1, 0.2, 0.3]), jnp.array([0.5, -0.2, 0.1]), Movers(none, none), jnp.zeros(()))
    planar, general = (Physics(dataclasses.replace(POINT, planar=p), 0, 0.0, 10) for p in (True, False))
    a, b = (jax.jit(physics.step)(state, jnp.array([1.0, 0.3]))[0] for physics in (planar, general))
    np.testing.assert_allclose(a.qpos, b.qpos, atol=1e-5)
    assert a.qpos[0] > 0.1


def box_world(num_boxes: int) -> mujoco.MjModel:
    """The Point and free boxes of a vase's mass; no floor and no gravity, so that only contacts act."""
    spec = scene.robot_spec(POINT)
    spec.option.gravity = [0, 0, 0]
    for i in range(num_boxes):
        body = spec.worldbody.add_body(name=f"box{i}", pos=[0, 0, 0.1])
        body.add_freejoint()
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.1] * 3, density=0.001, condim=6)
    return spec.compile()


def touching(seed: int, num_boxes: int):
    """A robot at the origin and boxes that overlap it or each other by about a millimetre."""
    rng = np.random.default_rng(seed)
    poses = []
    for _ in range(num_boxes):
        angle, yaw = rng.uniform(-np.pi, np.pi, 2)
        poses.append([np.cos(angle), np.sin(angle), yaw])
    return np.array(poses), rng.uniform(-0.5, 0.5, (num_boxes, 3)), rng


@pytest.mark.parametrize("seed", range(12))
def test_contact_pushes_a_box_as_in_mujoco(seed):
    model = box_world(1)
    data = mujoco.MjData(model)
    (pose,), (vel,), rng = touching(seed, 1)
    robot_vel = rng.uniform(-0.5, 0.5, 3)
    direction = pose[:2].copy()
    # Move the box in along its bearing until it is half a millimetre inside.
    for dist in np.arange(0.4, 0.1, -2.5e-4):
        turn = [np.cos(pose[2] / 2), 0, 0, np.sin(pose[2] / 2)]
        data.qpos[:] = [0, 0, 0, *(dist * direction), 0.1, *turn]
        mujoco.mj_forward(model, data)
        if data.ncon and data.contact.dist.min() < -5e-4:
            break
    data.qvel[:] = [*robot_vel, *vel[:2], 0, 0, 0, vel[2]]
    mujoco.mj_forward(model, data)
    expected = data.qacc[[3, 4, 8]]

    robot_acc = jnp.asarray(data.qacc[:3], jnp.float32)
    box = jnp.array([[*data.qpos[3:5], pose[2]]], jnp.float32)
    boxes = Movers(box, jnp.asarray(vel[None], jnp.float32))
    robot = Trajectory(jnp.zeros(3), jnp.asarray(robot_vel, jnp.float32))
    got = np.asarray(push(boxes, robot, robot_acc)[0])
    surface = np.array([1.0, 1.0, 0.1])  # turning, as the acceleration that it gives the box's sides
    np.testing.assert_allclose(got * surface, expected * surface, atol=max(0.06 * np.abs(expected[:2]).max(), 1e-3))


def test_boxes_push_each_other_apart_alike():
    boxes = Movers(jnp.array([[0.0, 0.0, 0.0], [0.199, 0.02, 0.0]]), jnp.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    far = Trajectory(jnp.array([5.0, 5.0, 0.0]), jnp.zeros(3))
    got = np.asarray(push(boxes, far, jnp.zeros(3)))
    np.testing.assert_allclose(got[0, :2] + got[1, :2], 0, atol=1e-2 * np.abs(got).max())  # no momentum is made
    assert got[1, 0] > 10


def test_the_floor_stops_boxes_as_measured():
    """Deceleration and rates of a lone vase in C MuJoCo at a physics step of 2 ms."""
    vel = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.1, 0.0], [0.004, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 10.0]])
    after = np.asarray(movers.floor_friction(vel, 0.002))
    np.testing.assert_allclose(after[0, 0], 1.0 - 10.0 * 0.002, rtol=1e-5)
    np.testing.assert_allclose(after[1, 1], 0.1 * np.exp(-110 * 0.002), rtol=1e-5)
    np.testing.assert_allclose(after[2, 0], 0.004 * np.exp(-34 * 0.002), rtol=1e-5)
    np.testing.assert_allclose(after[3, 2], np.exp(-116 * 0.002), rtol=1e-5)
    np.testing.assert_allclose(after[4, 2], 10.0 - 185 * 0.002, rtol=1e-5)


def test_slow_boxes_lie_still():
    boxes = Movers(jnp.zeros((2, 3)), jnp.array([[4e-5, 0.0, 0.0], [6e-5, 0.0, 0.0]]))
    np.testing.assert_array_equal(movers.settle(boxes).vel[:, 0], [0.0, jnp.float32(6e-5)])
