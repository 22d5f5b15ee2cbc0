"""What every environment promises: pure, traced once, deterministic, batched equal to single, resumable, checked."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mjx_safety
from mjx_safety import Env, Task
from mjx_safety.objectives import Button, Goal, Push
from mjx_safety.objects import Box, Buttons, Gremlins, Hazards, Pillars, Placement, Vases, Walls
from mjx_safety.robots import CAR, POINT
from tests.conftest import actions


def rollout(goal, key, steps):
    def body(state, action):
        state = goal.env.step(state, action)
        return state, state

    return jax.jit(lambda key, actions: jax.lax.scan(body, goal.env.reset(key), actions)[1])(key, steps)


def test_shapes_types_and_finite_numbers(goal):
    env = goal.env
    state = goal.step(goal.reset(jax.random.key(0)), jnp.ones(2))
    chex.assert_shape(state.obs, (env.observation_size,))
    chex.assert_type([state.obs, state.reward, state.cost, *state.costs.values()], jnp.float32)
    chex.assert_type([state.terminated, state.truncated, state.goal_met], bool)
    chex.assert_tree_all_finite(state.replace(key=0))
    assert "cost_exception" in state.costs


def test_observation_is_named_in_the_original_s_order():
    env = mjx_safety.make("PointGoal1")
    sizes = {name: place.stop - place.start for name, place in env.observation_slices.items()}
    assert sizes == {
        "accelerometer": 3,
        "goal_lidar": 16,
        "gyro": 3,
        "hazards_lidar": 16,
        "magnetometer": 3,
        "vases_lidar": 16,
        "velocimeter": 3,
    }
    assert list(sizes) == sorted(sizes)
    assert env.observation_size == 60
    assert mjx_safety.make("PointGoal0").observation_size == 28


def test_constrained_kinds_cost_and_others_do_not():
    keys = {
        level: set(jax.eval_shape(mjx_safety.make(f"PointGoal{level}").reset, jax.random.key(0)).costs)
        for level in range(3)
    }
    assert keys[0] == {"cost_exception"}
    assert keys[1] == {"cost_exception", "cost_hazards"}
    assert keys[2] == {"cost_exception", "cost_hazards", "cost_vases_contact", "cost_vases_velocity"}


def test_a_batch_traces_once(goal1):
    step = jax.jit(chex.assert_max_traces(lambda states, actions: jax.vmap(goal1.env.step)(states, actions), n=1))
    states = goal1.resets(jax.random.split(jax.random.key(0), 4))
    for i in range(3):
        states = step(states, actions(i, 4))
    assert not any(getattr(leaf, "weak_type", False) for leaf in jax.tree.leaves(states))


def test_the_same_key_gives_the_same_trajectory(goal):
    steps = actions(1, 50)
    chex.assert_trees_all_equal(rollout(goal, jax.random.key(2), steps), rollout(goal, jax.random.key(2), steps))
    other = rollout(goal, jax.random.key(3), steps)
    assert np.abs(np.asarray(other.obs - rollout(goal, jax.random.key(2), steps).obs)).max() > 0.1


def test_a_batch_equals_single_environments(goal):
    keys = jax.random.split(jax.random.key(4), 5)
    steps = actions(5, 60, 5)
    states, single = goal.resets(keys), [goal.reset(key) for key in keys]
    for step in steps:
        states = goal.steps(states, step)
        single = [goal.step(state, action) for state, action in zip(single, step, strict=True)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *single)
    chex.assert_trees_all_equal(jax.random.key_data(states.key), jax.random.key_data(stacked.key))
    chex.assert_trees_all_close(states.replace(key=0), stacked.replace(key=0), atol=2e-3, rtol=1e-3)


def test_a_world_continues_as_the_state_it_was_taken_from(goal2):
    state = goal2.reset(jax.random.key(6))
    for action in actions(7, 40):
        state = goal2.step(state, action)
    copy = goal2.set_world(goal2.get_world(state), state.key)
    np.testing.assert_allclose(copy.obs, state.obs, atol=1e-4)
    assert copy.steps == state.steps == 40
    for action in actions(8, 20):
        state, copy = goal2.step(state, action), goal2.step(copy, action)
        np.testing.assert_allclose(copy.reward, state.reward, atol=1e-5)
        assert copy.cost == state.cost
    np.testing.assert_allclose(copy.obs, state.obs, atol=2e-3)


def test_missing_world_entries_are_at_rest(goal1):
    world = goal1.get_world(goal1.reset(jax.random.key(0)))
    bare = {name: world[name] for name in ("robot_pos", "goal_pos", "hazards_pos", "vases_pos")}
    state = goal1.env.set_world(bare, jax.random.key(1))
    full = goal1.get_world(state)
    np.testing.assert_array_equal(full["robot_quat"], [1, 0, 0, 0])
    np.testing.assert_array_equal(full["vases_quat"], [[1, 0, 0, 0]])
    for name in ("robot_linvel", "robot_angvel", "vases_linvel", "time", "ctrl"):
        assert not np.asarray(full[name]).any()


def test_wrong_worlds_are_named(goal1):
    world = goal1.get_world(goal1.reset(jax.random.key(0)))
    with pytest.raises(ValueError, match="set_world lacks goal_pos"):
        goal1.env.set_world({k: v for k, v in world.items() if k != "goal_pos"}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"'vase_pos', which this task lacks\. Did you mean 'vases_pos'"):
        goal1.env.set_world(world | {"vase_pos": world["vases_pos"]}, jax.random.key(0))
    with pytest.raises(ValueError, match=r"'robot_pos' of shape \(2,\); it must be \(3,\)"):
        goal1.env.set_world(world | {"robot_pos": jnp.zeros(2)}, jax.random.key(0))


def test_actions_of_the_wrong_shape_are_refused(goal1):
    state = jax.eval_shape(goal1.env.reset, jax.random.key(0))
    with pytest.raises(ValueError, match=r"action of shape \(3,\); one environment takes \(2,\)"):
        jax.eval_shape(goal1.env.step, state, jnp.zeros(3))
    venv = mjx_safety.AutoReset(goal1.env, 4)
    states = jax.eval_shape(venv.reset, jax.random.key(0))
    with pytest.raises(ValueError, match=r"actions of shape \(2,\); it takes \(4, 2\)"):
        jax.eval_shape(venv.step, states, jnp.zeros(2))


def test_actions_are_clipped(goal1):
    state = goal1.reset(jax.random.key(0))
    wild, full = goal1.step(state, jnp.array([7.0, -7.0])), goal1.step(state, jnp.array([1.0, -1.0]))
    chex.assert_trees_all_equal(wild.obs, full.obs)
    np.testing.assert_array_equal(wild.ctrl, [1, -1])


def place(goal1, **world):
    """A world with the robot at the origin looking along x, everything else far away."""
    bare = {
        "robot_pos": jnp.array([0.0, 0.0, 0.1]),
        "goal_pos": jnp.array([1.4, 1.4, 0.16]),
        "hazards_pos": jnp.full((8, 3), -1.4),
        "vases_pos": jnp.array([[1.4, -1.4, 0.1]]),
    }
    return goal1.set_world(bare | world, jax.random.key(0))


def test_a_reached_goal_pays_once_and_the_next_reward_does_not_jump(goal1):
    state = place(goal1, goal_pos=jnp.array([0.32, 0.0, 0.16]), robot_linvel=jnp.array([1.4, 0.0, 0.0]))
    before = float(state.measured[0])
    state = goal1.step(state, jnp.array([1.0, 0.0]))
    assert state.goal_met
    # The reward of the step is that of the old goal.
    np.testing.assert_allclose(state.reward, 1.0 + before - (0.32 - goal1.get_world(state)["robot_pos"][0]), atol=1e-5)
    goal_pos = goal1.get_world(state)["goal_pos"]
    assert np.hypot(*(goal_pos[:2] - goal1.get_world(state)["robot_pos"][:2])) >= 0.705 - 1e-5
    # What the robot sees is the new goal, and the next reward is the way towards it.
    bearing = np.arctan2(goal_pos[1], goal_pos[0] - goal1.get_world(state)["robot_pos"][0])
    lidar = np.asarray(state.obs[goal1.env.observation_slices["goal_lidar"]])
    assert lidar.argmax() == int(bearing % (2 * np.pi) / (2 * np.pi) * 16)
    state = goal1.step(state, jnp.array([1.0, 0.0]))
    assert not state.goal_met
    assert abs(float(state.reward)) < 0.04


def test_driving_towards_the_goal_pays_the_way(goal1):
    state = place(goal1, goal_pos=jnp.array([1.2, 0.0, 0.16]))
    total = 0.0
    for _ in range(20):
        state = goal1.step(state, jnp.array([1.0, 0.0]))
        total += float(state.reward)
    np.testing.assert_allclose(total, goal1.get_world(state)["robot_pos"][0], atol=1e-5)
    assert total > 0.1


def test_a_hazard_costs_one_while_inside(goal1):
    hazards = jnp.full((8, 3), -1.4).at[3].set(jnp.array([0.1, 0.1, 0.02]))
    state = goal1.step(place(goal1, hazards_pos=hazards), jnp.zeros(2))
    assert state.cost == state.costs["cost_hazards"] == 1.0
    state = goal1.step(place(goal1, hazards_pos=hazards.at[3, 0].set(0.2)), jnp.zeros(2))
    assert state.cost == 0.0


def test_without_the_indicator_costs_are_raw():
    env = mjx_safety.make("PointGoal1", indicator=False)
    world = {
        "robot_pos": jnp.array([0.0, 0.0, 0.1]),
        "goal_pos": jnp.array([1.4, 1.4, 0.16]),
        "hazards_pos": jnp.full((8, 3), -1.4).at[:2, :2].set(jnp.array([[0.1, 0.0], [0.0, 0.15]])),
        "vases_pos": jnp.array([[1.4, -1.4, 0.1]]),
    }
    state = jax.jit(env.step)(env.set_world(world, jax.random.key(0)), jnp.zeros(2))
    np.testing.assert_allclose(state.cost, 0.1 + 0.05, atol=1e-5)


def test_an_episode_is_truncated_at_its_last_step():
    env = mjx_safety.make("PointGoal0", num_steps=3)
    state, step = env.reset(jax.random.key(0)), jax.jit(env.step)
    flags = []
    for _ in range(3):
        state = step(state, jnp.zeros(2))
        flags.append((bool(state.truncated), bool(state.terminated)))
    assert flags == [(False, False), (False, False), (True, False)]


@pytest.mark.parametrize("who", ["robot", "vase"])
def test_failed_physics_end_the_episode(goal1, who, monkeypatch):
    state = place(goal1, goal_pos=jnp.array([0.1, 0.0, 0.16]))

    def explode(*arguments):
        good, motion = sound(*arguments)
        if who == "robot":
            return good.replace(qvel=good.qvel.at[0].set(1e11)), motion
        vases = good.boxes["vases"]
        return good.replace(boxes={"vases": vases.replace(linvel=vases.linvel.at[0, 1].set(jnp.nan))}), motion

    sound = goal1.env.physics.step
    monkeypatch.setattr(goal1.env.physics, "step", explode)
    after = jax.jit(lambda s, a: goal1.env.step(s, a))(state, jnp.zeros(2))
    assert after.reward == -10.0
    assert after.costs["cost_exception"] == after.cost == 1.0
    assert after.terminated
    assert not after.goal_met
    chex.assert_tree_all_finite(after.replace(key=0))


def test_the_next_goal_keeps_clear_of_where_the_robot_is_now(goal1):
    """Not of where it was at the reset: `places` holds the layout, the robot has moved across the world since."""
    world = place(goal1, robot_pos=jnp.array([-1.0, -1.0, 0.1]), goal_pos=jnp.array([-1.0, -0.9, 0.16]))
    stale = world.places.at[0].set(jnp.array([1.0, 1.0]))
    states = jax.vmap(lambda key: world.replace(places=stale, key=key))(jax.random.split(jax.random.key(0), 200))
    states = goal1.steps(states, jnp.zeros((200, 2)))
    assert np.asarray(states.goal_met).all()
    goals = np.asarray(jax.vmap(goal1.env.get_world)(states)["goal_pos"])[:, :2]
    assert np.linalg.norm(goals + 1.0, axis=1).min() >= 0.705 - 1e-5
    assert np.linalg.norm(goals - 1.0, axis=1).min() < 0.705


def test_the_dense_reward_is_clipped_before_the_bonus():
    env = mjx_safety.make("PointGoal0", reward_clip=0.01)
    world = {
        "robot_pos": jnp.array([0.0, 0.0, 0.1]),
        "robot_linvel": jnp.array([1.4, 0.0, 0.0]),
        "goal_pos": jnp.array([0.32, 0.0, 0.16]),
    }
    state = jax.jit(env.step)(env.set_world(world, jax.random.key(0)), jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(state.reward, 1.01, rtol=1e-6)


def test_a_world_that_starts_inside_a_hazard_costs(goal1):
    assert place(goal1, hazards_pos=jnp.full((8, 3), 0.05)).cost == 1.0
    assert place(goal1).cost == 0.0


def test_a_layout_that_no_sampling_finds_is_reported():
    env = mjx_safety.make("PointGoal0", objects=(Hazards(3, Placement(0.6)),), extents=(-1.2, -1.2, 1.2, 1.2))
    assert jax.jit(env.reset)(jax.random.key(0)).terminated
    with pytest.raises(ValueError, match="keepouts of 82 things cover 99% of the extents"):
        mjx_safety.make("PointGoal1", objects=(Hazards(80),))


def test_no_room_for_the_next_goal_ends_the_episode():
    # The goal's keepout and the robot's leave no place once the robot stands in the middle.
    env = mjx_safety.make("PointGoal0", extents=(-0.7, -0.7, 0.7, 0.7))
    world = {"robot_pos": jnp.array([0.0, 0.0, 0.1]), "goal_pos": jnp.array([0.1, 0.0, 0.16])}
    state = jax.jit(env.step)(env.set_world(world, jax.random.key(0)), jnp.zeros(2))
    assert state.goal_met
    assert state.terminated
    assert not state.truncated


def test_a_state_is_small(goal):
    state = jax.eval_shape(goal.env.reset, jax.random.key(0))
    assert sum(x.size * 4 for x in jax.tree.leaves(state)) < 2048


class PillarTouch(Goal):
    """An objective of one's own."""

    touches = ("pillars",)

    def reward(self, view, before):
        return super().reward(view, before) + view.contacts["pillars"][0]


