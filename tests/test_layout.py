"""Layouts: the original's distribution, keepouts, fixed places, and what happens where there is no room."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import mjx_safety
from mjx_safety import layout as sampling
from mjx_safety.layout import TRIES, Layout
from mjx_safety.objects import Hazards, Placement
from tests.conftest import GOLDEN, compiled

EXTENTS = (-1.0, -1.0, 1.0, 1.0)


LEVELS = [f"{task}{level}" for task in ("Goal", "Button", "Push") for level in range(3)]


@pytest.fixture(params=LEVELS, scope="module")
def drawn(request):
    """2,000 layouts of ours and of the original, by kind: float [2000, num, 2]."""
    env = compiled(f"Point{request.param}").env
    worlds = jax.jit(jax.vmap(lambda key: env.get_world(env.reset(key))))(jax.random.split(jax.random.key(3), 2000))
    names = ["robot", *(["goal"] if env.task.objective.goal_placement else []), *(k.name for k in env.task.objects)]
    singular = {"hazards": "hazard", "vases": "vase", "pillars": "pillar", "buttons": "button", "gremlins": "gremlin"}
    ours = {singular.get(name, name): np.asarray(worlds[f"{name}_pos"]).reshape(2000, -1, 3)[..., :2] for name in names}
    golden = {
        name.removeprefix(f"{request.param}."): array / 1e4 - 2.0
        for name, array in np.load(GOLDEN / "layouts.npz").items()
        if name.startswith(f"{request.param}.")
    }
    return ours, golden


def test_layouts_are_distributed_as_the_original_s(drawn):
    ours, golden = drawn
    assert set(ours) == set(golden)
    for kind in golden:
        for thing in {0, golden[kind].shape[1] - 1}:  # things of one layout depend on each other: one a sample
            a, b = (x[kind][:, thing] for x in (ours, golden))
            far_a, far_b = (np.linalg.norm(x[kind][:, thing] - x["robot"][:, 0], axis=-1) for x in (ours, golden))
            for first, second in ((a[:, 0], b[:, 0]), (a[:, 1], b[:, 1]), (far_a, far_b)):
                itself = kind == "robot" and first is far_a
                assert itself or stats.ks_2samp(first, second).pvalue > 1e-3, (kind, thing)


def test_nothing_enters_a_keepout(goal):
    env = goal.env
    worlds = jax.vmap(env.get_world)(goal.resets(jax.random.split(jax.random.key(4), 2000)))
    task = env.task
    things = [(np.asarray(worlds["robot_pos"])[:, None, :2], task.robot_placement.keepout)]
    things += [(np.asarray(worlds["goal_pos"])[:, None, :2], task.objective.placement.keepout)]
    things += [(np.asarray(worlds[f"{kind.name}_pos"])[..., :2], kind.placement.keepout) for kind in task.objects]
    pos = np.concatenate([pos for pos, _ in things], axis=1)
    keepout = np.concatenate([np.full(pos.shape[1], keepout) for pos, keepout in things])
    apart = np.linalg.norm(pos[:, :, None] - pos[:, None], axis=-1)
    least = keepout[:, None] + keepout - 1e-5
    assert (apart >= least)[:, ~np.eye(len(keepout), dtype=bool)].all()
    # Hence an episode starts without cost: outside every hazard, in touch with nothing.
    for kind in task.objects:
        distance = np.linalg.norm(np.asarray(worlds[f"{kind.name}_pos"])[..., :2] - things[0][0], axis=-1)
        assert distance.min() > kind.size + 0.16, kind.name


spots = st.lists(st.floats(0.0, 0.25), min_size=1, max_size=6)


@hypothesis.settings(max_examples=15, deadline=None)
@hypothesis.given(spots, st.integers(0, 2**31 - 1))
def test_any_valid_layout_keeps_its_distances(keepouts, seed):
    layout = Layout([Placement(keepout) for keepout in keepouts], EXTENTS, margin=0.01)
    positions, valid = jax.device_get(layout.sample(jax.random.key(seed)))
    assert valid
    for i, a in enumerate(keepouts):
        assert (np.abs(positions[i]) <= 1 - a + 1e-6).all()
        for j, b in enumerate(keepouts[:i]):
            assert np.linalg.norm(positions[i] - positions[j]) >= a + b + 0.01 - 1e-6


def test_a_thing_is_placed_anew_among_the_others():
    layout = Layout([Placement(0.4), Placement(0.3)], EXTENTS, margin=0.0)
    positions = jnp.array([[0.5, 0.5], [-0.5, -0.5]])
    places, valid = jax.vmap(lambda key: layout.resample(key, 1, positions))(jax.random.split(jax.random.key(0), 500))
    assert np.asarray(valid).all()
    assert np.linalg.norm(np.asarray(places) - 0.5, axis=-1).min() >= 0.7 - 1e-6
    assert np.linalg.norm(np.asarray(places) + 0.5, axis=-1).min() < 0.1  # its own old place is free


def test_a_place_that_is_hard_to_find_takes_all_its_tries(monkeypatch):
    # Only the corners are far enough from the middle: four circular ends, 1.34 % of the square.
    layout = Layout([*Placement(0.0, locations=((0.0, 0.0),)).split(1), Placement(0.0)], EXTENTS, margin=1.3)
    share = (4 - 1.3**2 * (np.pi - 4 * np.arccos(1 / 1.3)) - 4 * (1.3**2 - 1) ** 0.5) / 4
    keys, middle = jax.random.split(jax.random.key(0), 4000), jnp.zeros((2, 2))
    monkeypatch.setattr(sampling, "ATTEMPTS", 1)  # the first failure is the last
    _, valid = jax.vmap(layout.sample)(keys)
    assert abs(np.mean(valid) - (1 - (1 - share) ** TRIES)) < 0.03  # 0.74; one round would give 0.29
    places, valid = jax.device_get(jax.vmap(lambda key: layout.resample(key, 1, middle))(keys))
    assert valid.all()
    corner = 2 * (places[:, 0] > 0) + (places[:, 1] > 0)
    assert stats.chisquare(np.bincount(corner, minlength=4)).pvalue > 1e-3


def test_a_full_world_is_reported():
    layout = Layout([Placement(0.75), Placement(0.3)], EXTENTS, margin=0.0)
    _, valid = layout.resample(jax.random.key(0), 1, jnp.zeros((2, 2)))
    assert not valid


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_layout_without_room_is_reported_and_whole(monkeypatch, attempts):
    """Round a thing that is fixed, two that never find room and one that does: the places of the last attempt."""
    monkeypatch.setattr(sampling, "ATTEMPTS", attempts)
    fixed = Placement(0.9, locations=((0.0, 0.0),))
    layout = Layout([*fixed.split(1), Placement(0.7), Placement(0.7), Placement(0.0)], EXTENTS, margin=0.0)
    positions, valid = jax.vmap(layout.sample)(jax.random.split(jax.random.key(0), 16))
    assert not np.asarray(valid).any()
    assert np.abs(positions).max() <= 1
    assert np.linalg.norm(np.asarray(positions)[:, 3], axis=-1).min() >= 0.9 - 1e-6


def test_a_layout_starts_again_as_rejection_sampling_does():
    """Layouts of which about one attempt in five fails, beside the original's way: one draw after the other."""
    keepouts, apart, num = (0.1, 0.25), 1.35, 2000
    layout = Layout([Placement(keepout) for keepout in keepouts], EXTENTS, margin=1.0)
    positions, valid = jax.vmap(layout.sample)(jax.random.split(jax.random.key(0), num))
    assert np.asarray(valid).all()
    assert (np.abs(positions) <= 1 - np.array(keepouts)[:, None] + 1e-6).all()

    rng, expected, failed = np.random.default_rng(0), [], 0
    while len(expected) < num:
        first = rng.uniform(-0.9, 0.9, 2)
        tries = rng.uniform(-0.75, 0.75, (TRIES, 2))
        free = np.flatnonzero(np.linalg.norm(tries - first, axis=1) >= apart)
        if len(free):
            expected.append((first, tries[free[0]]))
        failed += not len(free)
    assert failed > num / 10
    for got, want in zip(np.abs(positions).reshape(num, 4).T, np.abs(expected).reshape(num, 4).T, strict=True):
        assert stats.ks_2samp(got, want).pvalue > 1e-3


