"""What the tasks are like to play: scripted robots push boxes, press buttons and reach goals; gremlins circle."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.conftest import compiled

NUM = 64


def drive(world, velocity):
    """The Point's action towards a velocity [2] in the world: turn to where a push is missing, and push."""
    w, x, y, z = world["robot_quat"]
    yaw = jnp.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    missing = velocity - world["robot_linvel"][:2]
    wish = velocity + 0.5 * missing
    turn = (jnp.arctan2(wish[1], wish[0]) - yaw + jnp.pi) % (2 * jnp.pi) - jnp.pi
    push = missing + velocity / 3  # the second part holds the speed against the damping
    forward = push @ jnp.array([jnp.cos(yaw), jnp.sin(yaw)])
    return jnp.array([0.2 * forward, 2.0 * turn])


def towards(world, place):
    way = place - world["robot_pos"][:2]
    return way / (jnp.linalg.norm(way) + 1e-6)


def reach(world):
    return drive(world, 1.2 * towards(world, world["goal_pos"][:2]))


def push(world):
    """Round the box at a distance to the side away from the goal, then through the box at the goal."""
    box, goal = world["box_pos"][:2], world["goal_pos"][:2]
    ahead = (goal - box) / jnp.linalg.norm(goal - box)
    aside = jnp.array([-ahead[1], ahead[0]])
    seen = world["robot_pos"][:2] - box
    along, across, distance = seen @ ahead, seen @ aside, jnp.linalg.norm(seen)

    # Behind the box: along the line to the goal, back onto it first.
    line = ahead - 3.0 * across * aside
    pushing = 0.4 * line / jnp.linalg.norm(line)

    # Elsewhere: round it, the shorter way, on a circle out of its reach.
    out = seen / distance
    side = jnp.where(across < 0, 1.0, -1.0) * jnp.array([out[1], -out[0]])
    round_ = side + 4.0 * (0.8 - distance) * out
    circling = 0.8 * round_ / jnp.linalg.norm(round_)
    behind = (along < -0.2) & (jnp.abs(across) < 0.15)
    return drive(world, jnp.where(behind, pushing, circling))


def play(task_id, controller, steps):
    """Episodes of a scripted robot: worlds [steps + 1, NUM], the first as reset; rewards and goal_met [steps, NUM]."""
    env = compiled(task_id).env

    def body(state, _):
        state = jax.vmap(env.step)(state, jax.vmap(lambda s: controller(env.get_world(s)))(state))
        return state, (jax.vmap(env.get_world)(state), state.reward, state.goal_met)

    @jax.jit
    def run(keys):
        first = jax.vmap(env.reset)(keys)
        return jax.vmap(env.get_world)(first), jax.lax.scan(body, first, length=steps)[1]

    first, (worlds, rewards, met) = run(jax.random.split(jax.random.key(0), NUM))
    worlds = {k: np.concatenate([np.asarray(first[k])[None], worlds[k]]) for k in first}
    return worlds, np.asarray(rewards), np.asarray(met)


def test_a_scripted_robot_pushes_the_box_into_the_goal():
    worlds, rewards, met = play("PointPush0", push, 600)
    robot, box, goal = (worlds[f"{name}_pos"][..., :2] for name in ("robot", "box", "goal"))
    left = np.linalg.norm(goal - box, axis=-1)
    first = np.where(met.any(axis=0), met.argmax(axis=0), len(met))
    nearest = np.array([left[: n + 1, i].min() for i, n in enumerate(first)])
    assert (met.any(axis=0) | (nearest <= left[0] / 2)).mean() > 0.8
    # Nothing moved the box until the robot did, from the side away from the goal.
    touched = (np.linalg.norm(box[1:] - box[0], axis=-1) > 2e-3).argmax(axis=0)
    seen, ahead = ((x - box)[touched, range(NUM)] for x in (robot, goal))
    apart = np.linalg.norm(seen, axis=-1)
    assert ((seen * ahead).sum(axis=-1) / apart / np.linalg.norm(ahead, axis=-1)).max() < -0.9
    assert apart.min() > 0.25
    assert apart.max() < 0.6
    # The goal is met as the box enters its ball, in space: a pushed box hops.
    apart = np.linalg.norm(worlds["box_pos"] - worlds["goal_pos"], axis=-1)[:-1]
    assert apart.min() > 0.3 - 1e-5
    assert apart[met].max() < 0.33
    assert rewards[met].min() > 0.97
    assert np.abs(rewards[~met]).max() < 0.1