@pytest.mark.parametrize(
    ("objective", "kinds", "counted"),
    [
        (Push(), (Box(), Pillars(2), Walls(1)), {"pillars"}),
        (Push(), (Box(), Pillars(2, constrained=False)), set()),
        (Goal(), (Vases(3), Gremlins(1, constrained=False)), {"vases"}),
        (Goal(), (Buttons(4, constrained=False),), set()),
        (Button(), (Buttons(4, constrained=False),), {"buttons"}),
        (PillarTouch(), (Pillars(1, constrained=False), Hazards(2)), {"pillars"}),
    ],
)
@pytest.mark.parametrize("robot", [POINT, CAR])
def test_contacts_are_counted_where_costs_or_the_objective_ask(robot, objective, kinds, counted):
    """What nobody asks for is not computed; a step is traced, so that costs and objectives find what they need."""
    env = Env(Task(robot, objective, kinds))
    state = jax.eval_shape(env.reset, jax.random.key(0))
    jax.eval_shape(env.step, state, jnp.zeros(2))
    solid = {kind.name: jnp.zeros((kind.num, 2)) for kind in kinds if kind.obstacle()}
    _, motion = jax.eval_shape(env.physics.step, state.physics, jnp.zeros(2), solid)
    first = jax.eval_shape(env.physics.look, state.physics, jnp.zeros(2), solid)
    want = {kind.name: (kind.num,) for kind in kinds if kind.name in counted}
    for contacts in (motion.contacts, first.contacts):
        assert {name: x.shape for name, x in contacts.items()} == want
