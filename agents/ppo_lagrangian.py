"""PPO with a Lagrange multiplier on episode cost (Ray, Achiam and Amodei 2019), compiled as a whole.

One update is: act for `num_steps` in `num_envs` environments, estimate advantages of reward and cost, move the
multiplier, then take minibatch gradient steps on the policy and both critics. `chunk` runs many updates of many
agents in one call. Read `update` first.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from agents import lagrange, networks, normalizer
from agents.config import Config
from agents.gae import gae

if TYPE_CHECKING:
    from mjx_safety import AutoReset

Metrics = dict[str, jax.Array]

METRICS = (
    *("episodes", "episode_return", "episode_cost", "episode_goals"),  # number and totals of the finished episodes
    *("reward_mean", "cost_mean", "goal_mean", "cost_rate", "return_estimate", "cost_estimate", "multiplier"),
    *("kl", "clip_fraction", "entropy", "policy_loss", "value_loss", "cost_value_loss", "stop_index"),
    *("explained_variance", "cost_explained_variance"),
)


@struct.dataclass
class Hyper:
    """Continuous settings as float32 [] leaves, so that a fleet of agents can differ in them; see `Config`."""

    cost_limit: jax.Array
    lr: jax.Array
    critic_lr: jax.Array
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

    @classmethod
    def from_config(cls, config: Config, agent: Mapping[str, float]) -> "Hyper":
        """The settings of one agent: its own, such as "cost_limit", and the run's where it has none."""
        names = (field.name for field in dataclasses.fields(cls))
        return cls(**{name: jnp.float32(agent[name] if name in agent else getattr(config, name)) for name in names})


