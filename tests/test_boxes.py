"""The boxes beside C MuJoCo on the same scenes: accelerations, paths, what the floor does, and who lies still."""

import functools
import importlib.resources

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from mjx_safety import collide_box, collide_boxes, robots, scene
from mjx_safety.boxes import Accelerations, Boxes, BoxPhysics, Kind, hover, lowest_by_search, lowest_by_sort
from mjx_safety.collide import Solid
from mjx_safety.contact import Frames, Obstacle, Reach, Shape
from mjx_safety.planar import PlanarBody

VASE = Kind(parts=(((0.0, 0.0, 0.0), (0.1, 0.1, 0.1)),), density=0.001, slots=3)
GREMLIN = VASE._replace(slots=2, travel=0.35)
COLUMNS = tuple(((x * 0.2, y * 0.2, 0.0), (0.1, 0.1, 0.2)) for x in (-1, 1) for y in (-1, 1))
BOX = Kind(parts=(((0.0, 0.0, 0.0), (0.2, 0.2, 0.2)), *COLUMNS), density=0.001, slots=1)
POINT = (
    Shape("sphere", 0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.1, 0.0, 0.0)),
    Shape("box", 0, (0.1, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.05, 0.05, 0.05)),
)
CAPSULE = (Shape("capsule", 0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.032, 0.08, 0.0)),)
PILLAR = Obstacle("cylinder", (0.2, 0.5, 0.0), 0.5)
DT = 0.002
REST = 0.0999564  # height at which a vase's weight and the floor's push are even
FAR = Frames(jnp.array([[9.0, 9.0, 0.1]]), jnp.eye(3)[None], jnp.zeros((1, 3)), jnp.zeros((1, 3)))
STILL = Accelerations(jnp.zeros((1, 3)), jnp.zeros((1, 3)))


def f32(x):
    return jnp.asarray(x, jnp.float32)


def free(spec, kind, floor=True):
    """Adds the floor and a free body for each slot; the robot's own parts do not touch the floor."""
    for geom in spec.geoms:
        geom.contype = geom.conaffinity = 2
    if floor:
        spec.worldbody.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5, 5, 1], condim=6)
    for i in range(kind.slots):
        body = spec.worldbody.add_body(name=f"box{i}", pos=[3 * i, 0, 5])
        body.add_freejoint()
        for pos, half in kind.parts:
            geom = body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos, size=half, density=kind.density, condim=6)
            geom.contype = geom.conaffinity = 3
    return spec.compile()


@functools.cache
def point_world(kind: Kind) -> mujoco.MjModel:
    asset = importlib.resources.files("mjx_safety") / "assets" / "point.xml"
    return free(mujoco.MjSpec.from_string(asset.read_text()), kind)


class Compiled:
    """A kind's functions, compiled once."""

    def __init__(self, kind: Kind, shapes=POINT, obstacles=(), invweight=(128.5,)):
        self.physics = BoxPhysics(kind, shapes, obstacles, DT, 10, invweight, robot_mass=1.0)
        self.advance = jax.jit(self.physics.advance)
        self.contacts = jax.jit(self.physics.contacts)

    def step(self, state, frames=FAR, acc=STILL, places=(), home=None, time=0.0):
        num = state.pos.shape[0]
        home = jnp.zeros((num, 3)) if home is None else home
        return self.advance(state, frames, acc, places, home, jnp.float32(time))


compiled = functools.cache(Compiled)


def at(pos, quat=None, linvel=None, angvel=None) -> Boxes:
    pos = f32(pos)
    num = len(pos)
    upright = jnp.tile(jnp.array([1.0, 0.0, 0.0, 0.0]), (num, 1))
    return Boxes(
        pos,
        upright if quat is None else f32(quat),
        jnp.zeros((num, 3)) if linvel is None else f32(linvel),
        jnp.zeros((num, 3)) if angvel is None else f32(angvel),
    )


def read(data, num):
    """The first `num` boxes of a MuJoCo world, behind the robot's three joints."""
    qpos, qvel = data.qpos[3:].reshape(-1, 7)[:num], data.qvel[3:].reshape(-1, 6)[:num]
    mats = data.xmat[2 : 2 + num].reshape(-1, 3, 3)
    return at(qpos[:, :3], qpos[:, 3:], qvel[:, :3], np.einsum("nij,nj->ni", mats, qvel[:, 3:]))