def one_after_the_other(layout, key, things, fixed, round_size, tries, attempts):
    """The original's algorithm on the same uniform numbers: positions of some things, and whether they are valid."""
    bounds, upto, keepout = layout._bounds, layout._upto, layout._keepout
    numbers, several = [], bounds.shape[1] > 1

    def draw(thing):
        nonlocal key, numbers
        if not len(numbers):
            key, now = jax.random.split(key)
            numbers = list(np.asarray(jax.random.uniform(now, (round_size, 3 if several else 2), jnp.float32)))
        x, y, *which = numbers.pop(0)
        x_min, y_min, x_max, y_max = bounds[thing, int((which[0] >= upto[thing]).sum()) if several else 0]
        return np.array([x_min + x * (x_max - x_min), y_min + y * (y_max - y_min)], np.float32)

    for attempt in range(attempts):
        placed, valid = dict(fixed), True
        for thing in things:
            for _ in range(tries):
                here = draw(thing)
                free = all(
                    np.sum((here - there) ** 2) >= (keepout[thing] + keepout[other] + layout._margin) ** 2
                    for other, there in placed.items()
                )
                if free:
                    break
            placed[thing] = here
            valid &= free
            if not free and attempt < attempts - 1:
                break
        if valid:
            break
    return np.stack([placed[thing] for thing in things]), valid