@struct.dataclass
class TrainState:
    """Everything a run needs to continue.

    Attributes:
        params: networks "policy", "value" and "cost_value".
        opt_state: Adam's state under the same names.
        normalizer: running observation statistics.
        multiplier: state of the multiplier's law.
        env: the environments, [num_envs, ...] leaves.
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
    """What acting yields, [num_steps, num_envs, ...]."""

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
    """What learning needs, [blocks, samples, ...]; minibatches are made of whole blocks."""

    obs: jax.Array
    action: jax.Array
    mean: jax.Array
    log_prob: jax.Array
    advantage: jax.Array
    cost_advantage: jax.Array
    target: jax.Array
    cost_target: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class PPOLagrangian:
    """The algorithm on one kind of environment.

    Attributes:
        venv: auto-resetting environments of width `config.num_envs`.
        config: static sizes and counts; continuous settings come in through `Hyper`.
    """

    venv: "AutoReset"
    config: Config

    def init(self, key: jax.Array, hyper: Hyper) -> TrainState:
        """A fresh agent, its environments spread over the phases of their first episode."""
        key, net_key, env_key = jax.random.split(key, 3)
        env = self.venv.env
        params = networks.init_params(net_key, env.observation_size, env.action_size, self.config.hidden_sizes)
        return TrainState(
            params=params,
            opt_state={name: self._optimizer.init(net) for name, net in params.items()},
            normalizer=normalizer.init(env.observation_size),
            multiplier=self._law[0](hyper),
            env=self.venv.reset(env_key, stagger=True),
            cost_rate=jnp.float32(0.0),
            num_updates=jnp.int32(0),
            key=key,
        )

    def update(self, state: TrainState, hyper: Hyper) -> tuple[TrainState, Metrics]:
        """One update of one agent; metrics are float32 [] under the names in METRICS."""
        key, act_key, learn_key = jax.random.split(state.key, 3)
        env, rollout = self._act(state, act_key)

        # Episodes last num_steps whatever happens in them, and the environments are spread over their phases: the
        # mean cost of this batch, times that length, is the current policy's episode cost without any lag.
        episode_cost = self.venv.env.task.num_steps * jnp.mean(rollout.cost)
        multiplier = self._law[1](state.multiplier, episode_cost, self.config.batch_size, hyper)

        batch, explained = self._evaluate(state, rollout, hyper)
        params, opt_state, losses = self._learn(state, batch, multiplier.multiplier, hyper, learn_key)

        num_updates = state.num_updates + 1
        cost_rate = state.cost_rate + (jnp.mean(rollout.cost) - state.cost_rate) / num_updates.astype(jnp.float32)
        state = TrainState(
            params=params,
            opt_state=opt_state,
            normalizer=(
                normalizer.update(state.normalizer, rollout.obs) if self.config.normalize_obs else state.normalizer
            ),
            multiplier=multiplier,
            env=env,
            cost_rate=cost_rate,
            num_updates=num_updates,
            key=key,
        )
        episode_return, episode_cost_total, episode_goals = (
            jnp.sum(jnp.where(rollout.finished, total, jnp.zeros_like(total))).astype(jnp.float32)
            for total in rollout.episode
        )
        metrics = {
            "episodes": jnp.sum(rollout.finished).astype(jnp.float32),
            "episode_return": episode_return,
            "episode_cost": episode_cost_total,
            "episode_goals": episode_goals,
            "reward_mean": jnp.mean(rollout.reward),
            "cost_mean": jnp.mean(rollout.cost),
            "goal_mean": jnp.mean(rollout.goal_met.astype(jnp.float32)),
            "cost_rate": cost_rate,
            "return_estimate": self.venv.env.task.num_steps * jnp.mean(rollout.reward),
            "cost_estimate": episode_cost,
            "multiplier": multiplier.multiplier,
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
        update = jax.vmap(self.update) if num_agents > 1 else _without_agent_axis(self.update)

        def body(i: jax.Array, carry: tuple[TrainState, Metrics]) -> tuple[TrainState, Metrics]:
            states, log = carry
            states, metrics = update(states, hypers)
            return states, {name: log[name].at[i].set(metrics[name]) for name in METRICS}

        zeros = jnp.zeros((self.config.updates_per_chunk, num_agents), jnp.float32)
        return jax.lax.fori_loop(0, num_updates, body, (states, dict.fromkeys(METRICS, zeros)))

    def _act(self, state: TrainState, key: jax.Array) -> tuple[Any, Rollout]:
        """Step the environments under the current policy."""
        policy, stats, episode_steps = state.params["policy"], state.normalizer, self.venv.env.task.num_steps
        noise = jax.random.normal(
            key, (self.config.num_steps, self.config.num_envs, self.venv.env.action_size), jnp.float32
        )

        def step(env: Any, noise: jax.Array) -> tuple[Any, Rollout]:
            mean = networks.mlp(policy["mean"], normalizer.normalize(env.obs, stats.mean, stats.std))
            action = mean + jnp.exp(policy["log_std"]) * noise
            after = self.venv.step(env, action)
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

        return jax.lax.scan(step, state.env, noise)

    def _evaluate(self, state: TrainState, rollout: Rollout, hyper: Hyper) -> tuple[Batch, Metrics]:
        """Advantages and targets, all under the parameters and statistics that acted."""
        stats = state.normalizer
        obs = normalizer.normalize(rollout.obs, stats.mean, stats.std)
        final_obs = normalizer.normalize(rollout.final_obs, stats.mean, stats.std)

        def advantages(name: str, signal: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            values, next_values = (networks.mlp(state.params[name], x)[..., 0] for x in (obs, final_obs))
            ends = rollout.terminated, rollout.truncated
            advantage = gae(signal, values, next_values, *ends, hyper.gamma, hyper.gae_lambda)
            target = advantage + values
            return advantage, target, 1.0 - jnp.var(advantage) / (jnp.var(target) + 1e-8)

        advantage, target, explained = advantages("value", rollout.reward)
        cost_advantage, cost_target, cost_explained = advantages("cost_value", rollout.cost)
        batch = Batch(
            obs=obs,
            action=rollout.action,
            mean=rollout.mean,
            log_prob=networks.log_prob(rollout.mean, state.params["policy"]["log_std"], rollout.action),
            advantage=(advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8),
            # Centred only: dividing by its spread would turn the noise of a nearly safe policy into a signal, and
            # the multiplier would no longer be a price per unit of cost.
            cost_advantage=cost_advantage - jnp.mean(cost_advantage),
            target=target,
            cost_target=cost_target,
        )
        # Shuffling single samples would take a sixth of an update on a CPU. Blocks are one step of many environments,
        # which are independent of each other; the smallest number of blocks that the minibatches can share.
        config = self.config
        num_blocks = math.lcm(config.num_steps, config.num_minibatches)
        blocks = jax.tree.map(lambda x: x.reshape(num_blocks, -1, *x.shape[2:]), batch)
        return blocks, {"explained_variance": explained, "cost_explained_variance": cost_explained}

    def _learn(
        self, state: TrainState, batch: Batch, multiplier: jax.Array, hyper: Hyper, key: jax.Array
    ) -> tuple[dict, dict, Metrics]:
        """Minibatch gradient steps; the policy freezes once it has moved target_kl away."""
        config = self.config
        old_log_std = state.params["policy"]["log_std"]

        def loss(params: dict, batch: Batch) -> tuple[jax.Array, Metrics]:
            mean, log_std = networks.mlp(params["policy"]["mean"], batch.obs), params["policy"]["log_std"]
            log_ratio = networks.log_prob(mean, log_std, batch.action) - batch.log_prob
            ratio = jnp.exp(log_ratio)
            clipped = jnp.clip(ratio, 1.0 - hyper.clip_eps, 1.0 + hyper.clip_eps)
            surrogate = jnp.mean(jnp.minimum(ratio * batch.advantage, clipped * batch.advantage))
            cost_surrogate = jnp.mean(ratio * batch.cost_advantage)
            entropy = networks.entropy(log_std)
            policy_loss = -(surrogate - multiplier * cost_surrogate) / (1.0 + multiplier)

            def value_loss(name: str, target: jax.Array) -> jax.Array:
                return 0.5 * jnp.mean(jnp.square(networks.mlp(params[name], batch.obs)[..., 0] - target))

            losses = {
                "policy_loss": policy_loss,
                "value_loss": value_loss("value", batch.target),
                "cost_value_loss": value_loss("cost_value", batch.cost_target),
            }
            total = sum(losses.values()) - hyper.entropy_coef * entropy
            return total, losses | {
                "kl": jnp.mean(networks.kl_divergence(mean, log_std, batch.mean, old_log_std)),
                "clip_fraction": jnp.mean((jnp.abs(ratio - 1.0) > hyper.clip_eps).astype(jnp.float32)),
                "entropy": entropy,
            }

        def minibatch(carry: tuple[dict, dict, jax.Array], batch: Batch) -> tuple[tuple, Metrics]:
            params, opt_state, active = carry
            grads, metrics = jax.grad(loss, has_aux=True)(params, batch)
            active &= metrics["kl"] <= hyper.target_kl
            stepped = {}
            for name, grad in grads.items():
                with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer step counts
                    direction, stepped_opt = self._optimizer.update(grad, opt_state[name])
                lr = hyper.lr if name == "policy" else hyper.critic_lr
                stepped[name] = jax.tree.map(lambda p, d, lr=lr: p - lr * d, params[name], direction), stepped_opt
            frozen = params["policy"], opt_state["policy"]
            stepped["policy"] = jax.tree.map(lambda new, old: jnp.where(active, new, old), stepped["policy"], frozen)
            params = {name: net for name, (net, _) in stepped.items()}
            opt_state = {name: opt for name, (_, opt) in stepped.items()}
            return (params, opt_state, active), metrics | {"stop_index": active.astype(jnp.float32)}

        def epoch(carry: tuple[dict, dict, jax.Array], key: jax.Array) -> tuple[tuple, Metrics]:
            order = jax.random.permutation(key, len(batch.obs))
            minibatches = jax.tree.map(lambda x: x[order].reshape(config.num_minibatches, -1, *x.shape[2:]), batch)
            return jax.lax.scan(minibatch, carry, minibatches)

        carry = state.params, state.opt_state, jnp.bool_(True)
        (params, opt_state, _), metrics = jax.lax.scan(epoch, carry, jax.random.split(key, config.num_epochs))
        losses = jax.tree.map(jnp.mean, metrics)
        losses |= {"kl": metrics["kl"][-1, -1], "entropy": metrics["entropy"][-1, -1]}
        losses["stop_index"] = jnp.sum(metrics["stop_index"])  # gradient steps the policy took
        return params, opt_state, losses

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        """Adam without its step size, which is a leaf of `Hyper`."""
        norm = self.config.max_grad_norm
        return optax.chain(
            optax.identity() if norm is None else optax.clip_by_global_norm(norm), optax.scale_by_adam(eps=1e-5)
        )

    @property
    def _law(self) -> tuple:
        return lagrange.LAWS[self.config.multiplier]


def make_fleet(config: Config) -> tuple[jax.Array, Hyper]:
    """Keys [agents] and settings [agents] of the fleet, in the order of `config.agents`."""
    keys = jnp.stack([jax.random.key(int(agent["seed"])) for agent in config.agents])
    hypers = [Hyper.from_config(config, agent) for agent in config.agents]
    return keys, jax.tree.map(lambda *leaves: jnp.stack(leaves), *hypers)


def _without_agent_axis(update):
    """vmap over an axis of length one, without the cost of batched operations."""

    def single(state: TrainState, hyper: Hyper) -> tuple[TrainState, Metrics]:
        state, hyper = jax.tree.map(lambda x: x[0], (state, hyper))
        return jax.tree.map(lambda x: x[None], update(state, hyper))

    return single