def point_frames(pose, vel, acc):
    cos, sin = np.cos(pose[2]), np.sin(pose[2])
    mat = [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]
    frames = Frames(f32([[*pose[:2], 0.1]]), f32([mat]), f32([[*vel[:2], 0]]), f32([[0, 0, vel[2]]]))
    return frames, Accelerations(f32([[*acc[:2], 0]]), f32([[0, 0, acc[2]]]))


def touching(kind, seed, tilt):
    """A MuJoCo world with the Point at the origin and a box, on the floor, some 0.5 mm inside it."""
    model = point_world(kind)
    data = mujoco.MjData(model)
    rng = np.random.default_rng(seed)
    bearing, yaw = rng.uniform(-np.pi, np.pi, 2)
    quat = np.zeros(4)
    mujoco.mju_mulQuat(
        quat, np.array([1, *rng.normal(0, tilt, 2), 0]), np.array([np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
    )
    height = kind.parts[0][1][2]
    for dist in np.arange(0.7, 0.1, -2.5e-4):
        data.qpos[3:10] = [dist * np.cos(bearing), dist * np.sin(bearing), height, *quat / np.linalg.norm(quat)]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        if any(c.dist < -4e-4 for c in robot_contacts(model, data)):
            break
    mat = data.xmat[2].reshape(3, 3)
    extent = max(
        np.abs(np.array(centre)) @ np.abs(mat[2]) + np.array(half) @ np.abs(mat[2]) for centre, half in kind.parts
    )
    data.qpos[5] = extent - 4e-5
    data.qvel[:9] = rng.uniform(-0.5, 0.5, 9) * [1, 1, 1, 1, 1, 0.1, 1, 1, 1]
    mujoco.mj_forward(model, data)
    return model, data


def robot_contacts(model, data):
    return [c for c in data.contact[: data.ncon] if 1 in model.geom_bodyid[[c.geom1, c.geom2]]]


@pytest.mark.parametrize(("kind", "tilt", "typical", "most"), [(VASE, 0.01, 0.01, 0.2), (BOX, 0.0, 0.05, 0.2)])
def test_a_pushed_box_accelerates_as_in_mujoco(kind, tilt, typical, most):
    """Gravity, floor and robot at once; and what the box does to the robot."""
    run = compiled(kind)
    errors, pushes, counts = [], [], []
    for seed in range(24):
        model, data = touching(kind, seed, tilt)
        frames, acc = point_frames(data.qpos[:3], data.qvel[:3], data.qacc[:3])
        before = read(data, kind.slots)
        after, push = run.step(before, frames, acc)
        got = np.concatenate([after.linvel[0] - before.linvel[0], after.angvel[0] - before.angvel[0]]) / DT
        expected = np.concatenate([data.qacc[3:6], data.xmat[2].reshape(3, 3) @ data.qacc[6:9]])
        scale = np.array([1, 1, 1, *[kind.parts[0][1][0]] * 3])  # turning, as the acceleration that it gives the sides
        errors.append(np.abs((got - expected) * scale).max() / max(1.0, np.abs(expected * scale).max()))
        force = data.qfrc_constraint[:3]
        pushes.append(np.abs(np.asarray(push)[[0, 1, 5]] - force).max() / (np.abs(force).max() + 1e-6))
        counts.append((run.contacts(before, frames)[0] > 0) == (len(robot_contacts(model, data)) > 0))
    assert np.median(errors) < typical
    assert np.quantile(errors, 0.8) < most
    assert np.median(pushes) < 0.05
    assert np.mean(counts) > 0.95


def test_the_point_and_the_box_accelerate_together_as_in_mujoco():
    """Both at once, where the box is heavy for the robot."""
    robot = PlanarBody(scene.robot_model(robots.POINT))
    run = Compiled(BOX, robot.shapes)

    def solve(qpos, qvel, ctrl, boxes, frames):
        system = robot.system(qpos, qvel, ctrl, (), jnp.zeros((6, 1)))
        acc, after, push = run.physics.advance_with(system, boxes, frames, (), jnp.zeros((1, 3, 1)), jnp.zeros(1))
        return jnp.concatenate([acc, (after.linvel - boxes.linvel)[0] / DT]), push

    solve = jax.jit(solve)
    errors, alone, pushes = [], [], []
    for seed in range(24):
        _, data = touching(BOX, seed, 0.0)
        data.ctrl[:] = [0.03, 0.0]
        mujoco.mj_forward(point_world(BOX), data)
        frames, _ = point_frames(data.qpos[:3], data.qvel[:3], data.qacc[:3])
        state = f32(data.qpos[:3]), f32(data.qvel[:3]), f32(data.ctrl), read(data, 1), frames
        got, push = solve(*jax.tree.map(lambda x: x[..., None], state))
        error = np.abs(got[:, 0] - data.qacc[:6]) * [1, 1, 0.1, 1, 1, 1]  # turning, as what it gives the surface
        errors.append(error.max() / max(1.0, np.abs(data.qacc[:6]).max()))
        force = data.qfrc_constraint[:3]
        alone.append(np.abs(force).max() / np.abs(data.qfrc_actuator[:3]).max())
        pushes.append(np.abs(np.asarray(push)[[0, 1, 5], 0] - force).max() / (np.abs(force).max() + 1e-6))
    assert np.median(alone) > 0.1  # the robot feels the box
    assert np.max(errors) < 0.01
    assert np.max(pushes) < 0.05


@pytest.mark.parametrize("kind", [VASE, BOX])
def test_a_pushed_box_takes_mujoco_s_path(kind):
    """Ten environment steps of the Point driving into a box: final position, and in how many steps they touch."""
    run = compiled(kind)
    model = point_world(kind)
    physics = run.physics

    @jax.jit
    def replay(state, frames, acc):
        def body(state, robot):
            state, _ = physics.advance(state, *robot, (), jnp.zeros((kind.slots, 3)), jnp.zeros(()))
            return state, (state, physics.contacts(state, robot[0]))

        return jax.lax.scan(body, state, (frames, acc))[1]

    errors, touches = [], []
    for seed in range(8):
        _, data = touching(kind, seed, 0.0)
        data.qvel[3:9] = 0
        data.qvel[:3] = [*data.qpos[3:5] / np.linalg.norm(data.qpos[3:5]) * 0.5, 0.2]
        mujoco.mj_forward(model, data)
        before, path, robot = read(data, kind.slots), [], []
        start = data.qpos[3:5].copy()
        for _ in range(100):
            pose, vel = data.qpos[:3].copy(), data.qvel[:3].copy()
            mujoco.mj_step(model, data)
            robot.append(point_frames(pose, vel, (data.qvel[:3] - vel) / DT))
            path.append((*data.qpos[3:6], len(robot_contacts(model, data))))
        frames, acc = jax.tree.map(lambda *x: jnp.stack(x), *robot)
        states, counts = replay(before, frames, acc)
        path = np.array(path)
        moved = np.linalg.norm(path[-1, :2] - start)
        assert moved > 0.03
        errors.append(np.linalg.norm(states.pos[-1, 0] - path[-1, :3]) / moved)
        touches.append(((np.asarray(counts)[:, 0] > 0).mean(), (path[:, 3] > 0).mean()))
    assert np.median(errors) < 0.08
    np.testing.assert_allclose(*np.mean(touches, axis=0), atol=0.1)


def meetings(kind, size, num):
    """MuJoCo's model and data of a free geom in `num` random poses, and a vase at the origin, with their contacts."""
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body(name="robot", pos=[0, 0, 0])
    body.add_freejoint()
    body.add_geom(type=kind, size=size, condim=6)
    model = free(spec, VASE._replace(slots=1), floor=False)
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for _ in range(num):
        quat = rng.normal(size=4)
        data.qpos[:] = [*rng.uniform(-0.2, 0.2, 3), *quat / np.linalg.norm(quat), 0, 0, 0, 1, 0, 0, 0]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_collision(model, data)
        yield model, data


def deepest(model, data):
    """The deepest contact, and its normal out of the robot."""
    contact = data.contact[int(np.argmin(data.contact.dist))]
    return contact, contact.frame[:3] * (1 if model.geom_bodyid[contact.geom1] == 1 else -1)


def test_capsules_touch_boxes_as_in_mujoco():
    """Distances and whereabouts of contacts with a capsule at any angle."""
    box = Solid("box", [0.0] * 3, list(np.eye(3, dtype=np.float32)), [0.1] * 3)
    radius, half_length, _ = CAPSULE[0].size
    find = jax.jit(lambda pos, axis: collide_box.capsule(list(pos), list(axis), radius, half_length, box))
    checked = 0
    for model, data in meetings(mujoco.mjtGeom.mjGEOM_CAPSULE, CAPSULE[0].size, 200):
        got = min(find(f32(data.xpos[1]), f32(data.xmat[1].reshape(3, 3)[:, 2])), key=lambda x: x.dist)
        if data.ncon == 0 or data.contact.dist.min() < -0.02:
            assert data.ncon or got.dist > 0
            continue
        expected, normal = deepest(model, data)
        np.testing.assert_allclose(got.dist, expected.dist, atol=1e-4)
        np.testing.assert_allclose(got.normal, normal, atol=1e-2)
        checked += 1
    assert checked >= 10


def test_boxes_at_any_angle_touch_as_in_mujoco():
    """The deepest contact of two boxes: face against corner, or edge against edge."""

    @jax.jit
    def find(pos, mat):
        still = Solid("box", [0.0] * 3, [list(axis) for axis in np.eye(3, dtype=np.float32)], [0.1] * 3)
        moved = Solid("box", list(pos), [list(mat[:, i]) for i in range(3)], list(POINT[1].size))
        return collide_boxes.meet(moved, still)

    checked, edges, wrong = 0, 0, 0
    for model, data in meetings(mujoco.mjtGeom.mjGEOM_BOX, POINT[1].size, 2000):
        if data.ncon == 0 or data.contact.dist.min() < -0.01:
            continue
        mat = data.xmat[1].reshape(3, 3)
        got = min(find(f32(data.xpos[1]), f32(mat)), key=lambda x: x.dist)
        expected, normal = deepest(model, data)
        edges += max(np.abs(normal).max(), np.abs(mat.T @ normal).max()) < 1 - 1e-6
        same = np.abs(got.dist - expected.dist) < 1e-5 and np.abs(np.array(got.normal) - normal).max() < 1e-3
        wrong += not (same and np.abs(np.array(got.pos) - expected.pos).max() < 1e-4)
        checked += 1
    assert checked > 50
    assert edges > 10
    assert wrong < 0.05 * checked


def test_boxes_alike_touch_with_finite_slopes():
    """Of boxes with the same axes no edges cross; shapes and parts of boxes broadcast."""
    axes = jnp.eye(3)

    def dist(pos, turned):
        a = Solid("box", list(pos[:, :, None, None, None]), list(map(list, turned)), [0.1] * 3)  # [shapes, 1, 1, 1]
        b = Solid("box", [jnp.zeros((2, 1, 1))] * 3, list(map(list, axes)), [np.float32([[[0.1]], [[0.2]]])] * 3)
        return jnp.stack([c.dist for c in collide_boxes.meet(a, b)])  # b: [parts, 1, 1]

    pos = jnp.array([[0.19, 0.25, 0.5], [0.0] * 3, [0.0] * 3])  # of three
    np.testing.assert_allclose(dist(pos, axes)[..., 0, 0], [[[-0.01, -0.11], [1, -0.05], [1, 1]]] * 4, atol=1e-6)
    slope, turn = jax.grad(lambda *args: jnp.where(dist(*args) < 0, dist(*args), 0.0).sum(), (0, 1))(pos, axes)
    np.testing.assert_allclose(slope, [[8, 4, 0], [0] * 3, [0] * 3], atol=1e-5)
    assert np.isfinite(turn).all()


def test_the_floor_brakes_vases_as_in_mujoco():
    """Three lone vases: 10 m/s^2 on average at speed (it hops), exponential below 0.2 m/s, then a slow tail."""
    run = compiled(VASE)
    model = point_world(VASE)
    data = mujoco.MjData(model)
    data.qpos[:2] = 9
    data.qpos[3:].reshape(3, 7)[:, :3] = [[0, 0, REST], [1, 0, REST], [2, 0, REST]]
    data.qvel[3:].reshape(3, 6)[:, :2] = [[1.0, 0], [0, 0.15], [0.004, 0]]
    mujoco.mj_forward(model, data)
    state, speeds = read(data, 3), []
    for _ in range(40):
        state, _ = run.step(state)
        mujoco.mj_step(model, data)
        expected = data.qvel[3:].reshape(3, 6)[:, :3]
        np.testing.assert_allclose(state.linvel, expected, atol=2e-3, rtol=1e-3)
        speeds.append(np.linalg.norm(np.asarray(state.linvel)[:, :2], axis=1))
    fast, middle, _ = np.array(speeds).T
    np.testing.assert_allclose((fast[0] - fast[29]) / (29 * DT), 10.0, rtol=0.1)
    assert 100 < np.log(middle[1] / middle[8]) / (7 * DT) < 160
    np.testing.assert_allclose(np.log(middle[27] / middle[39]) / (12 * DT), 34.0, rtol=0.1)


def test_boxes_at_rest_stay_exactly_where_they_are():
    run = compiled(VASE)
    state = at([[0.25, 0, REST], [0.5, 0.3, 0.09996], [0, 0.4, REST]])
    frames, acc = point_frames([0.0, 0.0, 0.0], [0.5, 0.0, 0.4], [1.0, 0.0, 0.0])
    assert not run.contacts(state, frames).any()
    after, push = run.step(state, frames, acc)
    jax.tree.map(np.testing.assert_array_equal, after, state)
    np.testing.assert_array_equal(push, 0)


def test_a_slow_box_falls_asleep():
    physics = compiled(VASE).physics
    state = at(np.full((3, 3), REST), linvel=[[4e-5, 0, 0], [6e-5, 0, 0], [0, 0, 0]])
    state = physics.settle(state)
    np.testing.assert_array_equal(state.linvel[:, 0], f32([0.0, 6e-5, 0.0]))
    np.testing.assert_array_equal(physics.awake(state), [False, True, False])


def test_vases_pass_their_momentum_on():
    run = compiled(VASE)
    state = at([[0, 0, 1], [0.1995, 0.02, 1], [3, 0, 1]], linvel=[[0.5, 0, 0], [0, 0, 0], [0, 0.1, 0]])
    for _ in range(10):
        state, _ = run.step(state)
    total = np.asarray(state.linvel).sum(axis=0)
    np.testing.assert_allclose(total[:2], [0.5, 0.1], atol=0.01)
    assert state.linvel[1, 0] > state.linvel[0, 0]
    np.testing.assert_allclose(state.linvel[:, 2], state.linvel[2, 2], atol=0.02)  # they fall together


def test_the_robot_s_neighbours_and_moving_boxes_get_the_slots():
    physics = compiled(VASE).physics
    pos = np.array([[x, 2.0, REST] for x in np.arange(6.0)])
    pos[4] = [0.2, 0.0, REST]
    state = at(pos, linvel=np.eye(6)[1][:, None] * [[0.3, 0.0, 0.0]])
    reach = Reach(f32([[-1.0, 0.0, 0.1], [0.005, 0.0, 0.1]]), f32([0.1, 0.105]))
    clearance = physics.clearance(state, reach)
    np.testing.assert_allclose(clearance[4], 0.2 - 0.1 - 0.005 - 0.105, atol=1e-6)
    np.testing.assert_array_equal(clearance < 0, np.arange(6) == 4)
    assert physics.choose(state, clearance)[:3].tolist() == [4, 1, 0]  # 0 is next to 1, which moves
    still = state.replace(linvel=jnp.zeros((6, 3)))
    assert physics.choose(still, clearance + 1.0)[:3].tolist() == [4, 0, 1]


def test_clearance_is_that_of_the_nearest_part_of_a_turned_box():
    parts = (
        ((0.0, 0.0, 0.0), (0.2, 0.2, 0.2)),
        ((0.2, 0.2, 0.0), (0.1, 0.1, 0.2)),
        ((-0.2, 0.2, 0.0), (0.1, 0.1, 0.2)),
    )
    physics = compiled(VASE._replace(parts=parts, slots=1)).physics
    state = at([[1.0, 0.0, 0.2]], quat=[[np.cos(np.pi / 4), 0.0, 0.0, np.sin(np.pi / 4)]])  # a quarter turn: y is -x
    notch, column = [0.75, 0.0, 0.2], [0.65, 0.2, 0.2]
    for centre, gap in ((notch, 0.05), (column, 0.05)):
        clearance = physics.clearance(state, Reach(f32([centre]), f32([0.01])))
        np.testing.assert_allclose(clearance, [gap - 0.01], atol=1e-6)


def gremlin_world() -> mujoco.MjModel:
    turn = f"{np.cos(0.4)} 0 0 {np.sin(0.4)}"
    return mujoco.MjModel.from_xml_string(f"""
      <mujoco>
        <option timestep="{DT}"/>
        <worldbody>
          <body name="target" mocap="true" quat="{turn}"/>
          <body name="gremlin" pos="0.3 0.2 0.1" quat="{turn}">
            <freejoint/><geom type="box" size="0.1 0.1 0.1" density="0.001"/>
          </body>
        </worldbody>
        <equality><weld body1="target" body2="gremlin" solref="0.02 1.5"/></equality>
      </mujoco>""")


def test_gremlins_glide_as_in_mujoco():
    """From the start at the circle's centre, turned and spinning, to the steady circle."""
    physics = compiled(GREMLIN).physics
    model = gremlin_world()
    data = mujoco.MjData(model)
    tilt = np.array([np.cos(0.1), np.sin(0.1), 0.0, 0.0])
    mujoco.mju_mulQuat(data.qpos[3:7], tilt, model.qpos0[3:7])
    data.qvel[3:6] = [0.0, 0.0, 2.0]
    mujoco.mj_forward(model, data)
    home = f32([[0.3, 0.2, 0.8]])
    spin = data.xmat[2].reshape(3, 3) @ data.qvel[3:6]
    glide = jax.jit(physics.glide, static_argnums=3)
    state = at([data.qpos[:3]], [data.qpos[3:]], angvel=[spin])
    path = []
    for step in range(400):
        state = glide(state, home, jnp.float32(step * 10 * DT), 10)
        for _ in range(10):
            data.mocap_pos[0] = [0.35 * np.sin(data.time), 0.35 * np.cos(data.time), 0.1]
            mujoco.mj_step(model, data)
        np.testing.assert_allclose(state.pos[0], data.qpos[:3], atol=1e-4)
        np.testing.assert_allclose(state.quat[0], data.qpos[3:], atol=1e-3)
        np.testing.assert_allclose(state.linvel[0], data.qvel[:3], atol=1e-3)
        path.append(np.asarray(state.pos[0] - jnp.array([0.3, 0.2, 0.0])))
    # What was published of the original: offsets after 1 to 6 steps, radius and lag of the circle, height.
    np.testing.assert_allclose([p[1] for p in path[:6]], [0.047, 0.110, 0.163, 0.204, 0.236, 0.261], atol=1.5e-3)
    x, y, z = path[-1]
    np.testing.assert_allclose(np.hypot(x, y), 0.9967 * 0.35, atol=2e-4)
    np.testing.assert_allclose((400 * 10 * DT - np.arctan2(x, y)) % (2 * np.pi), 0.089, atol=3e-3)
    np.testing.assert_allclose(z, 0.1996, atol=1e-4)


def test_a_welded_step_is_a_glide_of_one_step():
    run = compiled(GREMLIN)
    home = f32([[0.0, 0.0, 0.5], [2.0, 0.0, -1.0]])
    quat = np.stack([np.cos(home[:, 2] / 2), np.zeros(2), np.zeros(2), np.sin(home[:, 2] / 2)], axis=-1)
    state = at([[0.1, 0.3, 0.19], [2.3, -0.1, 0.2]], quat, [[0.1, 0, 0], [0, 0.2, 0.1]], [[0, 0, 1.0], [0.5, 0, 0]])
    stepped, _ = run.step(state, home=home, time=1.3)
    glided = jax.jit(run.physics.glide, static_argnums=3)(state, home, jnp.float32(1.3), 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), stepped, glided)
    assert not run.physics.awake(state).any()


def test_a_gremlin_tilted_far_turns_back_as_in_mujoco():
    """Turns of up to 2 rad, where the weld's torque is no longer proportional to them.

    Slow spins: MuJoCo 4 adds the weld's J'v, which 3.3.7 had not, on which the original was recorded.
    """
    model = gremlin_world()
    run, rng = compiled(GREMLIN), np.random.default_rng(0)
    for _ in range(20):
        data = mujoco.MjData(model)
        axis, angle = rng.normal(size=3), rng.uniform(0.5, 2.0)
        turn = np.array([np.cos(angle / 2), *np.sin(angle / 2) * axis / np.linalg.norm(axis)])
        mujoco.mju_mulQuat(data.qpos[3:7], turn, model.qpos0[3:7])
        data.qpos[:3] = np.array([0.3, 0.2, hover(GREMLIN)]) + rng.uniform(-0.05, 0.05, 3)
        data.qvel[:] = rng.uniform(-1, 1, 6) * 0.3
        data.mocap_pos[0] = [0.0, 0.35, 0.1]
        mujoco.mj_forward(model, data)
        mat = data.xmat[2].reshape(3, 3)
        before = at([data.qpos[:3]], [data.qpos[3:]], [data.qvel[:3]], [mat @ data.qvel[3:]])
        after, _ = run.step(before, home=f32([[0.3, 0.2, 0.8]]), time=0.0)
        np.testing.assert_allclose((after.linvel - before.linvel)[0] / DT, data.qacc[:3], rtol=1e-3, atol=1e-2)
        got = (after.angvel - before.angvel)[0] / DT
        np.testing.assert_allclose(got, mat @ data.qacc[3:], rtol=1e-3, atol=1e-3 * np.abs(data.qacc[3:]).max())


def test_a_pillar_stops_the_box():
    run = compiled(BOX, POINT, (PILLAR,))
    state = at([[0, 0, 0.19996]], linvel=[[1.0, 0, 0]])
    for _ in range(60):
        state, push = run.step(state, places=(f32([[0.55, 0.05], [3.0, 3.0]]),))
        np.testing.assert_array_equal(push, 0)
    assert 0.0 < state.pos[0, 0] < 0.06  # 0.05 m of room, where a free box slides on


@pytest.mark.parametrize("kind", [VASE._replace(slots=1), BOX])
def test_a_box_feels_the_body_that_it_touches(kind):
    """The second of two bodies, which move and weigh differently, as if it were alone; with few candidates and many."""
    ball = Shape("sphere", 0, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.1, 0.0, 0.0))
    half = max(centre[0] + size[0] for centre, size in kind.parts)
    state = at([[0.0, 0.0, kind.parts[0][1][2]]])
    pos, linvel, angvel, linacc, angacc = (
        f32(x)
        for x in (
            [[0.0, 2.0, 0.1], [half + 0.0995, 0.2 * (kind is BOX), 0.1]],
            [[3.0, -1.0, 0.5], [-0.2, 0.1, 0.0]],
            [[5.0, 2.0, -3.0], [0.0, 0.3, 1.0]],
            [[9.0, 9.0, 9.0], [-4.0, 2.0, 0.0]],
            [[-9.0, 9.0, 9.0], [0.0, 1.0, 3.0]],
        )
    )
    frames, acc = Frames(pos, jnp.stack([jnp.eye(3)] * 2), linvel, angvel), Accelerations(linacc, angacc)
    both = compiled(kind, (ball, ball._replace(body=1)), (), (7.0, 128.5))
    alone = compiled(kind, (ball,), (), (128.5,))
    got, push = both.step(state, frames, acc)
    want, push_alone = alone.step(state, *jax.tree.map(lambda x: x[1:], (frames, acc)))
    assert np.linalg.norm(push_alone[:3]) > 1e-6
    assert np.abs(np.asarray(want.linvel)).max() > 1e-3
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6), got, want)
    np.testing.assert_allclose(push[:3], push_alone[:3], rtol=1e-3)


def test_both_ways_to_find_the_lowest_find_the_same():
    values = np.random.default_rng(0).integers(0, 7, (9, 3, 5)).astype(np.float32)  # many are equal
    expected = np.argsort(values, axis=0, kind="stable")[:6]
    for find in (lowest_by_search, lowest_by_sort):
        np.testing.assert_array_equal(find(jnp.asarray(values), 6), expected)