THREE = Placement(0.1, rectangles=((-1.0, -1.0, -0.5, -0.5), (0.0, 0.0, 0.9, 0.7), (0.5, -1.0, 1.0, -0.2)))
MIXED = (*Placement(0.1, locations=((0.9, 0.9),)).split(1), THREE, Placement(0.3), Placement(0.35))


@pytest.mark.parametrize(("tries", "attempts"), [(3, 2), (7, 3), (5, 1), (100, 10_000)])
@pytest.mark.parametrize("spots", [(THREE,), (Placement(0.3),) * 4, MIXED, (Placement(0.0),) * 60], ids=len)
def test_every_layout_is_the_one_that_placing_things_one_after_the_other_gives(monkeypatch, spots, tries, attempts):
    monkeypatch.setattr(sampling, "TRIES", tries)
    monkeypatch.setattr(sampling, "ATTEMPTS", attempts)
    monkeypatch.setattr(sampling, "REDRAWS", 9)
    layout = Layout(spots, EXTENTS, margin=0.0)
    keys = jax.random.split(jax.random.key(7), 20)
    positions, valid = jax.device_get(jax.jit(jax.vmap(layout.sample))(keys))
    again, found = jax.device_get(jax.jit(jax.vmap(lambda key, at: layout.resample(key, 0, at)))(keys, positions[::-1]))
    for i, key in enumerate(keys):
        expected, right = one_after_the_other(
            layout, key, range(len(spots)), {}, sampling.ROUND * len(spots), tries, attempts
        )
        np.testing.assert_allclose(positions[i], expected, atol=1e-6)
        assert valid[i] == right
        others = dict(enumerate(positions[::-1][i][1:], start=1))
        expected, right = one_after_the_other(layout, key, [0], others, sampling.ROUND_OF_ONE, 9, 1)
        np.testing.assert_allclose(again[i], expected[0], atol=1e-6)
        assert found[i] == right


def test_old_keys_do_as_well(goal1):
    new, old = (jax.jit(goal1.env.reset)(key) for key in (jax.random.key(3), jax.random.PRNGKey(3)))
    np.testing.assert_allclose(old.obs, new.obs, atol=1e-6)


def test_a_batch_of_compiled_resets_is_its_single_resets(goal1):
    keys = jax.random.split(jax.random.key(3), 3)
    places = jax.jit(jax.vmap(jax.jit(lambda key: goal1.env._draw(key)[1])))(keys)
    np.testing.assert_allclose(places[1], goal1.reset(keys[1]).places, atol=1e-6)


def test_fixed_places_and_rectangles_are_kept():
    two = Placement(0.1, rectangles=((-1.0, -1.0, -0.5, -0.5), (0.5, 0.5, 1.0, 1.0)))
    at = Placement(0.1, locations=((0.2, -0.3),))
    layout = Layout([*at.split(1), two], EXTENTS, margin=0.0)
    positions, valid = jax.vmap(layout.sample)(jax.random.split(jax.random.key(1), 1000))
    assert np.asarray(valid).all()
    np.testing.assert_allclose(positions[:, 0], np.tile([0.2, -0.3], (1000, 1)), atol=1e-6)
    free = np.asarray(positions[:, 1])
    assert ((np.abs(free) >= 0.6 - 1e-6) & (np.abs(free) <= 0.9 + 1e-6)).all()
    assert 0.4 < (free[:, 0] > 0).mean() < 0.6  # equal areas, equal shares


