"""The training loop that all algorithms share, compiled as a whole.

One update is: act for `num_steps` in `num_envs` environments, estimate advantages of reward and cost, measure how the
constraint stands and move the multiplier, then learn: minibatch gradient steps on the policy and both critics, or one
step of the policy on the whole batch and minibatches for the critics alone. What an algorithm does differently is its
row of `agents.algorithms.ALGORITHMS`. Read `Trainer.update` first.

Everything here runs inside the mesh axis `agents.reduce.AXIS` (see `agents.mesh`). An agent's environments come in
`config.num_groups` groups, and a device holds whole groups. Random numbers belong to a group, not to a device, and
every minibatch takes the same share of every group: results do not depend on the number of devices, up to rounding.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents import networks, normalizer, reduce
from agents.algorithms import ALGORITHMS
from agents.algorithms.base import Algorithm, Constraint, Samples
from agents.config import Config
from agents.gae import gae
from mjx_safety import AutoReset, sparse

if TYPE_CHECKING:
    from mjx_safety import Env

Metrics = dict[str, jax.Array]

CUT_OFF = 256  # about one step in a thousand is an episode's last; where more are, they take another round

METRICS = (
    *("episodes", "episode_return", "episode_cost", "episode_goals"),  # number and totals of the finished episodes
    *("reward_mean", "cost_mean", "goal_mean", "cost_rate", "return_estimate", "cost_estimate", "multiplier"),
    *("kl", "clip_fraction", "entropy", "policy_loss", "value_loss", "cost_value_loss", "policy_steps"),
    *("explained_variance", "cost_explained_variance"),
)


@struct.dataclass
class Hyper:
    """Continuous settings as float32 [] leaves, so that a fleet of agents can differ in them; see `Config`."""

    cost_limit: jax.Array
    lr: jax.Array
    critic_lr: jax.Array
    max_grad_norm: jax.Array
    clip_eps: jax.Array
    gamma: jax.Array
    gae_lambda: jax.Array
    target_kl: jax.Array
    entropy_coef: jax.Array
    multiplier_init: jax.Array
    pid_kp: jax.Array
    pid_ki: jax.Array
    pid_kd: jax.Array
    pid_ema: jax.Array
    dual_lr: jax.Array
    cpo_margin_lr: jax.Array
    focops_temperature: jax.Array
    crpo_tolerance: jax.Array
    p3o_kappa: jax.Array
    unsafe_reward: jax.Array

    @classmethod
    def from_config(cls, config: Config, agent: Mapping[str, float]) -> "Hyper":
        """The settings of one agent: its own, such as "cost_limit", and the run's where it has none."""
        names = [field.name for field in dataclasses.fields(cls)]
        values = {name: agent[name] if name in agent else getattr(config, name) for name in names}
        return cls(**{name: jnp.float32(math.inf if value is None else value) for name, value in values.items()})


@struct.dataclass
class TrainState:
    """Everything a run needs to continue.

    Attributes:
        params: networks "policy", "value" and "cost_value".
        opt_state: Adam's state under the same names; none for a policy that takes trust region steps.
        normalizer: running observation statistics.
        multiplier: state of the multiplier's law.
        env: the environments, [groups, envs_per_group, ...] leaves.
        cost_rate: float32 []; mean cost per environment step since the start (Ray et al. 2019, section 4.3).
        num_updates: int32 []; updates done.
        key: typed random key.
    """

    params: dict
    opt_state: dict
    normalizer: normalizer.Normalizer
    multiplier: Any
    env: Any
    cost_rate: jax.Array
    num_updates: jax.Array
    key: jax.Array


class Rollout(NamedTuple):
    """What acting yields, [num_steps, groups, envs_per_group, ...]."""

    obs: jax.Array
    final_obs: jax.Array
    mean: jax.Array
    action: jax.Array
    reward: jax.Array
    cost: jax.Array
    goal_met: jax.Array
    terminated: jax.Array
    truncated: jax.Array
    finished: jax.Array  # ended here after a full episode
    episode: tuple[jax.Array, jax.Array, jax.Array]  # return, cost and goals of the episode so far


