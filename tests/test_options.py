"""Settings of the original's engine that its benchmark tasks leave alone, on tasks of our own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mjx_safety
from mjx_safety.lidar import Lidar
from mjx_safety.objectives import Goal, Push, Run
from mjx_safety.objects import Box, Buttons, Hazards, Placement, Vases, Walls
from mjx_safety.robots import CAR, POINT

ROOM = mjx_safety.Task(
    POINT,
    Goal(Placement(0.3, locations=((1.5, 0.0),)), reward_distance=2.0, reward_goal=5.0),
    objects=(
        Walls(1, Placement(0.0, locations=((-1.2, 0.0),))),
        Hazards(2, Placement(0.2, rectangles=((-1.0, 1.0, 0.0, 2.0), (1.0, -2.0, 2.0, -1.0)))),
    ),
    robot_placement=Placement(0.3, locations=((0.0, 0.0),)),
    robot_yaw=np.pi / 2,
    lidar=Lidar(num_bins=10, max_dist=None, exp_gain=0.5, alias=False),
    compass=("goal",),
    compass_size=3,
    goal_distance=True,
    remaining=True,
    continue_goal=False,
    reward_orientation=0.002,
    num_steps=50,
)


@functools.cache
def room():
    env = mjx_safety.Env(ROOM)
    return env, jax.jit(env.reset), jax.jit(env.step), jax.jit(env.set_world)


def read(env, state, name):
    return np.asarray(state.obs[env.observation_slices[name]])


def test_fixed_places_rectangles_and_heading():
    env, reset, _, _ = room()
    state = reset(jax.random.key(0))
    world = env.get_world(state)
    np.testing.assert_allclose(world["robot_pos"], [0, 0, 0.1], atol=1e-6)
    np.testing.assert_allclose(world["robot_quat"], [np.sqrt(0.5), 0, 0, np.sqrt(0.5)], atol=1e-6)
    np.testing.assert_allclose(world["goal_pos"], [1.5, 0, 0.16], atol=1e-6)
    np.testing.assert_allclose(world["walls_pos"], [[-1.2, 0, 0.5]], atol=1e-6)
    for x, y, _ in np.asarray(world["hazards_pos"]):
        assert (-0.8 <= x <= -0.2 and 1.2 <= y <= 1.8) or (1.2 <= x <= 1.8 and -1.8 <= y <= -1.2)


def test_compass_distance_and_time_are_observed():
    env, reset, step, _ = room()
    state = step(step(reset(jax.random.key(0)), jnp.zeros(2)), jnp.zeros(2))
    assert list(env.observation_slices) == sorted(env.observation_slices)
    distance = np.hypot(1.5, 0.06)
    # The robot looks north, so the goal in the east is to its right.
    expected = np.array([0.0, -1.5, 0.06]) / (distance + 0.001)
    np.testing.assert_allclose(read(env, state, "goal_compass"), expected, atol=1e-4)
    np.testing.assert_allclose(read(env, state, "goal_dist"), [np.exp(-1.5)], atol=1e-5)
    np.testing.assert_allclose(read(env, state, "remaining"), [2 / 50], rtol=1e-6)
    walls = read(env, state, "walls_lidar")
    assert walls.shape == (10,)
    assert np.count_nonzero(walls) == 1  # no aliasing: one wall, one bin, to the left
    np.testing.assert_allclose(walls[2], np.exp(-0.5 * np.hypot(1.2, 0.0)), atol=1e-3)


def test_an_upright_robot_is_paid():
    _, reset, step, _ = room()
    state = step(reset(jax.random.key(0)), jnp.zeros(2))
    np.testing.assert_allclose(state.reward, 0.002, atol=1e-6)


def test_without_a_next_goal_the_episode_ends():
    env, _, step, set_world = room()
    world = {
        "robot_pos": jnp.array([1.1, 0.0, 0.1]),
        "robot_linvel": jnp.array([1.4, 0.0, 0.0]),
        "goal_pos": jnp.array([1.42, 0.0, 0.16]),
        "walls_pos": jnp.array([[-1.2, 0.0, 0.5]]),
        "hazards_pos": jnp.full((2, 3), 3.0),
    }
    state = step(set_world(world, jax.random.key(0)), jnp.array([1.0, 0.0]))
    assert state.goal_met
    assert state.terminated
    way = 2.0 * (float(env.get_world(state)["robot_pos"][0]) - 1.1)
    np.testing.assert_allclose(state.reward, way + 5.0 + 0.002, atol=1e-5)


def test_walls_stop_the_robot():
    env, _, step, set_world = room()
    world = {
        "robot_pos": jnp.array([-0.4, 0.1, 0.1]),
        "robot_quat": jnp.array([0.0, 0.0, 0.0, 1.0]),
        "goal_pos": jnp.array([1.5, 0.0, 0.16]),
        "walls_pos": jnp.array([[-1.2, 0.0, 0.5]]),
        "hazards_pos": jnp.full((2, 3), 3.0),
    }
    state = set_world(world, jax.random.key(0))
    for _ in range(60):
        state = step(state, jnp.array([1.0, 0.0]))
    x = float(env.get_world(state)["robot_pos"][0])
    np.testing.assert_allclose(x, -0.7 + 0.15, atol=5e-3)  # the arrow's tip, 0.15 m ahead of the origin, is at the wall


def test_frame_skip_may_be_binomial_and_actions_noisy():
    env = mjx_safety.make("PointGoal0", frame_skip_p=0.5, action_noise=0.5)
    states = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 400))
    states = jax.jit(jax.vmap(env.step))(states, jnp.zeros((400, 2)))
    taken = np.round(np.asarray(states.physics.time) / 0.002)
    np.testing.assert_allclose(taken.mean(), 5.0, atol=0.4)
    np.testing.assert_allclose(taken.std(), np.sqrt(2.5), atol=0.25)
    np.testing.assert_allclose(np.asarray(states.ctrl).std(), 0.5, atol=0.06)
    assert len(np.unique(np.asarray(jax.random.key_data(states.key)), axis=0)) == 400


def test_what_a_car_touches_is_where_its_physics_steps_have_led():
    """None of the ten is taken; all of them would lead into the goal's button."""
    for skip, met in ((1e-9, False), (1.0, True)):
        env = mjx_safety.make("CarButton0", frame_skip_p=skip)
        world = env.get_world(env.reset(jax.random.key(0)))
        far = jnp.array([[9.0, 9.0, 0.1], [9.0, -9.0, 0.1], [-9.0, 9.0, 0.1], [0.0, 0.0, 0.1]])
        world |= {"robot_pos": world["robot_pos"].at[:2].set(jnp.array([-0.26, 0.0])), "buttons_pos": far}
        world |= {"robot_quat": jnp.array([1.0, 0.0, 0.0, 0.0]), "robot_linvel": jnp.array([2.0, 0.0, 0.0])}
        state = env.set_world(world | {"goal_button": 3, "steps": 5}, jax.random.key(0))
        state = jax.jit(env.step)(state, jnp.zeros(2))
        assert state.goal_met == met
        assert state.steps == 6


