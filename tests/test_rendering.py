"""Pictures: both renderers show the same scene, and a machine without a GL library still gets its video."""

import os
import subprocess
import sys
import types
import warnings

import flax.struct
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import mjx_safety
from mjx_safety import rendering
from mjx_safety.rendering import _flat, _gl, _scene
from mjx_safety.suite import TASKS

WIDTH, HEIGHT = 160, 120
FAR_PIXELS = HEIGHT / 2 / (50**0.5 * np.tan(np.pi / 8))  # a metre at the middle of "fixedfar", 5 metres back and up
NEAR_PIXELS = FAR_PIXELS * 2.5


@flax.struct.dataclass
class Episode:
    obs: jax.Array
    cost: jax.Array
    world: dict[str, jax.Array]


ENV = types.SimpleNamespace(
    task=TASKS["PointGoal1"],
    observation_slices={"goal_lidar": slice(3, 19), "hazards_lidar": slice(22, 38), "vases_lidar": slice(38, 54)},
    get_world=lambda state: state.world,
)


def episode(
    robot=((-1.0, -1.0),),
    vase=(1.0, 1.0),
    vase_yaw=0.0,
    hazard=(9.0, 9.0),
    goal=(9.0, 9.0),
    yaw=0.0,
    cost=0.0,
    seen=None,
):
    """States in which the robot visits some points; readings by kind as {bin: value}."""
    num = len(robot)

    def still(*values):
        return jnp.broadcast_to(jnp.array(values, jnp.float32), (num, *np.shape(values)))

    obs = np.zeros((num, 54), np.float32)
    for kind, readings in (seen or {}).items():
        for sector, value in readings.items():
            obs[:, ENV.observation_slices[f"{kind}_lidar"].start + sector] = value
    world = {
        "robot_pos": jnp.array([[x, y, 0.1] for x, y in robot], jnp.float32),
        "robot_quat": still(np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)),
        "joint_pos": jnp.zeros((num, 0)),
        "goal_pos": still(*goal, 0.16),
        "hazards_pos": still((*hazard, 0.02), *[(9.0, 9.0, 0.02)] * 7),
        "vases_pos": still((*vase, 0.1)),
        "vases_quat": still((np.cos(vase_yaw / 2), 0.0, 0.0, np.sin(vase_yaw / 2))),
    }
    return Episode(jnp.asarray(obs), jnp.full(num, cost, jnp.float32), world)


def draw(states, camera="fixedfar"):
    return rendering.render(ENV, states, camera, WIDTH, HEIGHT).astype(float)


def patch(frame, right, up=0.0):
    """Mean colour of 3 x 3 pixels, so many pixels from the middle of a frame."""
    row, column = round(HEIGHT / 2 - up), round(WIDTH / 2 + right)
    return frame[row - 1 : row + 2, column - 1 : column + 2].mean(axis=(0, 1))


def where(difference):
    """Centre of a change between two frames: pixels (right, up) from the middle."""
    weight = np.abs(difference).sum(axis=-1)
    assert weight.any()
    rows, columns = np.indices(weight.shape)
    return np.array([(weight * columns).sum(), -(weight * rows).sum()]) / weight.sum() - [
        WIDTH / 2 - 0.5,
        0.5 - HEIGHT / 2,
    ]


@pytest.fixture
def flat(monkeypatch):
    monkeypatch.setattr(_gl, "backend", lambda: None)


@pytest.fixture(params=["flat", "gl"])
def renderer(request, monkeypatch):
    if request.param == "flat":
        monkeypatch.setattr(_gl, "backend", lambda: None)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if _gl.backend() is None:
                pytest.skip("no GL library works on this machine")
    return request.param


