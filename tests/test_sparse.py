"""`sparse.cond` equals `jax.lax.cond`, batched or not, and does no work that nobody needs; what goes in one piece."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mjx_safety
from mjx_safety import scene, sparse, spatial
from mjx_safety.articulated import Articulated
from mjx_safety.robots import CAR


def root(x, y):
    return {"value": jnp.sqrt(x) + y[0], "key": jax.random.fold_in(jax.random.key(0), 7)}


def sparse_root(pred, x, y):
    otherwise = {"value": -x, "key": jax.random.key(1)}
    return sparse.cond(pred, root, (x, y), otherwise=otherwise, fraction=3)


def expected(pred, x, y):
    return np.where(pred, np.sqrt(x) + y[..., 0], -x)


def data(*shape):
    rng = np.random.default_rng(0)
    pred = rng.random(shape) < 0.4
    return pred, rng.random(shape).astype(np.float32), rng.random((*shape, 2)).astype(np.float32)


@pytest.mark.parametrize("shape", [(), (1,), (7,), (1, 1), (5, 1), (1, 5), (4, 5), (2, 3, 7)])
@pytest.mark.parametrize("compiled", [False, True])
def test_equals_a_select_at_every_depth_of_vmap(shape, compiled):
    pred, x, y = data(*shape)
    fn = sparse_root
    for _ in shape:
        fn = jax.vmap(fn)
    got = (jax.jit(fn) if compiled else fn)(jnp.asarray(pred), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(got["value"], expected(pred, x, y), rtol=1e-6)
    keys = jax.random.key_data(got["key"])
    chosen = np.where(pred[..., None], jax.random.key_data(root(1.0, jnp.zeros(2))["key"]), [0, 1])
    np.testing.assert_array_equal(keys, chosen)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_none_and_all(all_of_them):
    _, x, y = data(10)
    pred = np.full(10, all_of_them)
    got = jax.vmap(sparse_root)(jnp.asarray(pred), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(got["value"], expected(pred, x, y), rtol=1e-6)


def test_arguments_shared_by_the_batch():
    pred, x, _ = data(6)
    y = np.array([2.0, 3.0], np.float32)
    got = jax.vmap(sparse_root, in_axes=(0, 0, None))(jnp.asarray(pred), jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(got["value"], np.where(pred, np.sqrt(x) + 2.0, -x), rtol=1e-6)


@pytest.mark.parametrize(
    ("num", "needed", "sizes"),
    [
        (64, 0, []),
        (64, 9, [8, 8]),
        (64, 10, [32]),
        (64, 41, [32, 8, 8]),
        (64, 64, [32, 32]),
        (44, 44, [32, 32]),
        (20, 20, [16, 8]),
        (5, 5, [5]),
    ],
)
def test_large_chunks_come_first_where_they_are_worth_it(num, needed, sizes):
    seen = []

    def together(_, __, x):
        jax.debug.callback(lambda values: seen.append(len(values)), x)
        return x + 1, True

    work = jax.custom_batching.custom_vmap(lambda x: x + 1)
    work.def_vmap(together)
    pred = jnp.arange(num) * 37 % num < needed
    out = jax.vmap(lambda p, x: sparse.cond(p, work, (x,), otherwise=x, fraction=8, larger=4))(
        pred, jnp.arange(float(num))
    )
    jax.effects_barrier()
    np.testing.assert_array_equal(out, np.arange(num) + np.asarray(pred))
    assert pred.sum() == needed
    assert seen == sizes


def test_works_off_only_the_rows_in_need():
    calls = []

    def noted(x):
        jax.debug.callback(lambda value: calls.append(float(value)), x)
        return x + 1

    pred = jnp.arange(32) % 4 == 1  # 8 of 32, in chunks of 32 / 4 = 8
    out = jax.vmap(lambda p, x: sparse.cond(p, noted, (x,), otherwise=x, fraction=4))(pred, jnp.arange(32.0))
    jax.effects_barrier()
    np.testing.assert_array_equal(out, np.arange(32.0) + np.asarray(pred))
    assert sorted(calls) == [1.0 + 4 * i for i in range(8)]


def test_empty_arrays_pass_through_nested_batches():
    def work(x, nothing):
        return x + 1, nothing

    def run(x):
        nothing = jnp.zeros(0)
        return sparse.cond(x > 0, work, (x, nothing), (x, nothing), fraction=4)

    x = jnp.arange(-3.0, 3.0).reshape(2, 3)
    value, nothing = jax.jit(jax.vmap(jax.vmap(run)))(x)
    np.testing.assert_array_equal(value, np.where(x > 0, x + 1, x))
    assert nothing.shape == (2, 3, 0)


def test_a_loop_gives_each_what_it_would_get_alone():
    """A batch of loops, nested or not, is its single loops, however many rounds each of them takes."""

    def pending(carry):
        return (carry["x"] > 0) & (carry["rounds"] < 40)

    def again(carry, limit):
        key, draw = jax.random.split(carry["key"])
        return {"key": key, "x": jax.random.uniform(draw) - limit, "rounds": carry["rounds"] + 1}

    def wait(key, limit):
        start = {"key": key, "x": jnp.float32(2.0), "rounds": jnp.int32(0)}
        last = sparse.loop(pending, again, start, limit, fraction=3)
        return last["x"], last["rounds"]

    keys, limits = jax.random.split(jax.random.key(0), 24), jnp.linspace(-0.1, 1.0, 24)
    values, rounds = jax.jit(jax.vmap(wait))(keys, limits)
    assert rounds[0] == 40
    assert (values[3:] <= 0).all()
    assert len(np.unique(rounds)) > 5
    single = jax.jit(wait)
    for i in range(24):
        np.testing.assert_array_equal(single(keys[i], limits[i]), (values[i], rounds[i]))
    nested = jax.jit(jax.vmap(jax.vmap(wait)))(keys.reshape(6, 4), limits.reshape(6, 4))
    np.testing.assert_array_equal(nested[0].ravel(), values)


@pytest.mark.parametrize(
    ("rounds", "sizes"),
    [
        ([0] * 32, []),
        ([1] * 32, [32]),
        ([1] * 10 + [0] * 22, [32]),
        ([1] * 9 + [0] * 23, [8, 8]),
        ([3, 1, 1, 1] * 8, [32, 8, 8]),
        ([2], []),  # a batch of one is worked off as what it is
        ([1, 2, 3], [3, 3, 3]),
        ([1] * 9, [9]),
        ([2] + [1] * 8, [9, 8]),
    ],
)
def test_a_loop_takes_all_while_many_are_pending_and_then_chunks(rounds, sizes):
    seen = []
    minus = jax.custom_batching.custom_vmap(lambda x: x - 1)

    @minus.def_vmap
    def _(size, _, x):
        jax.debug.callback(lambda _: seen.append(size), x)
        return x - 1, True

    out = jax.jit(jax.vmap(lambda x: sparse.loop(lambda x: x > 0, minus, x, fraction=4)))(jnp.array(rounds))
    jax.effects_barrier()
    assert not out.any()
    assert sorted(seen) == sorted(sizes)


@pytest.mark.parametrize("shape", [(1,), (8,), (13,), (2, 3, 13)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rows_in_need_come_first_and_in_order(shape, share):
    pred = np.random.default_rng(0).random(shape) < share
    find = functools.partial(sparse.in_need, spare=3)
    for _ in shape[1:]:
        find = jax.vmap(find)
    rows, count = jax.jit(find)(pred)
    num = shape[-1]
    for got, number, holds in zip(rows.reshape(-1, num + 3), count.ravel(), pred.reshape(-1, num), strict=True):
        expected = np.full(num + 3, num)
        expected[: holds.sum()] = np.flatnonzero(holds)
        np.testing.assert_array_equal(got, expected)
        assert number == holds.sum()


def test_both_ways_to_find_rows_find_the_same():
    preds = (np.random.default_rng(0).random((3, 21)) < [[0.0], [0.3], [1.0]]).astype(np.int32)
    for first, second in zip(sparse.rows_at_once(preds, 5), sparse.rows_one_by_one(preds, 5), strict=True):
        np.testing.assert_array_equal(first, second)


def main_of(program: str) -> str:
    """What a lowered program is given and gives."""
    return next(line for line in program.splitlines() if "@main" in line)


def called(text: str) -> list[str]:
    """Names of the functions that a piece of a lowered program calls."""
    return re.findall(r'call @"?([\w<>]+)"?\(', text)


def taken_in_one_go(program: str) -> tuple[set[str], dict[str, str]]:
    """What a lowered program has a CPU run as one piece of machine code.

    Returns:
      Names of the functions, without the numbers of their copies; and the texts by name of all that is called in them.
    """
    parts = program.split("func.func private ")[1:]
    texts = {re.match(r'@"?([\w<>]+)', text)[1]: text for text in parts}
    wrappers = {name for line in program.splitlines() if "xla_cpu_small_call" in line for name in called(line)}
    outer = {name for wrapper in wrappers for name in called(texts[wrapper])}
    inside, left = {}, set(outer)
    while left:
        name = left.pop()
        inside[name] = texts[name]
        left |= set(called(texts[name])) - inside.keys()
    return {re.sub(r"_\d+$", "", name) for name in outer} - {"_same"}, inside


def test_what_goes_in_one_go_is_one_call_on_a_cpu():
    def halve(x):
        return jax.lax.while_loop(lambda x: (x > 1).any(), lambda x: jnp.where(x > 1, x / 2, x), x)

    numbers = jnp.array([[0.25, 5.0, 64.0], [3.0, 1.0, 2.0]])
    marked = jax.jit(jax.vmap(spatial.in_one_go(halve))).lower(numbers).compile()

    np.testing.assert_array_equal(marked(numbers), [[0.25, 0.625, 1.0], [0.75, 1.0, 1.0]])
    assert ("xla_cpu_small_call" in marked.as_text()) == (jax.default_backend() == "cpu")


def test_in_one_go_marks_the_call_alone_and_traces_once():
    traces = []

    def halve(x):
        traces.append(x)
        return jax.lax.while_loop(lambda x: (x > 1).any(), lambda x: jnp.where(x > 1, x / 2, x), x)

    traced = jax.jit(jax.vmap(spatial.in_one_go(halve))).trace(jnp.ones((2, 3)))
    on_cpu, on_gpu = (traced.lower(lowering_platforms=(name,)).as_text() for name in ("cpu", "cuda"))

    assert on_cpu.count("xla_cpu_small_call") == 1
    assert on_cpu.count("stablehlo.optimization_barrier") == 1
    assert taken_in_one_go(on_cpu)[0] == {"halve"}
    assert "frontend_attributes" not in on_gpu
    assert "optimization_barrier" not in on_gpu
    assert len(traces) == 1


def test_a_whole_batch_goes_in_one_go():
    def halve(x, least):
        return jax.lax.while_loop(lambda x: x > least, lambda x: x / 2, x)

    numbers, least = jnp.array([[0.25, 5.0, 64.0], [3.0, 1.0, 2.0]]), jnp.array([1.0, 2.0])
    halves = jax.jit(jax.vmap(jax.vmap(spatial.all_in_one_go(halve), (0, None))))

    np.testing.assert_array_equal(halves(numbers, least), [[0.25, 0.625, 1.0], [1.5, 1.0, 2.0]])
    assert spatial.all_in_one_go(halve)(jnp.float32(5.0), jnp.float32(2.0)) == 1.25
    on_cpu = halves.trace(numbers, least).lower(lowering_platforms=("cpu",)).as_text()
    assert on_cpu.count("xla_cpu_small_call") == 1


def test_in_one_go_arguments_may_be_folded_away():
    """XLA aborts over such parameters of the machine code, if nothing stores them."""

    def double(x, y):
        return jnp.where(jnp.zeros(3, bool), y, jax.lax.while_loop(lambda x: (x < 2).any(), lambda x: 2 * x, x))

    np.testing.assert_array_equal(jax.jit(spatial.in_one_go(double))(jnp.ones(3), jnp.zeros(3)), 2)


@pytest.mark.parametrize(("num_envs", "known", "frame_skip_p"), [(1, False, 1.0), (1, True, 1.0), (64, True, 0.5)])
def test_xla_may_know_the_states(num_envs, known, frame_skip_p):
    """It aborts over machine code that is given numbers it can find out, as in a batch of one."""
    env = mjx_safety.make("PointGoal1", frame_skip_p=frame_skip_p)
    reset, step = (jax.vmap(fn) for fn in (env.reset, env.step))
    keys, actions = jax.random.split(jax.random.key(0), num_envs), jnp.zeros((num_envs, env.action_size))
    if known:
        program = jax.jit(functools.partial(step, jax.jit(reset)(keys))).lower(actions)
        assert len(re.findall(r"%arg\d+: ", main_of(program.as_text()))) == 1  # the actions
    else:
        program = jax.jit(step).lower(jax.eval_shape(reset, keys), actions)
    program.compile()


@pytest.mark.parametrize("num", [1, 2])
def test_a_batch_of_one_is_a_conditional(num):
    roots = jax.vmap(lambda x: sparse.cond(x > 1, jnp.sqrt, (x,), x, fraction=1))
    program = jax.jit(roots).lower(jnp.ones(num)).as_text()
    assert ["stablehlo.scatter" in program, "stablehlo.while" in program] == [num > 1] * 2
    np.testing.assert_array_equal(roots(jnp.full(num, 4.0)), 2)


@pytest.mark.parametrize(
    ("task_id", "alone"),
    [
        ("PointGoal1", {"all_steps", "take_round", "_accelerations", "_coast"}),
        ("PointPush2", {"all_steps", "take_round", "_accelerations", "_coast", "_roll"}),
        ("CarButton2", {"substep", "iterate"}),
        ("DoggoPush1", {"substep", "take_round", "iterate"}),
    ],
)
def test_a_cpu_takes_physics_steps_in_one_go(task_id, alone):
    env = mjx_safety.make(task_id)
    state = jax.eval_shape(env.reset, jax.random.key(0))
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((16, *x.shape), x.dtype), state)
    actions = jnp.zeros((16, env.action_size))
    program = jax.jit(jax.vmap(env.step)).trace(batch, actions).lower(lowering_platforms=("cpu",)).as_text()

    names, texts = taken_in_one_go(program)
    assert names == {"rows_one_by_one"} | alone
    for name, text in texts.items():
        assert not re.search(r"stablehlo\.(scatter|sort|dot_general)|top_k", text), name


def test_the_car_s_contacts_are_solved_in_one_go():
    car = Articulated(scene.robot_model(CAR))
    state = jnp.zeros(car.nq), jnp.zeros(car.nv), jnp.zeros(car.action_size)

    assert 'xla_cpu_small_call = "true"' in jax.jit(car.roll, static_argnums=3).lower(*state, 1).as_text()
