"""Every registered id: what it promises (sizes, names, pure functions, traced once) and how it follows the recordings.

One file, because all of it shares an id's compiled functions; an id's tests run on one worker. The ids that the default
command leaves out run with `-m slow`.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mjx_safety
from tests.conftest import Compiled
from tests.replay import replay

SIZES = {  # spec of the original: Point's observations; Car and Doggo add their own sensors
    "Goal0": 28, "Goal1": 60, "Goal2": 60,
    "Button0": 44, "Button1": 76, "Button2": 76,
    "Push0": 44, "Push1": 76, "Push2": 76,
    "Circle": 28, "Run": 12,
}  # fmt: skip
MORE = {"Point": 0, "Car": 12, "Doggo": 44}
ACTIONS = {"Point": 2, "Car": 2, "Doggo": 12}
NUM, STEPS = 16, 25
CONTRACT = [robot + name for robot in ACTIONS for name in SIZES]
QUICK = {"PointGoal2", "PointButton1", "PointPush2", "PointCircle", "PointRun", "CarGoal1", "DoggoRun"}
WARP = ["PointGoal2", "PointButton2", "PointPush2", "CarGoal1", "CarButton1", "CarPush2", "DoggoPush0", "DoggoPush1"]
IDS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CONTRACT]
IDS += [pytest.param(f"{name}-warp", marks=() if name == WARP[0] else pytest.mark.slow) for name in WARP]

# Beside the recordings, by robot. The Point is exact; the Car and the Doggo feel every contact of wheels and legs.
REWARD = {"Point": 1e-3, "Car": 2e-3, "Doggo": 2e-2}  # 90 % of first steps
COST = {"Point": 0.97, "Car": 0.97, "Doggo": 0.95}  # share of steps that agree, half of which were chosen for contacts
WAY = {"Point": (2e-5, 1e-3), "Car": (1e-4, 8e-3), "Doggo": (2e-3, 6e-2)}  # metres after 1 and 10 steps, median
MOVED = 0.02  # metres, median of boxes that moved by 5 cm
# The Doggo does not feel the box, 0.4 % of its weight, and so takes another way: the box ends 0.03 m off in the median.
# With a box of a twentieth of the weight, C MuJoCo itself ends 0.05 and 0.15 m off.
UNFELT = {"DoggoPush0", "DoggoPush1"}
# Warp turns the friction pyramid under a leg that stands within 30 degrees of upright: along the world's axes, not the
# leg (its plane_capsule). With MuJoCo's pyramid it ends all of these boxes within 0.01 m.
TURNED = {"DoggoPush1"}


def test_the_registered_ids_are_the_original_s():
    assert mjx_safety.registered() == tuple(CONTRACT)
    for task_id in CONTRACT:
        assert mjx_safety.make(f"Safexp-{task_id}-v0").task == mjx_safety.make(task_id).task


@pytest.fixture(params=IDS, scope="module")
def task(request):
    """An id's environment, compiled, and a batch that has taken some steps under random actions."""
    name, _, impl = request.param.partition("-")
    if impl:
        pytest.importorskip("warp")
    # Its own, so that traces are counted here alone; cars and dogs take long to compile, the quick ones as users do it.
    env = Compiled(name, quickly=not name.startswith("Point") and name not in QUICK, impl=impl or "jax")
    resets = jax.random.split(jax.random.key(0), NUM)
    actions = jax.random.uniform(jax.random.key(1), (STEPS, NUM, env.env.action_size), minval=-1.0, maxval=1.0)
    first = env.resets(resets)
    states = [first]
    for action in actions:
        states.append(env.steps(states[-1], action))
    return name, env, states, actions


def test_sizes_and_names_are_the_original_s(task, windows):
    task_id, env, states, _ = task
    robot = next(robot for robot in ACTIONS if task_id.startswith(robot))
    assert env.env.observation_size == SIZES[task_id.removeprefix(robot)] + MORE[robot]
    assert env.env.observation_size == windows[task_id]["obs"].shape[-1]
    assert env.env.action_size == ACTIONS[robot]
    names = list(env.env.observation_slices)
    assert names == sorted(names)
    assert [n.removesuffix("_lidar") for n in names if n.endswith("_lidar")] == sorted(
        {kind.name for kind in env.env.task.objects}
        | ({env.env.task.objective.name} if env.env.task.objective.somewhere else set())
    )
    chex.assert_shape(states[-1].obs, (NUM, env.env.observation_size))


