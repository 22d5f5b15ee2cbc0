"""The robots' dynamics beside C MuJoCo on the very same models: closed forms and our own solver in float32."""

import functools
import itertools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx

from mjx_safety import collide, scene, spatial
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
        self.free = jax.jit(jax.vmap(functools.partial(self._free, robot.planar, 10)))
        self.forces = jax.jit(jax.vmap(self.body.forces))
        self.advance = jax.jit(jax.vmap(self.body.advance))
        self.touching = jax.jit(jax.vmap(self.body.touching))
        self.frames = jax.jit(jax.vmap(self.body.frames))

    def _free(self, planar: bool, num_steps: int, qpos, qvel, ctrl):
        """State and forces after physics steps with nothing about but the floor, and what is reached on the way."""
        if planar:
            return self.body.coast(qpos, qvel, ctrl, num_steps)
        path, rates, forces = self.body.roll(qpos, qvel, ctrl, num_steps)
        return (path[-1], rates[-1], forces), self.body.reach(path)


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


def rest(name: str) -> tuple[jax.Array, jax.Array]:
    """A batch of robots at rest in their default pose; all alike, so that compiled functions are shared."""
    model = compiled(name).model
    qpos = jnp.asarray(model.qpos0, jnp.float32)
    return jnp.broadcast_to(qpos, (BATCH, model.nq)), jnp.zeros((BATCH, model.nv))


# Errors of accelerations beside their largest entry: median, 95th percentile. The Car's ball weighs so little that its
# own spinning up feels the rounding of float32; its chassis does not.
TOLERANCE = {"Point": (1e-4, 1e-2), "Car": (5e-4, 5e-2), "Doggo": (1e-5, 1e-4)}


@pytest.mark.parametrize("name", ROBOTS)
def test_accelerations_and_touch_are_mujoco_s(name):
    robot, push = compiled(name), np.zeros((BATCH, 6), np.float32)
    forces = robot.forces(*states(name), nowhere(), push)
    data = [mujoco_forward(name, i, nowhere()) for i in range(BATCH)]
    errors = relative(forces.qacc, np.array([d.qacc for d in data]))
    assert (np.quantile(errors, [0.5, 0.95]) < TOLERANCE[name]).all()
    if name == "Doggo":
        touch = np.array([d.sensordata[:8] for d in data])
        assert (touch > 0).any(axis=0).sum() >= 4
        np.testing.assert_allclose(forces.touch, touch, atol=1e-4 * touch.max())


@pytest.mark.parametrize("name", ROBOTS)
def test_free_motion_is_mujoco_s(name):
    """A hundred physics steps with the floor alone. Contact magnifies rounding, so robots part one by one."""
    qpos, qvel, ctrl = states(name)
    path, moved = [], (qpos, qvel)
    for _ in range(10):
        (*moved, _), _ = compiled(name).free(*moved, ctrl)
        path.append(np.asarray(moved[0])[:, :2])
    expected = []
    for i in range(BATCH):
        data = mujoco_forward(name, i, nowhere())
        expected.append([])
        for _ in range(10):
            mujoco.mj_step(world(name), data, 10)
            expected[-1].append(data.qpos[:2].copy())
    errors = 1e3 * np.linalg.norm(np.array(path) - np.array(expected).swapaxes(0, 1), axis=-1)  # mm
    assert np.median(errors[0]) < 0.002
    assert np.quantile(errors[0], 0.9) < 0.01
    assert np.median(errors[-1]) < 1.0
    assert np.quantile(errors[-1], 0.9) < 60