@pytest.fixture
def no_gl(monkeypatch):
    """A machine on which every back end fails; gives the list of those tried."""
    tried = []

    def run(command, env, **_):
        tried.append(env["MUJOCO_GL"])
        return subprocess.CompletedProcess(command, returncode=1)

    monkeypatch.setattr(_gl.subprocess, "run", run)
    monkeypatch.setattr(_gl.platform, "system", lambda: "Linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    _gl.backend.cache_clear()
    yield tried
    _gl.backend.cache_clear()


@pytest.mark.parametrize(("width", "height"), [(160, 120), (97, 61)])
def test_an_episode_becomes_frames_of_the_size_asked_for(renderer, width, height):
    states = episode(robot=[(0.0, 0.0), (0.5, 0.0), (1.0, 0.0)])
    frames = rendering.render(ENV, states, width=width, height=height)
    assert frames.dtype == np.uint8
    assert frames.shape == (3, height, width, 3)
    assert not np.array_equal(frames[0], frames[1])


def test_a_single_state_is_one_frame(renderer):
    states = episode(robot=[(0.0, 0.0), (0.5, 0.0)])
    alone = draw(jax.tree.map(lambda leaf: leaf[1], states))
    np.testing.assert_array_equal(alone, draw(states)[1:])


def test_a_picture_does_not_depend_on_those_before_it(renderer):
    first, second = episode(robot=[(0.0, 0.0)], cost=1.0), episode(robot=[(0.5, 0.5)])
    expected = draw(second)
    draw(first)
    np.testing.assert_array_equal(draw(second), expected)


def test_a_cost_puts_a_red_sphere_round_the_robot(renderer):
    free, costly = draw(episode(), "track")[0], draw(episode(cost=1.0), "track")[0]
    redness = [frame[..., 0].mean() - frame[..., 1:].mean() for frame in (free, costly)]
    assert redness[1] > redness[0] + 0.5
    beside_robot = 0.18 * NEAR_PIXELS  # outside the robot, whose radius is 0.1, and inside the sphere of 0.25
    red, green, blue = patch(costly, -beside_robot)
    assert red > green + 40
    assert red > blue + 40
    np.testing.assert_allclose(patch(free, -2 * beside_robot), patch(costly, -2 * beside_robot))


@pytest.mark.parametrize("x", [-1.5, 0.0, 1.0])
def test_a_vase_has_its_place_and_colour(renderer, x):
    red, green, blue = patch(draw(episode(vase=(x, 0.0)))[0], x * FAR_PIXELS)
    assert min(green, blue) > red + 60
    grey = patch(draw(episode(vase=(x + 0.5, 0.0)))[0], x * FAR_PIXELS)
    assert np.ptp(grey) < 20


def test_north_is_up_and_east_is_right(renderer):
    empty, north, east = (draw(episode(vase=vase))[0] for vase in [(0.0, -99.0), (0.0, 1.5), (1.5, 0.0)])
    right, up = where(north - empty)
    assert abs(right) < 1
    assert up > 10
    right, up = where(east - empty)
    assert right > 15
    assert abs(up) < 3


def test_a_vase_turns():
    solids = _scene.build(ENV, episode(vase_yaw=0.3)).solids
    (vase,) = np.flatnonzero((solids.rgba[0] == [0, 1, 1, 1]).all(axis=-1))
    np.testing.assert_allclose(solids.mat[0, vase, :, 0], [np.cos(0.3), np.sin(0.3), 0], atol=1e-6)


def test_goal_and_hazard_let_the_floor_shine_through(renderer):
    floor = patch(draw(episode())[0], 0.0)
    goal = patch(draw(episode(goal=(0.0, 0.0)))[0], 0.0)
    hazard = patch(draw(episode(hazard=(0.0, 0.0)))[0], 0.0)
    assert goal[1] > max(goal[0], goal[2]) + 30
    assert hazard[2] > max(hazard[:2]) + 30
    assert min(goal.min(), hazard.min()) > 0.1 * floor.min()


def test_the_robot_is_red_and_track_follows_it(renderer):
    near, far = draw(episode(robot=[(0.0, 0.0), (1.5, -2.0)]), "track")
    for frame in (near, far):
        red, green, blue = patch(frame, 0.0)
        assert red > max(green, blue) + 100
    near, far = draw(episode(robot=[(0.0, 0.0), (1.5, -2.0)]), "fixednear")
    assert np.ptp(patch(near, 0.0)) > 50 > np.ptp(patch(far, 0.0))


def test_the_arrow_shows_the_heading(renderer):
    east, west = (draw(episode(yaw=yaw), "track")[0] for yaw in (0.0, np.pi))
    assert where(np.maximum(east[..., 0] - east[..., 1], 0)[..., None])[0] > 1
    assert where(np.maximum(west[..., 0] - west[..., 1], 0)[..., None])[0] < -1


@pytest.mark.parametrize("sector", [0, 4, 9])
@pytest.mark.parametrize("kind", ["goal", "hazards", "vases"])
def test_a_reading_lights_the_dot_in_its_direction_from_above(flat, kind, sector):
    yaw = 0.7
    dark, lit = draw(episode(yaw=yaw), "track")[0], draw(episode(yaw=yaw, seen={kind: {sector: 0.9}}), "track")[0]
    offset = where(lit - dark)
    angle = yaw + 2 * np.pi * (sector + 0.5) / 16
    np.testing.assert_allclose(offset / np.linalg.norm(offset), [np.cos(angle), np.sin(angle)], atol=0.05)
    colour = np.array({"goal": (0, 1, 0), "hazards": (0, 0, 1), "vases": (0, 1, 1)}[kind])
    pixel = patch(lit, *offset)
    assert pixel[colour == 1].min() > pixel[colour == 0].max() + 40


def test_rings_stand_above_the_robot_in_safety_gyms_order():
    scene = _scene.build(ENV, episode(robot=[(0.3, 0.2)], yaw=np.pi / 2, seen={"vases": {3: 1.0}}))
    goal, hazards, vases = scene.rings
    np.testing.assert_allclose([ring.pos[0, 0, 2] for ring in scene.rings], [0.6, 0.66, 0.72], atol=1e-6)
    half_bin = np.pi / 16
    np.testing.assert_allclose(
        goal.pos[0, 0, :2], [0.3 - 0.15 * np.sin(half_bin), 0.2 + 0.15 * np.cos(half_bin)], atol=1e-6
    )
    np.testing.assert_allclose(hazards.rgba[0], np.broadcast_to([0, 0, 0.1, 0.1], (16, 4)), atol=1e-6)
    np.testing.assert_allclose(vases.rgba[0, 3], [0, 1, 1, 1])


def test_robots_with_joints_are_posed_by_them(monkeypatch):
    spec = mujoco.MjSpec.from_string("""
      <mujoco>
        <worldbody>
          <body name="robot" pos="0 0 0.5">
            <freejoint/>
            <geom size="0.1"/>
            <body>
              <joint name="knee" axis="0 0 1"/>
              <geom type="capsule" size="0.02" fromto="0 0 0 0.4 0 0" rgba="0 0 1 1"/>
            </body>
          </body>
        </worldbody>
        <actuator><motor joint="knee"/></actuator>
        <sensor><jointpos joint="knee"/></sensor>
      </mujoco>""")
    monkeypatch.setattr(_scene, "robot_spec", lambda robot: spec)
    states = episode(robot=[(1.0, 2.0)], yaw=np.pi / 2)
    states.world["joint_pos"] = jnp.array([[np.pi / 2]])
    solids = _scene.build(ENV, states).solids
    leg = list(solids.kind).index(mujoco.mjtGeom.mjGEOM_CAPSULE)
    np.testing.assert_allclose(solids.pos[0, leg], [0.8, 2.0, 0.1], atol=1e-6)
    np.testing.assert_allclose(solids.rgba[0, leg - 1 : leg + 1], [[1, 0, 0, 1], [0, 0, 1, 1]])


LYING = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])  # its z axis along the world's x axis
TURNED = np.array([[1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2**0.5]]) / 2**0.5