def test_numbers_are_finite_and_typed(task):
    _, _, states, _ = task
    for state in (states[0], states[-1]):
        chex.assert_tree_all_finite(state.replace(key=0))
        chex.assert_type([state.obs, state.reward, state.cost, *state.costs.values()], jnp.float32)
        chex.assert_type([state.terminated, state.truncated, state.goal_met], bool)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(states[0].replace(key=jnp.zeros(()))))
    assert not np.asarray(states[-1].terminated).any()


def test_an_episode_starts_without_cost_and_with_a_layout_of_its_own(task):
    _, env, states, _ = task
    assert not np.asarray(states[0].cost).any()
    places = np.asarray(states[0].places)
    assert len(np.unique(places.round(6), axis=0)) == NUM
    again = np.asarray(env.resets(jax.random.split(jax.random.key(2), NUM)).places)
    assert np.abs(again - places).max(axis=-1).min() > 0


def test_steps_are_traced_once_and_deterministic(task):
    _, env, states, actions = task
    assert env.steps._cache_size() == env.resets._cache_size() == 1
    again = env.resets(jax.random.split(jax.random.key(0), NUM))
    chex.assert_trees_all_equal(again.replace(key=0), states[0].replace(key=0))
    for action in actions[:3]:
        again = env.steps(again, action)
    chex.assert_trees_all_equal(again.replace(key=0), states[3].replace(key=0))


def test_a_batch_equals_single_environments(task):
    task_id, env, states, actions = task
    if task_id not in QUICK:
        pytest.skip("compiles everything once more; the quick ids have every robot and kind of path")
    single = jax.tree.map(lambda x: x[1], states[4])
    for t in (4, 5, 6):
        single = env.step(single, actions[t, 1])
    batched = jax.tree.map(lambda x: x[1], states[7])
    chex.assert_trees_all_close(single.replace(key=0), batched.replace(key=0), atol=2e-3, rtol=1e-3)


def test_a_world_continues_as_the_state_it_was_taken_from(task):
    task_id, env, states, actions = task
    state = states[-1]
    copy = env.set_worlds(env.get_worlds(state), state.key)
    np.testing.assert_array_equal(copy.steps, state.steps)
    np.testing.assert_allclose(copy.measured, state.measured, atol=1e-5)
    for action in actions[:2]:
        state, copy = env.steps(state, action), env.steps(copy, action)
    np.testing.assert_allclose(copy.reward, state.reward, atol=1e-4)
    np.testing.assert_array_equal(copy.cost, state.cost)
    close = jax.tree.map(
        lambda x, y: np.isclose(x, y, atol=2e-3, rtol=1e-3).reshape(NUM, -1).all(1),
        env.get_worlds(copy),
        env.get_worlds(state),
    )
    # A leg that just reaches the floor or its limit does so a physics step earlier or later if nudged by 1e-7, which
    # halves its velocity: one dog of the sixteen may. What a world forgets is missed by all of them.
    num_apart, allowed = NUM - np.all(list(close.values()), axis=0).sum(), 1 if task_id.startswith("Doggo") else 0
    assert num_apart <= allowed, close


@pytest.fixture(scope="module")
def played(task, windows):
    """Recorded windows of a task, played from the recorded world with the recorded actions."""
    task_id, run, _, _ = task
    recorded = windows[task_id]
    picked = np.linspace(0, len(recorded["action"]) - 1, NUM).astype(int)
    recorded = {name: array[picked] for name, array in recorded.items()}
    world = {name.removeprefix("world."): jnp.asarray(x) for name, x in recorded.items() if name.startswith("world.")}
    state = run.set_worlds(world, jax.random.split(jax.random.key(0), NUM))
    first, states, worlds = np.asarray(state.obs), [], []
    for action in jnp.asarray(recorded["action"]).swapaxes(0, 1):
        state = run.steps(state, action)
        states.append(state)
        worlds.append(run.get_worlds(state))
    states, worlds = (jax.tree.map(lambda *x: jnp.stack(x, axis=1), *rows) for rows in (states, worlds))
    before_goal = np.cumsum(recorded["goal_met"], 1) - recorded["goal_met"] == 0  # the next goal is random
    return run.env, recorded, first, states, worlds, before_goal


def felt(env) -> np.ndarray:
    """Entries that feel the contact forces of the moment, which a world does not hold: bool [observation_size]."""
    entries = np.zeros(env.observation_size, bool)
    for name, place in env.observation_slices.items():
        entries[place] = name == "accelerometer" or name.startswith("touch")
    return entries


def test_first_observation_is_the_recorded_one(played):
    env, recorded, obs, *_ = played
    np.testing.assert_allclose(obs[:, ~felt(env)], recorded["obs"][:, 0, ~felt(env)], atol=2e-3)