@pytest.mark.parametrize("kind", range(2), ids=["pillar", "button"])
@pytest.mark.parametrize("name", ROBOTS)
def test_obstacles_push_back_as_in_mujoco(name, kind):
    robot, push, places = compiled(name), np.zeros((BATCH, 6), np.float32), beside(name, kind)
    data = [mujoco_forward(name, i, places) for i in range(BATCH)]
    points = np.array([sum(touches(world(name), c, kind) and c.dist < 0 for c in d.contact) for d in data])
    got = np.asarray(robot.touching(states(name)[0], places)[kind])[:, 0]
    assert (points > 0).mean() > 0.9
    assert ((got > 0) == (points > 0)).mean() > 0.98
    assert (got == points).mean() > 0.95
    errors = relative(robot.forces(*states(name), places, push).qacc, np.array([d.qacc for d in data]))
    assert np.median(errors) < 5e-3
    assert np.quantile(errors, 0.9) < 5e-2
    if (name, kind) == ("Point", 1):  # nothing is left out, not even that its sphere rolls less easily than others
        assert errors.max() < 1e-3

    # A step of it moves the robot as MuJoCo does.
    _, qvel, _ = robot.advance(*states(name), places, push)
    for d in data:
        mujoco.mj_step(world(name), d)
    errors = np.abs(np.asarray(qvel) - [d.qvel for d in data])[:, :2].max(axis=1)
    assert np.median(errors) < 5e-4
    assert np.quantile(errors, 0.9) < 5e-3


def test_the_point_s_path_among_obstacles_is_that_of_single_steps():
    robot, places, push = compiled("Point"), beside("Point", 0), np.zeros((BATCH, 6), np.float32)
    qpos, qvel, ctrl = states("Point")
    path, rates, forces = robot.roll(qpos, qvel, ctrl, places=places)
    assert np.abs(rates[:, -1] - robot.free(qpos, qvel, ctrl)[0][1]).max() > 0.1  # the pillar is in the way
    for k in range(10):
        np.testing.assert_allclose(path[:, k], qpos, atol=1e-5)
        np.testing.assert_allclose(rates[:, k], qvel, atol=1e-3)
        qpos, qvel, _ = robot.advance(qpos, qvel, ctrl, places, push)
    np.testing.assert_allclose(path[:, 10], qpos, atol=1e-5)
    assert relative(forces.qacc, robot.forces(path[:, 10], rates[:, 10], ctrl, places, push).qacc).max() < 1e-3


@pytest.mark.parametrize("name", ROBOTS)
def test_a_push_is_an_external_force(name):
    rng = np.random.default_rng(2)
    push = (rng.uniform(-1, 1, (BATCH, 6)) * 0.02).astype(np.float32)
    if name == "Point":
        push[:, 2:5] = 0
    expected = []
    for i in range(BATCH):
        data = mujoco_forward(name, i, nowhere())
        mujoco.mj_applyFT(world(name), data, push[i, :3], push[i, 3:], data.xpos[1], 1, data.qfrc_applied)
        mujoco.mj_forward(world(name), data)
        expected.append(data.qacc.copy())
    errors = relative(compiled(name).forces(*states(name), nowhere(), push).qacc, np.array(expected))
    assert (np.quantile(errors, [0.5, 0.9]) < TOLERANCE[name]).all()


@pytest.mark.parametrize("name", ROBOTS)
def test_the_robot_stays_within_its_reach(name):
    path, _, _ = compiled(name).roll(*states(name), places=nowhere())
    reach = jax.device_get(compiled(name).free(*states(name))[1])
    corners = np.array(list(itertools.product((-1, 1), repeat=3)))
    model, slack = world(name), []
    own = [geom for geom in range(model.ngeom) if model.body_rootid[model.geom_bodyid[geom]] == 1]
    for i, k in itertools.product(range(BATCH), (0, 4, 10)):
        data = mujoco.MjData(model)
        data.qpos[:] = path[i, k]
        mujoco.mj_kinematics(model, data)
        for geom in own:
            size, box = model.geom_size[geom], model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_BOX
            half, skin = (size, 0.0) if box else (np.array([0.0, 0.0, size[1]]), size[0])
            points = data.geom_xpos[geom] + (corners * half) @ data.geom_xmat[geom].reshape(3, 3).T
            away = np.linalg.norm(points[:, None] - reach.centres[i], axis=-1).max(axis=0)
            slack.append((reach.radii[i] - away - skin).max())
    assert min(slack) > -1e-5
    assert name != "Point" or min(slack) < 1e-3  # whose balls are as small as can be