@pytest.mark.parametrize("robot", ["Point", "Car"])
def test_a_count_of_all_physics_steps_is_none(robot):
    """With a vase that is hit: where all are taken, nothing looks at how many."""
    env = mjx_safety.make(f"{robot}Goal0", objects=(Vases(1),))
    world = env.get_world(env.reset(jax.random.key(0)))
    world |= {"robot_pos": world["robot_pos"].at[:2].set(0.0), "robot_quat": jnp.array([1.0, 0.0, 0.0, 0.0])}
    world |= {"robot_linvel": jnp.array([2.0, 0.0, 0.0]), "vases_pos": jnp.array([[0.26, 0.0, 0.09996]])}
    state = env.set_world(world, jax.random.key(0)).physics
    step = jax.jit(env.physics.step)

    given, count = (state, jnp.ones(2), {}), jnp.int32(env.task.frame_skip)
    whole, counted = step(*given), step(*given, count)
    assert abs(whole[0].boxes["vases"].linvel).max() > 0.1
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), whole, counted)
    assert step(*given, count - 3)[0].time < whole[0].time


def test_a_shoved_vase_costs_its_displacement():
    objects = (Vases(1, displace_cost=1.0, velocity_cost=0.0, contact_cost=0.0),)
    env = mjx_safety.make("PointGoal0", objects=objects, indicator=False)
    world = {
        "robot_pos": jnp.array([0.0, 0.0, 0.1]),
        "robot_linvel": jnp.array([1.0, 0.0, 0.0]),
        "goal_pos": jnp.array([-0.6, 0.6, 0.16]),
        "vases_pos": jnp.array([[0.252, 0.0, 0.09996]]),
    }
    state, step = env.set_world(world, jax.random.key(0)), jax.jit(env.step)
    for _ in range(5):
        state = step(state, jnp.array([1.0, 0.0]))
    moved = float(env.get_world(state)["vases_pos"][0, 0]) - 0.252
    assert moved > 0.02
    np.testing.assert_allclose(state.cost, moved, rtol=0.02)
    again = env.set_world(env.get_world(state), jax.random.key(0))
    np.testing.assert_allclose(again.cost, state.cost, rtol=1e-5)  # it knows where the vase was put


