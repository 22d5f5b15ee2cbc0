"""Each algorithm against numbers worked out by hand, and all of them where reward and cost conflict."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
import mjx_safety
from agents import evaluation, networks
from agents.algorithms import ALGORITHMS, cpo, crpo, focops, p3o, ppo, trust_region
from agents.algorithms.base import Constraint, Samples
from agents.config import validate
from agents.loop import Batch, Trainer, make_fleet
from agents.policy import Policy
from agents.wrappers import EarlyTerminated, Saute
from tests.toy_env import ToyEnv, ToyTask, hyper, on_one_device


def constraint(violation: float = 0.0, multiplier: float = 0.0, horizon: int = 1000) -> Constraint:
    return Constraint(jnp.float32(violation), jnp.float32(multiplier), horizon)


# --------------------------------------------------------------------------------------------- first-order objectives

SAMPLES = Samples(
    ratio=jnp.array([1.5, 0.5, 1.0, 0.9]),
    kl=jnp.array([0.01, 0.03, 0.0, 0.02]),
    advantage=jnp.array([1.0, -2.0, 0.5, 1.0]),
    cost_advantage=jnp.array([2.0, 1.0, -1.0, -2.0]),
)
# min(rho A, clip(rho, 0.8, 1.2) A): 1.2, -1.6, 0.5, 0.9, of mean 0.25.  rho A_C: 3, 0.5, -1, -1.8, of mean 0.175.


@pytest.mark.parametrize("price", [0.0, 3.0])
def test_ppo_by_hand(price):
    loss = ppo.objective(SAMPLES, constraint(multiplier=price), hyper(clip_eps=0.2))
    np.testing.assert_allclose(loss, -(0.25 - price * 0.175) / (1 + price), rtol=1e-5)


def test_focops_by_hand():
    # nu = 1: (A - A_C) / 2 = -0.5, -1.5, 0.75, 1.5; divided by the temperature of 1.5: -1/3, -1, 0.5, 1.
    # Samples 2 and 4 have moved further than 0.015.
    loss = focops.objective(SAMPLES, constraint(multiplier=1.0), hyper(focops_temperature=1.5, target_kl=0.015))
    np.testing.assert_allclose(loss, ((0.01 + 1.5 / 3) + 0.0 + (0.0 - 0.5) + 0.0) / 4, rtol=1e-5)


def test_focops_mask_cuts_the_gradient():
    def loss(ratio):
        return focops.objective(SAMPLES._replace(ratio=ratio), constraint(), hyper(target_kl=0.015))

    np.testing.assert_array_equal(jax.grad(loss)(SAMPLES.ratio) == 0.0, [False, True, False, True])


def test_crpo_by_hand():
    settings = hyper(crpo_tolerance=2.0, clip_eps=0.2)
    np.testing.assert_allclose(crpo.objective(SAMPLES, constraint(violation=2.0), settings), -0.25, rtol=1e-5)
    # Beyond the tolerance min(-rho A_C, -clip(rho) A_C): -3, -0.8, 1, 1.8, of mean -0.25.
    np.testing.assert_allclose(crpo.objective(SAMPLES, constraint(violation=2.1), settings), 0.25, rtol=1e-5)


def test_p3o_by_hand():
    objective = on_one_device(p3o.objective)
    settings = hyper(p3o_kappa=20.0, gamma=0.99, clip_eps=0.2)
    # max(rho A_C, clip(rho) A_C): 3, 0.8, -1, -1.8, of mean 0.25; the hinge opens at a violation of -25.
    np.testing.assert_allclose(objective(SAMPLES, constraint(-26.0), settings), -0.25, rtol=1e-4)
    np.testing.assert_allclose(objective(SAMPLES, constraint(10.0), settings), -0.25 + 20 * (0.25 + 0.1), rtol=1e-4)


# ------------------------------------------------------------------------------------------------------- trust region

# One observation of 1, a mean of w + b = 0 and a standard deviation of 1. The actions +1 and -1 have advantages +1 and
# -1, so E[rho A] has the gradient 1 in w and in b and 0 in log_std. KL's Hessian is 1 everywhere for (w, b) and 2 for
# log_std, and 0.1 of damping is added: Hx = g has the solution 1 / 2.1 in w and b, and x'Hx = 2 / 2.1.
LINE = {"mean": ((jnp.zeros((1, 1)), jnp.zeros(1)),), "log_std": jnp.zeros(1)}
TARGET_KL = 0.021  # sqrt(2 target_kl / x'Hx) / 2.1 = 0.1, where the KL is (0.1 + 0.1)^2 / 2 = 0.02


def line_batch(cost: float = 0.0) -> Batch:
    action, ones, zeros = jnp.array([[1.0], [-1.0]]), jnp.ones((2, 1)), jnp.zeros((2, 1))
    sign = action[:, 0]
    log_prob = networks.log_prob(zeros, jnp.zeros(1), action)
    batch = Batch(ones, action, zeros, log_prob, sign, cost * sign, zeros[:, 0], zeros[:, 0])
    return jax.tree.map(lambda x: jnp.stack([x[None]] * 2), batch)  # two parts of one block, alike


def moved(step, batch, at, target_kl=TARGET_KL):
    """Changes of w and b, and the metrics."""
    policy, metrics = on_one_device(step)(LINE, batch, at, hyper(target_kl=target_kl))
    ((weight, bias),) = policy["mean"]
    np.testing.assert_allclose(weight[0, 0], bias[0], rtol=1e-4)
    np.testing.assert_allclose(policy["log_std"], 0.0, atol=1e-5)
    return float(bias[0]), metrics


@pytest.mark.parametrize(("cost", "price", "change"), [(0.0, 0.0, 0.1), (2.0, 0.0, 0.1), (2.0, 1.0, -0.1)])
def test_trpo_by_hand(cost, price, change):
    """With a price of 1 on twice the advantage the way back is the way to go."""
    bias, metrics = moved(trust_region.step, line_batch(cost), constraint(multiplier=price))
    np.testing.assert_allclose(bias, change, rtol=1e-3)
    np.testing.assert_allclose(metrics["kl"], 0.02, rtol=1e-3)
    assert metrics["policy_steps"] == 1
    # Probability ratios of the two actions are exp(+-a - a^2 / 2) with a = +-0.2.
    expected = (np.exp(0.2 - 0.02) - np.exp(-0.2 - 0.02)) / 2 * np.sign(change)
    np.testing.assert_allclose(metrics["policy_loss"], -expected * (1 - price * cost) / (1 + price), rtol=1e-3)


def test_line_search_by_hand():
    """0.3 x 0.8^j is the first candidate at 0.8^2: 0.192 of KL 0.0737; or none."""
    batch = line_batch()

    def search(least):
        problem = trust_region.pose(LINE, batch)
        step = -0.3 * jnp.concatenate([jnp.zeros(1), jnp.ones(2)])
        now = problem.outlook(problem.params)
        return trust_region.line_search(problem, step, now, lambda new: (new.kl < 0.08) & (new.reward > least))

    params, outlook, accepted = on_one_device(search)(0.0)
    np.testing.assert_allclose(params, [0.0, 0.192, 0.192], rtol=1e-5)
    np.testing.assert_allclose(outlook.kl, 0.384**2 / 2, rtol=1e-5)
    assert accepted
    params, outlook, accepted = on_one_device(search)(10.0)
    np.testing.assert_array_equal(params, 0.0)
    assert outlook.kl == 0.0
    assert not accepted


def test_conjugate_gradient_by_hand():
    matrix = jnp.array([[4.0, 1.0], [1.0, 3.0]])
    x = trust_region.conjugate_gradient(lambda x: matrix @ x, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(x, [1 / 11, 7 / 11], rtol=1e-5)
    np.testing.assert_array_equal(trust_region.conjugate_gradient(lambda x: matrix @ x, jnp.zeros(2)), 0.0)


def test_curvature_is_the_hessian_of_the_divergence():
    mean = networks.init_mlp(jax.random.key(0), (3, 4, 2), head_scale=1.0)
    policy = {"mean": mean, "log_std": jnp.array([-0.5, 0.3])}
    obs = jax.random.normal(jax.random.key(1), (3, 4, 5, 3))
    zeros = jnp.zeros((3, 4, 5))
    batch = Batch(obs, jnp.zeros((3, 4, 5, 2)), networks.mlp(mean, obs), zeros, zeros, zeros, zeros, zeros)
    some = jax.tree.map(lambda x: x.reshape(1, 12, *x.shape[2:])[:, ::3], batch)  # the four blocks that count

    def matrices():
        problem = trust_region.pose(policy, batch)
        divergence = jax.hessian(lambda x: trust_region.pose(policy, some).outlook(x).kl)(problem.params)
        return jax.vmap(problem.curvature)(jnp.eye(len(problem.params))), divergence

    curvature, hessian = on_one_device(matrices)()
    np.testing.assert_allclose(curvature, hessian + 0.1 * np.eye(len(hessian)), atol=1e-4)


# H is the unit matrix and the trust region the unit disc; the limit is a line y <= -c, or b = 0.
DUAL = {
    "flat": (4, (-1.0, -1.0), 0.0, -1.0, (0.5**0.5, 0.5**0.5)),
    "far within": (3, (-1.0, -1.0), 1.0, -1.5, (0.5**0.5, 0.5**0.5)),
    "within, at the border": (2, (-1.0, -1.0), 1.0, -0.5, (0.75**0.5, 0.5)),
    "within, away from the border": (2, (-1.0, 1.0), 1.0, -0.5, (0.5**0.5, -(0.5**0.5))),
    "beyond, at the border": (1, (-1.0, -1.0), 1.0, 0.5, (0.75**0.5, -0.5)),
    "beyond, well back": (1, (-0.6, 0.8), 1.0, 0.5, (0.6, -0.8)),
    "far beyond": (0, (-1.0, -1.0), 1.0, 1.5, (0.0, -1.0)),
}


@pytest.mark.parametrize(("case", "g", "b", "c", "expected"), DUAL.values(), ids=DUAL)
def test_cpo_dual_by_hand(case, g, b, c, expected):
    g, b = np.array(g, np.float32), np.array([0.0, b], np.float32)
    numbers = [jnp.float32(x) for x in (g @ g, g @ b, b @ b, c, 0.5)]
    lam, nu, found = cpo.solve_dual(*numbers)
    assert found == case
    x = -nu * b if case == 0 else -(g + nu * b) / lam
    np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


# On the line above with A_C = A, moving each of w and b by m changes the cost of a step by 2m, to first order. Reward
# and cost pull along one line: where the limit binds, its price is nu = 1.
@pytest.mark.parametrize(
    ("violation", "margin", "change", "nu"),
    [
        (-1000.0, 0.0, 0.1, 0.0),  # limit out of reach
        (-100.0, 0.0, 0.05, 1.0),  # room for 0.1
        (-150.0, 50.0, 0.05, 1.0),  # a margin counts as so much cost more
        (100.0, 0.0, -0.05, 1.0),  # 0.1 too much
        (1000.0, 0.0, -0.1, 0.21),  # all of the trust region against the cost: sqrt(2 x 0.021 / (2 / 2.1))
    ],
)
def test_cpo_by_hand(violation, margin, change, nu):
    bias, metrics = moved(cpo.step, line_batch(cost=1.0), constraint(violation, margin))
    np.testing.assert_allclose(bias, change, rtol=1e-2)
    np.testing.assert_allclose(metrics["multiplier"], nu, rtol=1e-2)
    assert metrics["kl"] <= TARGET_KL
    assert metrics["policy_steps"] == 1


# ----------------------------------------------------------------------------------------------------------- wrappers


def in_the_disc(wrapper):
    """Four steps that cost 1 each, of an episode that may cost 2."""
    env = wrapper(ToyEnv(ToyTask(num_steps=5)), 2.0)
    states = [jax.jit(env.reset)(jax.random.key(0)).replace(physics=jnp.zeros(2))]
    for _ in range(4):
        states.append(jax.jit(env.step)(states[-1], jnp.zeros(2)))
    assert [float(state.cost) for state in states[1:]] == [1.0] * 4
    return env, states


def test_saute_by_hand():
    env, states = in_the_disc(Saute)
    assert env.observation_size == len(states[0].obs) == 5
    assert [float(state.obs[-1]) for state in states] == [1.0, 0.5, 0.0, -0.5, -1.0]
    obs, rewards = jnp.stack([state.obs for state in states]), jnp.full(5, 0.3)
    np.testing.assert_allclose(env.learned_reward(rewards, obs, hyper(unsafe_reward=-2.0)), [0.3, 0.3, 0.3, -2, -2])
    assert not any(state.terminated for state in states)


def test_early_termination_by_hand():
    env, states = in_the_disc(EarlyTerminated)
    assert env.observation_size == len(states[0].obs) == 4
    assert [bool(state.terminated) for state in states] == [False, False, True, True, True]


def test_every_episode_has_the_whole_budget():
    venv = mjx_safety.AutoReset(Saute(ToyEnv(ToyTask(num_steps=2)), 2.0), 3)
    states = jax.jit(venv.reset)(jax.random.key(0))
    step, left = jax.jit(venv.step), []
    for _ in range(4):
        states = step(states.replace(physics=jnp.zeros((3, 2))), jnp.zeros((3, 2)))
        left.append((float(states.final_obs[1, -1]), float(states.obs[1, -1])))
    assert left == [(0.5, 0.5), (0.0, 1.0), (0.5, 0.5), (0.0, 1.0)]


@pytest.mark.parametrize("algorithm", ["ppo_saute", "trpo_saute"])
def test_saute_needs_a_budget(algorithm):
    with pytest.raises(ValueError, match=f"cost_limits must be positive numbers with {algorithm}, got \\(0.0,\\)"):
        validate(agents.Config(algorithm=algorithm, cost_limits=(0.0,)))


# ------------------------------------------------------------------------------------------------------ all together


@dataclasses.dataclass(frozen=True)
class Conflict(ToyEnv):
    """Every step pays its action, and `living`, and costs 1 where the action is positive: an episode of 10 costs 10 at
    its best return.
    """

    task: ToyTask = ToyTask(num_steps=10)
    living: float = 0.0
    observation_size: int = 1
    action_size: int = 1

    def reset(self, key):
        return super().reset(key).replace(obs=jnp.ones(1), costs={"cost_positive": jnp.float32(0.0)})

    def step(self, state, action):
        steps = state.steps + 1
        cost = (action[0] > 0.0).astype(jnp.float32)
        return state.replace(
            reward=jnp.clip(action[0], -1.0, 1.0) + self.living,
            cost=cost,
            costs={"cost_positive": cost},
            steps=steps,
            terminated=jnp.array(False),
            truncated=steps >= self.task.num_steps,
            obs=jnp.ones(1),
        )


RUNS_LIKE_ANOTHER = ["ppo_fixed", "ppo_lagrangian", "trpo", "trpo_saute", "trpo_early_terminated"]


@pytest.mark.parametrize(
    "algorithm",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in RUNS_LIKE_ANOTHER)) for name in ALGORITHMS],
)
def test_heeds_the_cost_if_it_should(algorithm):
    """Cost of the last episodes of 40 updates under a limit of 2."""
    config = agents.preset(
        "cpu",
        algorithm=algorithm,
        num_envs=32,
        num_steps=10,
        num_epochs=2,
        num_minibatches=2,
        hidden_sizes=(4,),
        cost_limits=(2.0,),
        target_kl=0.05,
        lr=0.02,
        critic_lr=0.02,
        multiplier_init=2.0,
        unsafe_reward=-1.0,  # what keeping the limit pays here
        updates_per_chunk=40,
    )
    validate(config)
    breaks_off = ALGORITHMS[algorithm].wrapper is EarlyTerminated
    trainer = Trainer(Conflict(living=1.0 if breaks_off else 0.0), config)

    def train(keys, hypers):
        return trainer.chunk(jax.vmap(trainer.init)(keys, hypers), hypers, jnp.int32(40))[1]

    metrics = {name: np.asarray(values)[:, 0] for name, values in on_one_device(train)(*make_fleet(config)).items()}
    for name, values in metrics.items():
        assert np.isfinite(values).all(), name
    cost = np.sum(metrics["episode_cost"][-5:]) / np.sum(metrics["episodes"][-5:])
    if algorithm in ("ppo", "trpo"):
        assert cost > 7.0
    elif breaks_off:  # no episode can cost more than the limit: here they must learn to last
        lasted = config.batch_size / metrics["episodes"]
        assert lasted[:2].max() < 6.0
        assert lasted[-5:].min() > 8.0
    else:
        assert cost < 3.0


def test_evaluation_shows_saute_its_budget_and_counts_the_true_reward():
    """A policy that acts +1 while budget is left and -1 after: of a limit of 2 it spends 3, as costs are seen late."""
    config = agents.preset("cpu", algorithm="ppo_saute", cost_limits=(2.0,), unsafe_reward=-100.0)
    layers = ((jnp.array([[[0.0], [100.0]]]), jnp.array([[1.0]])),)  # sees (1, z) and takes 1 + 100 z
    policy = Policy(layers, jnp.zeros((1, 1)), obs_mean=jnp.zeros((1, 2)), obs_std=jnp.ones((1, 2)))
    (modes,), states = evaluation.run_episodes(
        Conflict(), policy, jax.random.key(0), 2, ("deterministic",), frames=5, config=config
    )
    np.testing.assert_array_equal(states.obs[:, 1], [0.5, 0.0, -0.5, -0.5, -0.5])
    np.testing.assert_array_equal(modes["deterministic"]["cost"], [3.0, 3.0])
    np.testing.assert_array_equal(modes["deterministic"]["return"], [3.0 - 7.0] * 2)