@pytest.mark.parametrize("name", ROBOTS)
def test_frames_are_mujoco_s(name):
    qpos, qvel, _ = states(name)
    frames = compiled(name).frames(qpos, qvel)
    model = world(name)
    bodies = range(1, compiled(name).model.nbody)
    for i in range(0, BATCH, 8):
        data = mujoco_forward(name, i, nowhere())
        np.testing.assert_allclose(frames.pos[i], data.xpos[bodies], atol=1e-5)
        if name != "Car":  # a ball is shown unturned
            np.testing.assert_allclose(frames.mat[i], data.xmat[bodies].reshape(-1, 3, 3), atol=1e-5)
        velocity = np.zeros((len(bodies), 6))
        for body, out in zip(bodies, velocity, strict=True):
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_XBODY, body, out, 0)
        np.testing.assert_allclose(frames.angvel[i], velocity[:, :3], atol=1e-4 * np.abs(velocity).max())
        np.testing.assert_allclose(frames.linvel[i], velocity[:, 3:], atol=1e-4 * np.abs(velocity).max())


def test_the_doggo_settles_upright():
    (qpos, qvel), ctrl = rest("Doggo"), jnp.zeros((BATCH, 12))
    for _ in range(100):
        (qpos, qvel, _), _ = compiled("Doggo").free(qpos, qvel, ctrl)
    assert 0.16 < qpos[0, 2] < 0.17
    assert 1 - 2 * (qpos[0, 4] ** 2 + qpos[0, 5] ** 2) > 0.99  # the trunk's vertical axis
    assert np.abs(qvel).max() < 1e-2


@pytest.fixture
def drive():
    """Root velocities [env steps, nv] from rest under a steady command."""

    def run(name: str, ctrl: list[float], steps: int) -> np.ndarray:
        (qpos, qvel), vels = rest(name), []
        for _ in range(steps):
            (qpos, qvel, _), _ = compiled(name).free(qpos, qvel, jnp.array([ctrl] * BATCH, jnp.float32))
            vels.append(np.asarray(qvel[0]))
        return np.array(vels)

    return run


def test_the_point_s_published_speeds(drive):
    speeds = drive("Point", [1, 0], 100)[:, 0]
    published = [0.057, 0.263, 0.479, 0.805, 1.281, 1.468]
    np.testing.assert_allclose([speeds[n - 1] for n in (1, 5, 10, 20, 50, 100)], published, atol=2e-3)
    np.testing.assert_allclose(drive("Point", [0, 1], 20)[-1, 2], 2.998, atol=2e-2)


@pytest.mark.parametrize(
    ("ctrl", "axis", "least", "most"), [([1, 1], 1, -0.85, -0.72), ([-1, -1], 1, 0.7, 0.82), ([1, -1], 5, 1.0, 1.6)]
)
def test_the_car_s_published_speeds(drive, ctrl, axis, least, most):
    """Forwards (towards -y) 0.76 to 0.85 m/s, backwards 0.76, turning at 1.4 to 1.6 rad/s; its wheels hop."""
    assert least < drive("Car", ctrl, 60)[20:, axis].mean() < most


def test_nested_batches_are_flat_ones():
    qpos, qvel, _ = (x[:4] for x in states("Car"))
    frames = compiled("Car").body.frames
    flat = jax.jit(jax.vmap(frames))(qpos, qvel)
    nested = jax.jit(jax.vmap(jax.vmap(frames)))(*(x.reshape(2, 2, -1) for x in (qpos, qvel)))
    one = jax.jit(frames)(qpos[0], qvel[0])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(np.concatenate(a), b, atol=1e-5), nested, flat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[0], atol=1e-5), one, flat)