def test_a_scripted_robot_reaches_goal_after_goal():
    worlds, rewards, met = play("PointGoal0", reach, 300)
    assert (met.sum(axis=0) >= 3).mean() > 0.9
    assert rewards[met].min() > 1.0
    assert np.abs(rewards[~met]).max() < 0.035
    moved = (worlds["goal_pos"][1:] != worlds["goal_pos"][:-1]).any(axis=-1)
    np.testing.assert_array_equal(moved, met)


def button_world(**things):
    """A world of PointButton1 with the robot at the origin looking along x, everything else far away."""
    row = 5 * jnp.arange(4, dtype=jnp.float32)
    far = {
        "buttons_pos": jnp.stack([row, jnp.full(4, 9.0), jnp.full(4, 0.1)], axis=1),
        "hazards_pos": jnp.stack([row, jnp.full(4, -9.0), jnp.full(4, 0.02)], axis=1),
        "gremlins_pos": jnp.stack([row, jnp.full(4, -15.0), jnp.full(4, 0.1)], axis=1),
    }
    return far | {"robot_pos": jnp.array([0.0, 0.0, 0.1])} | things


def press(goal, num=16, steps=20):
    """The robot drives onto button 0 and stays there; button `goal` is the goal. States [steps, num], over keys."""
    task = compiled("PointButton1")
    buttons = button_world()["buttons_pos"].at[0, :2].set(jnp.array([0.27, 0.0]))
    world = button_world(buttons_pos=buttons, goal_button=jnp.float32(goal))
    runs = []
    for key in jax.random.split(jax.random.key(0), num):
        states = [task.set_world(world, key)]
        for _ in range(steps):
            states.append(task.step(states[-1], jnp.array([1.0, 0.0])))
        runs.append(jax.tree.map(lambda *x: np.stack(x), *(s.replace(key=0) for s in states[1:])))
    return jax.tree.map(lambda *x: np.stack(x, axis=1), *runs)


def lidar(states):
    return states.obs[..., compiled("PointButton1").env.observation_slices["buttons_lidar"]]


def test_a_wrong_button_costs_as_long_as_it_is_touched():
    states = press(1, num=1)
    cost = states.costs["cost_buttons"][:, 0]
    first = int(cost.argmax())
    assert 1 <= first < 15
    np.testing.assert_array_equal(cost, np.arange(len(cost)) >= first)
    np.testing.assert_array_equal(states.cost[:, 0], cost)
    assert not states.goal_met.any()
    assert np.abs(states.reward).max() < 0.03
    assert (lidar(states).max(axis=-1) > 0.9).all()


def test_the_goal_button_pays_and_darkens_the_buttons_for_ten_observations():
    states = press(0)
    first = int(states.goal_met[:, 0].argmax())
    assert 1 <= first < 8  # late enough to see the way there, early enough to see the buttons lit again
    assert states.goal_met[first].all()
    assert not states.goal_met[:first].any()
    assert states.reward[first].min() > 0.9
    assert not states.costs["cost_buttons"][: first + 1].any()
    # The next goal is any button, the same one too: touched still, that one is met again at once.
    targets = np.bincount(states.target[first], minlength=4)
    assert (targets > 0).all()
    again = states.target[first] == 0
    np.testing.assert_array_equal(states.goal_met[first + 1], again)
    assert states.reward[first + 1, again].min() > 0.9
    # Those whose goal is another one: dark for ten observations, the step's own first, and ten free steps after it.
    seen, cost = lidar(states)[:, ~again].max(axis=-1), states.costs["cost_buttons"][:, ~again]
    since = np.arange(len(seen)) - first
    np.testing.assert_array_equal(seen == 0, np.tile(((since >= 0) & (since < 10))[:, None], (1, seen.shape[1])))
    np.testing.assert_array_equal(cost, np.tile((since > 10)[:, None], (1, cost.shape[1])))
    assert not states.goal_met[first + 1 :, ~again].any()


def test_gremlins_circle_late_and_just_inside_their_circles():
    task = compiled("PointButton1")
    centres = jnp.array([[2.0, 2.0, 0.1], [2.0, -2.0, 0.1], [-2.0, 2.0, 0.1], [-2.0, -2.0, 0.1]])
    state = task.set_world(button_world(gremlins_pos=centres), jax.random.key(0))
    for _ in range(100):
        state = task.step(state, jnp.zeros(2))
    for _ in range(3):  # a third of the circle
        after = task.get_world(state)
        t = float(after["time"]) - 0.089
        ring = 0.35 * 0.9967 * np.array([np.sin(t), np.cos(t)])
        offsets = np.asarray(after["gremlins_pos"] - centres)
        np.testing.assert_allclose(offsets[:, :2], np.tile(ring, (4, 1)), atol=5e-4)
        np.testing.assert_allclose(after["gremlins_pos"][:, 2], 0.1996, atol=1e-4)
        for _ in range(35):
            state = task.step(state, jnp.zeros(2))