def test_the_box_has_a_compass_too():
    env = mjx_safety.make("PointPush0", compass=("box", "goal"))
    assert {"box_compass", "goal_compass"} < set(env.observation_slices)
    assert env.observation_size == 44 + 4
    env = mjx_safety.Env(mjx_safety.Task(POINT, Run(), (Box(),), compass=("box",)))
    assert "box_compass" in env.observation_slices


def test_without_a_goal_button_every_button_costs():
    objects = Buttons(2, Placement(0.1, locations=((0.25, 0.0), (1.5, 1.5))))
    task = mjx_safety.Task(POINT, Goal(), (objects,), robot_placement=Placement(0.1, locations=((0.0, 0.0),)))
    env = mjx_safety.Env(dataclasses.replace(task, robot_yaw=0.0, num_steps=30))
    first, step = jax.jit(env.reset)(jax.random.key(0)), jax.jit(env.step)
    assert "goal_button" not in env.get_world(first)
    for state in (first, env.set_world(env.get_world(first), jax.random.key(0))):
        total = 0.0
        for _ in range(20):
            state = step(state, jnp.array([1.0, 0.0]))
            total += state.costs["cost_buttons"]
        assert total > 0


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        (mjx_safety.Task(CAR, Push(), (Box(density=0.1),)), "box"),
        (mjx_safety.Task(POINT, Push(), (Box(), Vases(1, density=1.0))), "box"),
    ],
)
def test_what_is_too_heavy_to_be_solved_beside_the_robot_is_refused(task, kind):
    with pytest.raises(ValueError, match=rf"One of {kind} weighs .* or choose impl='warp'"):
        mjx_safety.Env(task)


@pytest.mark.parametrize("objects", [(Vases(1, density=0.01), Box()), (Box(), Vases(1, density=0.01))])
def test_the_heaviest_is_solved_together_with_the_point(objects):
    assert mjx_safety.Env(mjx_safety.Task(POINT, Push(), objects)).physics._heavy == "box"


def test_double_precision_is_refused():
    jax.config.update("jax_enable_x64", True)
    try:
        with pytest.raises(ValueError, match="jax_enable_x64 is on, but environments compute in float32"):
            mjx_safety.make("PointGoal0")
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("num_steps", [3])
def test_a_task_of_ones_own_takes_ten_lines(num_steps, monkeypatch):
    monkeypatch.setattr("mjx_safety.registry._TASKS", dict(mjx_safety.registry._TASKS))
    mjx_safety.register(
        "Warehouse",
        mjx_safety.Task(
            POINT,
            Push(size=0.4),
            (Box(), Hazards(3), Walls(2, Placement(0.0, locations=((-1.4, 0.0), (1.4, 0.0))))),
            num_steps=num_steps,
        ),
    )
    env = mjx_safety.make("Warehouse")
    assert {"box_lidar", "goal_lidar", "hazards_lidar", "walls_lidar"} < set(env.observation_slices)
    assert env.task.num_steps == num_steps


def test_a_gremlin_that_was_turned_still_turns_back():
    env = mjx_safety.make("PointButton1")
    state = jax.jit(env.reset)(jax.random.key(0))
    gremlins = state.physics.boxes["gremlins"]
    turned = gremlins.replace(quat=gremlins.quat[:, jnp.array([3, 1, 2, 0])])
    state = state.replace(physics=state.physics.replace(boxes={"gremlins": turned}))
    world = env.get_world(state)
    copy = jax.jit(env.set_world)(world, state.key)
    np.testing.assert_allclose(copy.physics.home["gremlins"], state.physics.home["gremlins"], atol=1e-6)
    del world["gremlins_yaw"]
    copy = jax.jit(env.set_world)(world, state.key)
    assert np.abs(copy.physics.home["gremlins"] - state.physics.home["gremlins"])[:, 2].max() > 0.1