class Batch(NamedTuple):
    """What learning needs, [blocks, groups, samples, ...]; minibatches are made of whole blocks."""

    obs: jax.Array
    action: jax.Array
    mean: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    cost_advantage: jax.Array
    target: jax.Array
    cost_target: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """The loop with one algorithm on one kind of environment.

    Attributes:
        env: a single environment.
        config: static sizes and counts, and the algorithm's name; continuous settings come in through `Hyper`.
    """

    env: "Env"
    config: Config

    def init(self, key: jax.Array, hyper: Hyper) -> TrainState:
        """A fresh agent, its environments spread over the phases of their first episode."""
        key, net_key, env_key = jax.random.split(key, 3)
        groups, venv = self._groups(), self._venv(hyper)
        env = venv.env
        params = networks.init_params(net_key, env.observation_size, env.action_size, self.config.hidden_sizes)

        def begin(group: jax.Array) -> Any:
            return venv.reset(jax.random.fold_in(env_key, group), stagger=True)

        return TrainState(
            params=params,
            opt_state={name: _adam.init(net) for name, net in params.items() if name in self._descended},
            normalizer=normalizer.init(env.observation_size),
            multiplier=self.config.law.init(hyper),
            env=_batched(begin, len(groups))(groups),
            cost_rate=jnp.float32(0.0),
            num_updates=jnp.int32(0),
            key=key,
        )

    def update(self, state: TrainState, hyper: Hyper) -> tuple[TrainState, Metrics]:
        """One update of one agent; metrics are float32 [] under the names in METRICS."""
        key, act_key, learn_key = jax.random.split(state.key, 3)
        env, rollout = self._act(state, hyper, act_key)
        batch, explained = self._estimate(state, rollout, hyper)
        cost, multiplier, constraint = self._measure(state, rollout, hyper)
        params, opt_state, losses = self._learn(state, batch, constraint, hyper, learn_key)

        num_updates = state.num_updates + 1
        state = TrainState(
            params=params,
            opt_state=opt_state,
            normalizer=self._see(state.normalizer, rollout.obs),
            multiplier=multiplier,
            env=env,
            cost_rate=state.cost_rate + (cost - state.cost_rate) / num_updates.astype(jnp.float32),
            num_updates=num_updates,
            key=key,
        )
        reward = reduce.mean(rollout.reward)
        episodes = [jnp.where(rollout.finished, total.astype(jnp.float32), 0.0) for total in rollout.episode]
        metrics = {
            "episodes": reduce.total(rollout.finished),
            **dict(zip(("episode_return", "episode_cost", "episode_goals"), map(reduce.total, episodes), strict=True)),
            "reward_mean": reward,
            "cost_mean": cost,
            "goal_mean": reduce.mean(rollout.goal_met.astype(jnp.float32)),
            "cost_rate": state.cost_rate,
            "return_estimate": constraint.horizon * reward,
            "cost_estimate": constraint.horizon * cost,
            "multiplier": constraint.multiplier,
            **explained,
            **losses,
        }
        return state, {name: metrics[name] for name in METRICS}

    def chunk(self, states: TrainState, hypers: Hyper, num_updates: jax.Array) -> tuple[TrainState, Metrics]:
        """Several updates of a fleet of agents: jit it and donate `states`.

        The trip count is an argument, not a shape: one compiled program serves the last, shorter chunk too, and the
        numbers do not depend on where a run is cut.

        Args:
            states: leaves [agents, ...].
            hypers: leaves [agents].
            num_updates: int32 []; at most `config.updates_per_chunk`.

        Returns:
            The states and metrics of float32 [updates_per_chunk, agents], rows past `num_updates` zero.
        """
        num_agents = len(hypers.lr)
        update = _batched(self.update, num_agents)

        def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            states, log = carry
            states, metrics = update(states, hypers)
            return states, {name: log[name].at[i].set(metrics[name]) for name in METRICS}

        zeros = jnp.zeros((self.config.updates_per_chunk, num_agents), jnp.float32)
        return jax.lax.fori_loop(0, num_updates, body, (states, dict.fromkeys(METRICS, zeros)))

    def _act(self, state: TrainState, hyper: Hyper, key: jax.Array) -> tuple[Any, Rollout]:
        """Step the environments under the current policy."""
        policy, stats, episode_steps = state.params["policy"], state.normalizer, self.env.task.num_steps
        venv = self._venv(hyper)
        shape = self.config.num_steps, venv.num_envs, self.env.action_size

        def step(env: Any, noise: jax.Array) -> tuple[Any, Rollout]:
            mean = networks.mlp(policy["mean"], normalizer.normalize(env.obs, stats.mean, stats.std))
            action = mean + jnp.exp(policy["log_std"]) * noise
            after = venv.step(env, action)
            # A staggered first episode began half-way through: its clock runs out early and its totals are partial.
            finished = after.terminated | (after.truncated & (after.episode_length == episode_steps))
            return after, Rollout(
                obs=env.obs,
                final_obs=after.final_obs,
                mean=mean,
                action=action,
                reward=after.reward,
                cost=after.cost,
                goal_met=after.goal_met,
                terminated=after.terminated,
                truncated=after.truncated,
                finished=finished,
                episode=(after.episode_return, after.episode_cost, after.episode_goals),
            )

        def act(group: jax.Array, env: Any) -> tuple[Any, Rollout]:
            noise = jax.random.normal(jax.random.fold_in(key, group), shape, jnp.float32)
            return jax.lax.scan(step, env, noise)

        groups = self._groups()
        return _batched(act, len(groups), out_axes=(0, 1))(groups, state.env)

    def _estimate(self, state: TrainState, rollout: Rollout, hyper: Hyper) -> tuple[Batch, Metrics]:
        """Advantages and targets, all under the parameters and statistics that acted."""
        stats = state.normalizer

        def judge(raw: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
            obs = normalizer.normalize(raw, stats.mean, stats.std)
            return obs, {name: networks.mlp(state.params[name], obs)[..., 0] for name in ("value", "cost_value")}

        steps = max(1, self.config.num_steps // self._num_parts)
        obs, values = jax.lax.map(judge, rollout.obs, batch_size=steps)
        next_values = self._next_values(lambda raw: judge(raw)[1], values, rollout)
        ends = rollout.terminated, rollout.truncated

        def advantages(name: str, signal: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            advantage = gae(signal, values[name], next_values[name], *ends, hyper.gamma, hyper.gae_lambda)
            target = advantage + values[name]
            mean, variance = reduce.moments(advantage)
            explained = 1.0 - variance / (reduce.moments(target)[1] + 1e-8)
            return advantage - mean, jnp.sqrt(variance), target, explained

        reward = rollout.reward
        if wrapper := self._algorithm.wrapper:
            reward = wrapper(self.env, hyper.cost_limit).learned_reward(reward, rollout.final_obs, hyper)
        advantage, spread, target, explained = advantages("value", reward)
        # Costs are centred only: dividing by their spread would turn the noise of a nearly safe policy into a signal,
        # and the multiplier would no longer be a price per unit of cost.
        cost_advantage, _, cost_target, cost_explained = advantages("cost_value", rollout.cost)
        batch = Batch(
            obs=obs,
            action=rollout.action,
            mean=rollout.mean,
            log_prob=networks.log_prob(rollout.mean, state.params["policy"]["log_std"], rollout.action),
            advantage=advantage / (spread + 1e-8),
            cost_advantage=cost_advantage,
            target=target,
            cost_target=cost_target,
        )
        # Shuffling single samples would take a sixth of an update on a CPU. Blocks are one step of many environments,
        # which are independent of each other; the smallest number of blocks that the minibatches can share.
        num_blocks = math.lcm(self.config.num_steps, self.config.num_minibatches)

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(num_blocks, -1, *x.shape[2:])

        blocks = jax.tree.map(_batched(split, rollout.reward.shape[1], in_axes=1, out_axes=1), batch)
        return blocks, {"explained_variance": explained, "cost_explained_variance": cost_explained}

    def _next_values(self, judge: Callable, values: dict[str, jax.Array], rollout: Rollout) -> dict[str, jax.Array]:
        """Values of `rollout.final_obs`: those of the next step, but where an episode was cut off, and in the end."""
        last = judge(rollout.final_obs[-1])
        shifted = {name: jnp.concatenate([values[name][1:], last[name][None]]).ravel() for name in values}
        cut = rollout.truncated
        obs = rollout.final_obs.reshape(cut.size, -1)
        found = sparse.batch_cond(cut.ravel(), judge, (obs,), shifted, fraction=CUT_OFF)
        return {name: x.reshape(cut.shape) for name, x in found.items()}

    def _measure(self, state: TrainState, rollout: Rollout, hyper: Hyper) -> tuple[jax.Array, Any, Constraint]:
        """Mean cost of a step, the multiplier's next state, and what the algorithm is told of both.

        The environments are spread over the phases of their episodes: the mean cost of this batch, times the length of
        an episode, is the current policy's episode cost without any lag. Not so where `wrappers.EarlyTerminated` breaks
        off the costly ones; its algorithms use neither the violation nor a multiplier.
        """
        cost, horizon = reduce.mean(rollout.cost), self._length(rollout)
        multiplier = self.config.law.update(state.multiplier, horizon * cost, self.config.batch_size, hyper)
        return cost, multiplier, Constraint(horizon * cost - hyper.cost_limit, multiplier.multiplier, horizon)

    def _length(self, rollout: Rollout) -> jax.Array | int:
        """Steps that an episode lasts: all of them, unless it terminates at its goal (`Task.continue_goal`).

        Then one over the share of steps that were an episode's last in this batch, and no more than all of them.
        """
        most = self.env.task.num_steps
        if getattr(self.env.task, "continue_goal", True):
            return most
        last = reduce.mean((rollout.terminated | rollout.truncated).astype(jnp.float32))
        return 1.0 / jnp.maximum(last, 1.0 / most)

    def _learn(
        self, state: TrainState, batch: Batch, constraint: Constraint, hyper: Hyper, key: jax.Array
    ) -> tuple[dict, dict, Metrics]:
        """The policy's step on the whole batch, if the algorithm has one, then minibatch gradient steps on the rest."""
        config, algorithm, params = self.config, self._algorithm, state.params
        policy_metrics = {}
        if algorithm.step:
            lead = self._num_parts, -1, math.prod(batch.target.shape[1:])
            parts = jax.tree.map(lambda x: x.reshape(*lead, *x.shape[3:]), batch)
            policy, policy_metrics = algorithm.step(params["policy"], parts, constraint, hyper)
            params = params | {"policy": policy}
        old_log_std = state.params["policy"]["log_std"]

        def policy_loss(policy: dict, batch: Batch) -> tuple[jax.Array, Metrics]:
            mean, log_std = networks.mlp(policy["mean"], batch.obs), policy["log_std"]
            ratio = jnp.exp(networks.log_prob(mean, log_std, batch.action) - batch.log_prob)
            kl = networks.kl_divergence(mean, log_std, batch.mean, old_log_std)
            assert algorithm.objective
            loss = algorithm.objective(Samples(ratio, kl, batch.advantage, batch.cost_advantage), constraint, hyper)
            entropy = networks.entropy(log_std)
            return loss - hyper.entropy_coef * entropy, {
                "policy_loss": loss,
                "kl": jnp.mean(kl),
                "clip_fraction": jnp.mean((jnp.abs(ratio - 1.0) > hyper.clip_eps).astype(jnp.float32)),
                "entropy": entropy,
            }

        def value_loss(layers: networks.Layers, batch: Batch, target: jax.Array) -> jax.Array:
            return 0.5 * jnp.mean(jnp.square(networks.mlp(layers, batch.obs)[..., 0] - target))

        def loss(params: dict, batch: Batch) -> tuple[jax.Array, Metrics]:
            losses = {
                "value_loss": value_loss(params["value"], batch, batch.target),
                "cost_value_loss": value_loss(params["cost_value"], batch, batch.cost_target),
            }
            total = losses["value_loss"] + losses["cost_value_loss"]
            if "policy" not in params:
                return total, losses
            loss, metrics = policy_loss(params["policy"], batch)
            return total + loss, losses | metrics

        def minibatch(carry: tuple[dict, dict, jax.Array], batch: Batch) -> tuple[tuple, Metrics]:
            params, opt_state, active = carry
            grads, metrics = reduce.average(jax.grad(loss, has_aux=True)(params, batch))
            stepped = {}
            for name, grad in grads.items():
                lr = hyper.lr if name == "policy" else hyper.critic_lr
                stepped[name] = _descend(params[name], opt_state[name], grad, lr, hyper)
            if "policy" in params:
                # A mask instead of a break: the policy freezes once it has moved target_kl away.
                active &= metrics["kl"] <= hyper.target_kl
                frozen = params["policy"], opt_state["policy"]
                stepped["policy"] = jax.tree.map(lambda a, b: jnp.where(active, a, b), stepped["policy"], frozen)
                metrics |= {"policy_steps": active.astype(jnp.float32)}
            params = {name: net for name, (net, _) in stepped.items()}
            opt_state = {name: opt for name, (_, opt) in stepped.items()}
            return (params, opt_state, active), metrics

        groups = self._groups()

        def epoch(carry: tuple[dict, dict, jax.Array], key: jax.Array) -> tuple[tuple, Metrics]:
            def shuffle(group: jax.Array, batch: Batch) -> Batch:
                order = jax.random.permutation(jax.random.fold_in(key, group), len(batch.obs))
                return jax.tree.map(lambda x: x[order], batch)

            shuffled = _batched(shuffle, len(groups), in_axes=(0, 1), out_axes=1)(groups, batch)
            minibatches = jax.tree.map(lambda x: x.reshape(config.num_minibatches, -1, *x.shape[3:]), shuffled)
            return jax.lax.scan(minibatch, carry, minibatches)

        descended = {name: params[name] for name in self._descended}
        carry = descended, state.opt_state, jnp.bool_(True)
        (descended, opt_state, _), metrics = jax.lax.scan(epoch, carry, jax.random.split(key, config.num_epochs))
        losses = {name: jnp.mean(values) for name, values in metrics.items()}
        if "policy" in descended:
            losses |= {"kl": metrics["kl"][-1, -1], "entropy": metrics["entropy"][-1, -1]}
            losses["policy_steps"] = jnp.sum(metrics["policy_steps"])  # gradient steps the policy took
        return params | descended, opt_state, losses | policy_metrics

    def _see(self, stats: normalizer.Normalizer, obs: jax.Array) -> normalizer.Normalizer:
        if not self.config.normalize_obs:
            return stats
        axes = tuple(range(obs.ndim - 1))
        return normalizer.merge(stats, jnp.float32(self.config.batch_size), *reduce.moments(obs, axes))

    def _groups(self) -> jax.Array:
        """Which of the agent's groups of environments this device holds, int32 [groups]."""
        here = self.config.num_groups // jax.lax.axis_size(reduce.AXIS)
        return jax.lax.axis_index(reduce.AXIS) * here + jnp.arange(here, dtype=jnp.int32)

    def _venv(self, hyper: Hyper) -> AutoReset:
        """One group of environments, as the algorithm wants them."""
        wrapper = self._algorithm.wrapper
        env: Any = wrapper(self.env, hyper.cost_limit) if wrapper else self.env
        return AutoReset(env, self.config.num_envs // self.config.num_groups)

    @property
    def _num_parts(self) -> int:
        """Parts in which a whole batch is worked on: as large as a minibatch, they stay in a CPU's cache."""
        return self.config.num_minibatches if jax.default_backend() == "cpu" else 1

    @property
    def _algorithm(self) -> Algorithm:
        return ALGORITHMS[self.config.algorithm]

    @property
    def _descended(self) -> tuple[str, ...]:
        """The networks that minibatch gradients move."""
        return (*(("policy",) if self._algorithm.objective else ()), "value", "cost_value")


def make_fleet(config: Config) -> tuple[jax.Array, Hyper]:
    """Keys [agents] and settings [agents] of the fleet, in the order of `config.agents`."""
    keys = jnp.stack([jax.random.key(int(agent["seed"])) for agent in config.agents])
    hypers = [Hyper.from_config(config, agent) for agent in config.agents]
    return keys, jax.tree.map(lambda *leaves: jnp.stack(leaves), *hypers)


_adam = optax.scale_by_adam(eps=1e-5)


def _descend(params: Any, opt_state: Any, grad: Any, lr: jax.Array, hyper: Hyper) -> tuple[Any, Any]:
    """One step of Adam on one network, its gradient clipped to `max_grad_norm`."""
    scale = jnp.minimum(1.0, hyper.max_grad_norm / optax.tree.norm(grad))
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer step counts
        direction, opt_state = _adam.update(jax.tree.map(lambda g: scale * g, grad), opt_state)
    return jax.tree.map(lambda p, d: p - lr * d, params, direction), opt_state


def _batched(function: Callable, size: int, in_axes: Any = 0, out_axes: Any = 0) -> Callable:
    """`jax.vmap` over axes of length `size`, without the cost of batched operations where that is one."""
    if size > 1:
        return jax.vmap(function, in_axes, out_axes)

    def take(axis: int, tree: Any) -> Any:
        return jax.tree.map(lambda x: x[(slice(None),) * axis + (0,)], tree)

    def put(axis: int, tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.expand_dims(x, axis), tree)

    def single(*args: Any) -> Any:
        axes = (in_axes,) * len(args) if isinstance(in_axes, int) else in_axes
        out = function(*map(take, axes, args))
        return put(out_axes, out) if isinstance(out_axes, int) else tuple(map(put, out_axes, out))

    return single