@pytest.mark.parametrize(
    ("kind", "size", "mat", "half_widths"),
    [
        ("SPHERE", (0.3, 0, 0), LYING, (0.3, 0.3)),
        ("BOX", (0.1, 0.2, 0.3), np.eye(3), (0.1, 0.2)),
        ("BOX", (0.1, 0.2, 0.3), LYING, (0.3, 0.2)),
        ("BOX", (0.1, 0.1, 0.3), TURNED, (0.1 * 2**0.5, 0.1 * 2**0.5)),
        ("CYLINDER", (0.3, 0.1, 0), np.eye(3), (0.3, 0.3)),
        ("CYLINDER", (0.3, 0.1, 0), LYING, (0.1, 0.3)),
        ("CAPSULE", (0.1, 0.4, 0), np.eye(3), (0.1, 0.1)),
        ("CAPSULE", (0.1, 0.4, 0), LYING, (0.5, 0.1)),
    ],
)
def test_outlines_from_above(kind, size, mat, half_widths):
    corners = _flat._outline(getattr(mujoco.mjtGeom, f"mjGEOM_{kind}"), np.array(size), np.array([1.0, 2.0, 3.0]), mat)
    np.testing.assert_allclose(corners.max(axis=0), np.array([1.0, 2.0]) + half_widths, atol=1e-9)
    np.testing.assert_allclose(corners.min(axis=0), np.array([1.0, 2.0]) - half_widths, atol=1e-9)