def test_a_gremlin_that_glides_into_a_robot_at_rest_costs_at_once():
    task = compiled("PointButton1")
    state = task.set_world(button_world(), jax.random.key(0))
    for _ in range(314):  # once round: it now moves along x
        state = task.step(state, jnp.zeros(2))
    world = task.get_world(state) | {"robot_pos": jnp.array([0.0, 0.0, 0.1])}
    gap = jnp.array([0.0015, 0.003, 0.02])
    for last, distance in enumerate(gap):
        shift = jnp.array([-0.2 - distance, 0.0, 0.0]) - world["gremlins_pos"][3].at[2].set(0.0)
        beside = {name: world[name].at[3].add(shift) for name in ("gremlins_pos", "gremlins_center")}
        after = task.step(task.set_world(world | beside, jax.random.key(0)), jnp.zeros(2))
        assert (after.costs["cost_gremlins"] > 0) == (last < 2)


def test_the_heading_of_a_pushed_gremlin_s_target_can_be_told_from_its_pose():
    """A robot stands in the way of gremlins; the world is told without `gremlins_yaw`, as recordings have it."""
    task = compiled("PointButton1")
    bearings = jnp.linspace(0, 2 * jnp.pi, 16, endpoint=False)
    centres = jnp.stack([0.45 * jnp.cos(bearings), 0.45 * jnp.sin(bearings), 0 * bearings + 0.1], axis=1)
    far = button_world()["gremlins_pos"]
    yaws = jnp.linspace(-3.0, 3.0, 16)
    quats = jnp.stack([jnp.cos(yaws / 2), 0 * yaws, 0 * yaws, jnp.sin(yaws / 2)], axis=1)
    upright = jnp.array([[1.0, 0.0, 0.0, 0.0]] * 4)
    worlds = jax.vmap(
        lambda centre, quat: button_world(gremlins_pos=far.at[0].set(centre), gremlins_quat=upright.at[0].set(quat))
    )(centres, quats)
    keys = jax.random.split(jax.random.key(0), 16)
    states = task.set_worlds(worlds, keys)
    before, after, touching = [], [], []

    def off(yaw, known):
        return np.abs((np.asarray(yaw - known) + np.pi) % (2 * np.pi) - np.pi)

    for _ in range(150):
        states = task.steps(states, jnp.zeros((16, 2)))
        seen = task.get_worlds(states)
        again = task.set_worlds({name: x for name, x in seen.items() if name != "gremlins_yaw"}, keys)
        quat = seen["gremlins_quat"][:, 0]
        before.append(off(2 * jnp.arctan2(quat[:, 3], quat[:, 0]), yaws))
        after.append(off(again.physics.home["gremlins"][:, 0, 2], yaws))
        touching.append(states.costs["cost_gremlins"] > 0)
    before, after, touching = (np.stack(x) for x in (before, after, touching))
    pushed, parted = (before > 0.01) & touching, (before > 0.01) & ~touching
    assert pushed.sum() > 100
    assert parted.sum() > 20
    assert np.median(before[pushed]) > 0.1
    assert np.median(after[pushed]) < 0.25 * np.median(before[pushed])
    assert np.quantile(after[parted], 0.9) < 0.1 * np.quantile(before[parted], 0.9)
    np.testing.assert_allclose(after[before < 1e-6], 0, atol=1e-5)


def test_the_vase_that_a_fast_robot_is_about_to_hit_moves_whichever_it_is():
    """Ten vases for three slots; at the start of the step none of them is within the robot's reach yet."""
    task = compiled("PointGoal2")
    row = 4 + 5 * jnp.arange(10, dtype=jnp.float32)
    vases = jnp.stack([row, jnp.full(10, 9.0), jnp.full(10, 0.09996)], axis=1)
    world = {
        "robot_pos": jnp.array([0.0, 0.0, 0.1]),
        "robot_linvel": jnp.array([1.5, 0.0, 0.0]),
        "goal_pos": jnp.array([-2.0, 0.0, 0.1]),
        "hazards_pos": jnp.stack([row, jnp.full(10, -9.0), jnp.full(10, 0.02)], axis=1),
    }
    for index in (0, 7):
        hit = world | {"vases_pos": vases.at[index, :2].set(jnp.array([0.271, 0.0]))}
        state = task.step(task.set_world(hit, jax.random.key(0)), jnp.zeros(2))
        after = task.get_world(state)["vases_pos"][index]
        assert after[0] > 0.2715
        assert state.costs["cost_vases_velocity"] > 0
