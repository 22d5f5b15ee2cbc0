"""The robots' dynamics beside C MuJoCo on the very same models: closed forms and our own solver in float32."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_safety import scene
from mjx_safety.articulated import Articulated
from mjx_safety.contact import Obstacle
from mjx_safety.planar import PlanarBody
from mjx_safety.robots import CAR, DOGGO, POINT

ROBOTS = {"Point": POINT, "Car": CAR, "Doggo": DOGGO}
PILLAR = Obstacle("cylinder", (0.2, 0.5, 0.0), 0.5)
BUTTON = Obstacle("sphere", (0.1, 0.0, 0.0), 0.1)
NOWHERE = np.full((1, 2), 1e6, np.float32)
BATCH = 64


class Compiled:
    """A robot among a pillar and a button, batched."""

    def __init__(self, name: str):
        robot = ROBOTS[name]
        self.model = scene.robot_model(robot)
        self.body = (PlanarBody if robot.planar else Articulated)(self.model, (PILLAR, BUTTON))
        self.roll = jax.jit(jax.vmap(functools.partial(self.body.roll, num_steps=10)))
        self.forces = jax.jit(jax.vmap(self.body.forces))
        self.advance = jax.jit(jax.vmap(self.body.advance))
        self.touching = jax.jit(jax.vmap(self.body.touching))
        self.frames = jax.jit(jax.vmap(self.body.frames))


@functools.cache
def compiled(name: str) -> Compiled:
    return Compiled(name)


@functools.cache
def world(name: str) -> mujoco.MjModel:
    """The robot with a floor, a pillar and a button that are moved about as mocap bodies."""
    spec = scene.robot_spec(ROBOTS[name])
    if name != "Point":  # whose floor contact is inert
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5, 5, 0.1], condim=6)
    for thing in (PILLAR, BUTTON):
        body = spec.worldbody.add_body(mocap=True, pos=[100, 100, thing.height])
        kind = mujoco.mjtGeom.mjGEOM_CYLINDER if thing.kind == "cylinder" else mujoco.mjtGeom.mjGEOM_SPHERE
        body.add_geom(type=kind, size=thing.size, condim=6)
    # One point a pair where MuJoCo's general collider works, as in MuJoCo 3, on which the recordings were made.
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_MULTICCD
    return spec.compile()


def place(data: mujoco.MjData, pillar, button) -> None:
    data.mocap_pos[:, :2] = pillar, button


@functools.cache
def states(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A batch of states on the way under random commands, and the next command."""
    model, rng = world(name), np.random.default_rng(0)
    qpos, qvel, ctrl = [], [], []
    data = mujoco.MjData(model)
    place(data, (100, 100), (110, 110))
    for i in range(BATCH):
        if i % 16 == 0:
            time = data.time
            mujoco.mj_resetData(model, data)
            place(data, (100, 100), (110, 110))
            data.time = time
        for _ in range(5):
            data.ctrl[:] = rng.uniform(-1, 1, model.nu)
            mujoco.mj_step(model, data, 10)
        qpos.append(data.qpos.copy())
        qvel.append(data.qvel.copy())
        ctrl.append(rng.uniform(-1, 1, model.nu))
    return tuple(np.array(x, np.float32) for x in (qpos, qvel, ctrl))


def nowhere() -> tuple[np.ndarray, ...]:
    return (np.broadcast_to(NOWHERE, (BATCH, 1, 2)),) * 2


def beside(name: str, kind: int) -> tuple[np.ndarray, ...]:
    """Where a pillar (kind 0) or a button (1) touches the robots of `states` by about a millimetre: [BATCH, 1, 2]."""
    model, rng = world(name), np.random.default_rng(1)
    data = mujoco.MjData(model)
    places = [np.array(x) for x in nowhere()]
    for i, (qpos, _, _) in enumerate(zip(*states(name), strict=True)):
        data.qpos[:] = qpos
        angle = rng.uniform(-np.pi, np.pi)
        at = [np.array([100.0, 100.0]), np.array([110.0, 110.0])]
        for distance in np.arange(0.8, 0.0, -1e-3):
            at[kind] = qpos[:2] + distance * np.array([np.cos(angle), np.sin(angle)])
            place(data, *at)
            mujoco.mj_fwdPosition(model, data)
            if any(c.dist < -5e-4 and touches(model, c, kind) for c in data.contact):
                break
        places[kind][i, 0] = at[kind]
    return tuple(places)


def touches(model: mujoco.MjModel, touch, kind: int) -> bool:
    """Whether a contact is one of the robot with the pillar (0) or the button (1)."""
    return model.ngeom - 2 + kind in (touch.geom1, touch.geom2)


def mujoco_forward(name: str, i: int, places) -> mujoco.MjData:
    model = world(name)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:], data.ctrl[:] = (x[i] for x in states(name))
    place(data, places[0][i, 0], places[1][i, 0])
    mujoco.mj_forward(model, data)
    return data


def relative(got: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Largest error of each row beside its largest entry."""
    return np.abs(got - expected).max(axis=1) / np.maximum(np.abs(expected).max(axis=1), 1.0)


@pytest.mark.parametrize("name", ROBOTS)
def test_accelerations_and_touch_are_mujoco_s(name):
    robot, push = compiled(name), np.zeros((BATCH, 6), np.float32)
    forces = robot.forces(*states(name), nowhere(), push)
    data = [mujoco_forward(name, i, nowhere()) for i in range(BATCH)]
    assert np.max(relative(forces.qacc, np.array([d.qacc for d in data]))) < 2e-3
    if name == "Doggo":
        touch = np.array([d.sensordata[:8] for d in data])
        assert (touch > 0).any(axis=0).sum() >= 4
        np.testing.assert_allclose(forces.touch, touch, atol=2e-3 * touch.max())


@pytest.mark.parametrize("name", ROBOTS)
def test_free_motion_is_mujoco_s(name):
    """Ten environment steps with the floor alone; longer ones part because contact magnifies rounding."""
    qpos, qvel, ctrl = states(name)
    errors = []
    path = [(qpos, qvel)]
    for _ in range(10):
        steps, rates, _ = compiled(name).roll(*path[-1], ctrl)
        path.append((steps[:, -1], rates[:, -1]))
    for i in range(BATCH):
        data = mujoco_forward(name, i, nowhere())
        errors.append([])
        for after, _ in path[1:]:
            mujoco.mj_step(world(name), data, 10)
            errors[-1].append(np.linalg.norm(after[i, :2] - data.qpos[:2]))
    errors = np.array(errors) * 1e3  # mm
    assert np.median(errors[:, 0]) < 1e-3
    assert np.quantile(errors[:, 0], 0.9) < 0.1
    assert np.median(errors[:, -1]) < 0.1