def test_locations_that_no_layout_can_have_are_refused():
    two = Placement(0.3, locations=((0.0, 0.0), (0.5, 0.0))).split(2)
    with pytest.raises(ValueError, match=r"\(0.0, 0.0\) and \(0.5, 0.0\) are 0.5 m apart, .* need 0.6 m"):
        Layout(two, EXTENTS, margin=0.0)
    far = Placement(0.3, locations=((0.0, 0.0), (0.6, 0.0))).split(2)
    assert Layout(far, EXTENTS, margin=0.0).sample(jax.random.key(0))[1]
    with pytest.raises(ValueError, match=r"margin of 0.1 m need 0.7 m"):
        Layout(far, EXTENTS, margin=0.1)


def test_rectangles_are_chosen_by_their_area():
    """Beside things with another number of rectangles; the keepout is 0, so that areas are those that are written."""
    three = Placement(0.0, rectangles=((-1.0, -1.0, -0.9, -0.9), (-0.5, -1.0, -0.3, -0.9), (0.0, -1.0, 0.5, -0.9)))
    two = Placement(0.0, rectangles=((-1.0, 0.0, 0.0, 0.1), (0.5, 0.0, 0.8, 1.0)))
    layout = Layout([Placement(0.0, locations=((0.9, 0.9),)), three, two], EXTENTS, margin=0.0)
    keys = jax.random.split(jax.random.key(2), 2000)
    positions = np.asarray(jax.vmap(layout.sample)(keys)[0])
    again = np.asarray(jax.vmap(lambda key, at: layout.resample(key, 1, at)[0])(keys, positions))
    for x, edges, areas in (
        (positions[:, 1, 0], [-0.9, -0.3], [1, 2, 5]),
        (again[:, 0], [-0.9, -0.3], [1, 2, 5]),
        (positions[:, 2, 0], [0.25], [1, 3]),
    ):
        found = np.bincount(np.searchsorted(edges, x), minlength=len(areas))
        assert stats.chisquare(found, 2000 * np.array(areas) / np.sum(areas)).pvalue > 1e-3


def test_rectangles_without_area_are_equally_likely():
    two = Placement(0.25, rectangles=((-0.75, -0.25, -0.25, 0.25), (0.25, -0.25, 0.75, 0.25)))  # as wide as its keepout
    positions = np.asarray(jax.vmap(Layout([two], EXTENTS, 0.0).sample)(jax.random.split(jax.random.key(3), 1000))[0])
    np.testing.assert_allclose(np.abs(positions[:, 0]), np.tile([0.5, 0.0], (1000, 1)), atol=1e-6)
    assert 0.4 < (positions[:, 0, 0] > 0).mean() < 0.6


def test_margins_may_reach_beyond_the_extents():
    assert Layout([Placement(0.4)], (-1.0, -1.0, 1.0, 1.0), margin=1.5).sample(jax.random.key(0))[1]


def test_robot_and_vases_are_turned_each_its_own_way(goal2):
    worlds = jax.vmap(goal2.env.get_world)(goal2.resets(jax.random.split(jax.random.key(6), 2000)))
    quats = np.concatenate([np.asarray(worlds["robot_quat"])[:, None], np.asarray(worlds["vases_quat"])], axis=1)
    turns = 2 * np.arctan2(quats[..., 3], quats[..., 0]) % (2 * np.pi)
    for turn in turns.T:
        assert stats.kstest(turn, "uniform", (0, 2 * np.pi)).pvalue > 1e-3
    alike = np.corrcoef(np.concatenate([np.cos(turns), np.sin(turns)], axis=1).T) - np.eye(2 * turns.shape[1])
    assert np.abs(alike).max() < 0.1


def test_no_room_for_a_keepout_is_an_error():
    with pytest.raises(ValueError, match="leaves no place for a keepout of 0.4 m"):
        mjx_safety.make("PointGoal0", objects=(Hazards(1),), extents=(-0.1, -0.1, 0.1, 0.1))