@pytest.mark.parametrize("block", [spatial.BLOCK, 16])
@pytest.mark.parametrize("size", [1, spatial.BLOCK, 2 * spatial.BLOCK + 45])
def test_blocks_make_up_the_whole_batch(size, block):
    """What is left over of a block is filled up, and an array may have no entries, such as the Car's touch sensors."""
    most = []

    def double(x, none):
        most.append(x.shape[-1])
        return 2 * x, none

    numbers = jnp.arange(3.0 * size).reshape(size, 3)
    got, none = jax.vmap(spatial.lanes(double, block))(numbers, jnp.zeros((size, 0)))
    assert jax.default_backend() != "cpu" or max(most) <= block
    np.testing.assert_array_equal(got, 2 * numbers)
    assert none.shape == (size, 0)


def test_mjx_moves_the_point_alike():
    """A third engine on the same model: MJX, which has no closed form."""
    robot = compiled("Point")
    model = mjx.put_model(robot.model)
    qpos, qvel, ctrl = (jnp.array(x) for x in ([0.1, -0.2, 0.7], [0.5, -0.3, 0.4], [0.03, 0.2]))

    @jax.jit
    def roll():
        def step(data, _):
            data = mjx.step(model, data)
            return data, (data.qpos, data.qvel)

        return jax.lax.scan(step, mjx.make_data(model).replace(qpos=qpos, qvel=qvel, ctrl=ctrl), length=10)[1]

    with jax.numpy_dtype_promotion("standard"):
        expected = roll()
    for k in (1, 4, 10):
        (*after, forces), _ = jax.jit(robot.body.coast, static_argnums=3)(qpos, qvel, ctrl, k)
        np.testing.assert_allclose(after[0], expected[0][k - 1], atol=1e-5)
        np.testing.assert_allclose(after[1], expected[1][k - 1], atol=2e-4)
    there = robot.forces(
        *(jnp.broadcast_to(x, (BATCH, len(x))) for x in (*after, ctrl)), nowhere(), jnp.zeros((BATCH, 6))
    )
    np.testing.assert_allclose(forces.qacc, there.qacc[0], rtol=1e-4, atol=1e-4)


def test_a_leaning_wheel_meets_a_pillar_where_mujoco_says():
    """Its discs bulge over the rectangle that it is from above when it stands straight."""
    spec = mujoco.MjSpec()
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=PILLAR.size, pos=[0, 0, PILLAR.height])
    wheel = spec.worldbody.add_body(mocap=True)
    wheel.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.05, 0.025, 0])
    model = spec.compile()
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(40):
        angle, yaw, lean = rng.uniform(-np.pi, np.pi), rng.uniform(-np.pi, np.pi), rng.uniform(-0.02, 0.02)
        place = [0.26 * np.cos(angle), 0.26 * np.sin(angle), 0.05]
        mat = np.stack([
            [np.cos(yaw) * np.cos(lean), np.sin(yaw) * np.cos(lean), np.sin(lean)], [-np.sin(yaw), np.cos(yaw), 0.0]
        ])  # fmt: skip
        axes = [mat[1], np.cross(mat[0], mat[1]), mat[0]]  # of the wheel, the last one its axle
        data.mocap_pos[0] = place
        mujoco.mju_mat2Quat(data.mocap_quat[0], np.stack(axes, axis=1).ravel())
        mujoco.mj_forward(model, data)
        expected = mujoco.mj_geomDistance(model, data, 0, 1, 1.0, None)
        pos, *turn, size = ([jnp.full((1, 1), x) for x in vec] for vec in (place, *axes, (0.05, 0.025, 0.0)))
        solid = collide.Solid("cylinder", pos, turn, size)
        at, world_axes = [jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.full((1, 1), 0.5)], np.eye(3, dtype=np.float32)
        (found,) = collide.obstacle(solid, PILLAR.kind, PILLAR.size, at, [list(axis) for axis in world_axes])
        np.testing.assert_allclose(found.dist[0, 0], expected, atol=1e-4)