def test_without_gl_it_draws_flat_and_says_so_once(no_gl):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        frames = [draw(episode()), draw(episode())]
    np.testing.assert_array_equal(*frames)
    (warning,) = [entry for entry in caught if entry.category is UserWarning]
    assert "libegl1" in str(warning.message)
    assert "libosmesa6" in str(warning.message)
    assert warning.filename != rendering.__file__
    assert no_gl == ["egl", "osmesa", "glfw"]


def test_mujoco_gl_is_respected(no_gl, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.warns(UserWarning, match=r"\(tried osmesa\)"):
        draw(episode())
    assert no_gl == ["osmesa"]


def test_mujoco_gl_can_ask_for_the_flat_view(no_gl, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(episode())
    assert no_gl == []


def test_without_gl_and_matplotlib_it_names_the_extra(flat, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[viz\]"'):
        draw(episode())


def test_importing_needs_neither_matplotlib_nor_gl():
    program = "import sys, mjx_safety.rendering; print({'matplotlib', 'imageio', 'OpenGL'} & set(sys.modules))"
    environment = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert output.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"camera": "fixedfra"}, "no camera 'fixedfra'.*Did you mean 'fixedfar'"),
        ({"camera": "vision"}, "choose from fixednear, fixedfar, track"),
        ({"width": 0}, "width is 0"),
        ({"height": -5}, "height is -5"),
        ({"height": 5000}, "height is 5000.*1 to 4096"),
        ({"width": 48.5}, "width is 48.5"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        rendering.render(ENV, episode(), **arguments)


def test_states_of_a_batch_or_a_list():
    batch = jax.tree.map(lambda leaf: leaf[:, None], episode())
    with pytest.raises(ValueError, match=r"shape \[1, 1, 54\].*pick one"):
        draw(batch)
    env = mjx_safety.make("PointGoal0")
    states = jax.eval_shape(mjx_safety.AutoReset(env, 3).reset, jax.random.key(0))
    with pytest.raises(ValueError, match="a batch of 3 environments, not of an episode; pick the state of one"):
        draw(states)
    with pytest.raises(TypeError, match="states is a list; stack"):
        draw([episode()])


def test_a_video_holds_the_frames(tmp_path):
    imageio = pytest.importorskip("imageio.v2")
    frames = np.zeros((5, 62, 97, 3), np.uint8)
    frames[3:] = 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fork under JAX's threads warns
        rendering.save_video(tmp_path / "video.mp4", frames, fps=10)
    video = np.stack(imageio.mimread(tmp_path / "video.mp4"))
    assert video.shape == (5, 62, 96, 3)
    assert video[:3].max() < 20
    assert video[3:].min() > 235


def test_wrong_videos(tmp_path, monkeypatch):
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    for wrong in (frames[0], frames[:0], frames.astype(np.float32)):
        with pytest.raises(ValueError, match="uint8"):
            rendering.save_video(tmp_path / "video.mp4", wrong)
    with pytest.raises(ValueError, match="fps is 0"):
        rendering.save_video(tmp_path / "video.mp4", frames, fps=0)
    with pytest.raises(FileNotFoundError, match="create it first"):
        rendering.save_video(tmp_path / "missing" / "video.mp4", frames)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[viz\]"'):
        rendering.save_video(tmp_path / "video.mp4", frames)