def test_observation_after_a_step_is_the_recorded_one(played):
    env, recorded, _, states, _, before_goal = played
    same = before_goal[:, 1]
    error = np.abs(np.asarray(states.obs)[same, 0] - recorded["obs"][same, 1])
    robot = env.task.robot.name
    assert np.quantile(error[:, ~felt(env)], 0.9) < {"Point": 2e-3, "Car": 2e-3, "Doggo": 0.2}[robot]
    # Accelerations jump with every contact.
    assert np.median(error[:, felt(env)]) < {"Point": 1e-3, "Car": 0.05, "Doggo": 0.5}[robot]


def test_rewards_are_the_recorded_ones(played):
    env, recorded, _, states, *_ = played
    error = np.abs(np.asarray(states.reward) - recorded["reward"])[:, 0]
    assert np.quantile(error, 0.9) < REWARD[env.task.robot.name]


def test_goals_are_met_when_recorded(played):
    _, recorded, _, states, _, before_goal = played
    agree = np.asarray(states.goal_met)[before_goal] == (recorded["goal_met"][before_goal] > 0)
    assert agree.mean() >= 0.98


def test_robot_ends_where_recorded(played):
    env, recorded, _, _, worlds, _ = played
    error = np.linalg.norm(np.asarray(worlds["robot_pos"])[:, [0, -1]] - recorded["after.robot_pos"], axis=-1)
    assert (np.median(error, axis=0) < WAY[env.task.robot.name]).all()


@pytest.fixture(scope="module")
def replayed(task, played):
    """Where C MuJoCo finds back to the recording: contacts bool [NUM], and for each box its way off, metres."""
    _, recorded, _, _, worlds, _ = played
    yaws = {f"world.{name}": x[:, 0] for name, x in worlds.items() if name == "gremlins_yaw"}
    same, ends = replay(task[0], recorded | yaws)
    off = {
        kind: np.linalg.norm((pos - recorded[f"after.{kind}_pos"].reshape(pos.shape))[..., :2], axis=-1)
        for kind, pos in ends.items()
        if f"after.{kind}_pos" in recorded
    }
    return same.all(axis=1), off


def test_costs_are_the_recorded_ones(task, played, replayed, request):
    env, recorded, _, states, *_ = played
    if task[0] == "CarPush2" and env.impl == "jax":
        # 0.93: among pillars, car and box part from MuJoCo's way by a centimetre within ten steps of a collision.
        request.applymarker(pytest.mark.xfail(strict=True, reason="collisions of car, box and pillar are not exact"))
    sure, _ = replayed
    assert sure.mean() > 0.5
    least = COST[env.task.robot.name]
    assert (np.asarray(states.cost) == recorded["cost"])[sure].mean() >= least
    assert {name for name in recorded if name.startswith("cost_")} <= set(states.costs)
    if env.task.robot.name == "Point" and "cost_hazards" in recorded:
        np.testing.assert_array_equal(np.asarray(states.costs["cost_hazards"]), recorded["cost_hazards"])


@pytest.mark.parametrize("kind", ["vases", "box"])
def test_pushed_things_end_where_recorded(task, played, replayed, kind, request):
    env, recorded, _, _, worlds, _ = played
    if kind == "box" and task[0] in UNFELT and env.impl == "jax":
        request.applymarker(pytest.mark.xfail(strict=True, reason="the Doggo does not feel the box"))
    if kind == "box" and task[0] in TURNED and env.impl == "warp":
        request.applymarker(pytest.mark.xfail(strict=True, reason="Warp turns the friction under the Doggo's legs"))
    if f"after.{kind}_pos" not in recorded:
        pytest.skip(f"no {kind}")
    start, end = recorded[f"world.{kind}_pos"][..., :2], recorded[f"after.{kind}_pos"][..., :2]
    moved = np.linalg.norm(end - start, axis=-1) > 0.05
    error = np.linalg.norm(np.asarray(worlds[f"{kind}_pos"])[:, -1, ..., :2] - end, axis=-1)
    assert np.quantile(error[~moved], 0.95) < 0.01
    moved &= replayed[1][kind].reshape(moved.shape) < MOVED / 2
    if moved.sum() < 5:
        pytest.skip(f"only {moved.sum()} of the windows move {kind}")
    # The Point and its box are solved together, with the true accelerations: 0.01 m if either is left out.
    assert np.median(error[moved]) < (0.007 if (env.task.robot.name, kind) == ("Point", "box") else MOVED)