TRICYCLE = """
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <body pos="0 0 0.1">
      <freejoint/>
      <geom type="box" size="0.1 0.1 0.05" density="100" contype="0" conaffinity="0"/>
      <geom type="sphere" size="0.05" pos="0.12 0 -0.05" condim="6"/>
      <body pos="0 0.12 -0.05">
        <joint name="left" axis="0 1 0"/>
        <geom type="sphere" size="0.05" condim="6"/>
      </body>
      <body pos="0 -0.12 -0.05">
        <joint name="right" axis="0 1 0"/>
        <geom type="sphere" size="0.05" condim="6"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="left" ctrlrange="-1 1"/>
    <motor joint="right" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""


def test_a_robot_without_long_limbs_rolls_as_in_mujoco():
    """No limb has a first or a second degree of freedom of three."""
    spec = mujoco.MjSpec.from_string(TRICYCLE)
    body = Articulated(spec.compile())
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5, 5, 0.1], condim=6)
    model = spec.compile()
    data = mujoco.MjData(model)
    data.ctrl[:] = 0.02, -0.01
    qpos, qvel, ctrl = (jnp.asarray(x, jnp.float32) for x in (data.qpos, data.qvel, data.ctrl))
    path, vels, _ = jax.jit(functools.partial(body.roll, num_steps=50))(qpos, qvel, ctrl)
    mujoco.mj_step(model, data, 50)
    assert np.abs(data.qpos[7:]).min() > 1e-3  # the wheels do turn
    np.testing.assert_allclose(path[-1], data.qpos, atol=1e-6)
    np.testing.assert_allclose(vels[-1], data.qvel, atol=1e-5)


def test_the_point_beside_a_pillar_is_mujoco_s_with_the_exact_contact():
    """MuJoCo's general collider stops within a micrometre, which leaves its normals on a round side off by 1e-3 rad."""
    places, model, expected, off = beside("Point", 0), world("Point"), [], []
    arrow, pillar = model.geom("pointarrow").id, model.ngeom - 2
    for i in range(BATCH):
        data = mujoco_forward("Point", i, places)
        turn, centre = data.geom_xmat[arrow].reshape(3, 3), data.geom_xpos[pillar]
        local = ((centre - data.geom_xpos[arrow]) @ turn)[:2]
        away = local - np.clip(local, -model.geom_size[arrow, :2], model.geom_size[arrow, :2])
        distance = np.linalg.norm(away)
        out = turn[:, :2] @ away / distance
        for touch in data.contact:
            if arrow in (touch.geom1, touch.geom2):
                normal = out if touch.geom1 == arrow else -out
                off.append(np.arccos(np.clip(normal @ touch.frame[:3], -1, 1)))
                side = touch.frame[3:6] - touch.frame[3:6] @ normal * normal
                side /= np.linalg.norm(side)
                touch.frame[:] = np.concatenate([normal, side, np.cross(normal, side)])
                touch.dist = distance - PILLAR.size[0]
                touch.pos[:2] = (centre - out * (PILLAR.size[0] + touch.dist / 2))[:2]
        # The rest of mj_forward, now with these contacts.
        mujoco.mj_makeConstraint(model, data)
        mujoco.mj_projectConstraint(model, data)
        mujoco.mj_fwdVelocity(model, data)
        mujoco.mj_fwdActuation(model, data)
        mujoco.mj_fwdAcceleration(model, data)
        mujoco.mj_fwdConstraint(model, data)
        expected.append(data.qacc.copy())
    assert len(off) > 10
    assert 1e-4 < np.median(off) < 1e-2

    got = compiled("Point").forces(*states("Point"), places, np.zeros((BATCH, 6), np.float32)).qacc
    assert relative(got, np.array(expected)).max() < 1e-4
    inexact = np.array([mujoco_forward("Point", i, places).qacc for i in range(BATCH)])
    assert relative(got, inexact).max() > 1e-3
