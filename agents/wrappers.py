"""Environments that keep the limit by themselves, for algorithms that know nothing of it.

A wrapper has what `mjx_safety.AutoReset` asks of an environment, and its rewards and costs stay the true ones. It
counts the cost of the episode so far in `State.costs` under SPENT.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from agents.loop import Hyper

SPENT = "cost_so_far"


class Wrapper:
    """An environment whose episodes have a budget of cost; the base of the others.

    Args:
        env: a single environment.
        cost_limit: cost that an episode may have; a number, or float32 [] where agents differ in it.
    """

    needed_by_policy = False
    """Whether a policy trained in it also needs it to act, as evaluation must know."""

    def __init__(self, env: Any, cost_limit: jax.Array | float):
        self.env, self.cost_limit, self.task = env, cost_limit, env.task
        self.observation_size, self.action_size = env.observation_size, env.action_size
        self.observation_slices = getattr(env, "observation_slices", {})

    def reset(self, key: jax.Array) -> Any:
        """A new episode, nothing spent."""
        return self._extend(self.env.reset(key), jnp.float32(0.0))

    def step(self, state: Any, action: jax.Array) -> Any:
        """One step."""
        spent = jnp.where(state.steps == 0, 0.0, state.costs[SPENT])  # AutoReset leaves the last episode's costs
        after = self.env.step(state, action)
        return self._extend(after, spent + after.cost)

    def learned_reward(self, reward: jax.Array, final_obs: jax.Array, hyper: "Hyper") -> jax.Array:
        """The reward [...] to learn from, given the true one and the observations [..., obs] that steps led to."""
        return reward

    def _extend(self, state: Any, spent: jax.Array) -> Any:
        return state.replace(costs=state.costs | {SPENT: spent})


class Saute(Wrapper):
    """Saute (Sootla et al. 2022): the agent sees what is left of the budget, and earns nothing good once it is gone.

    The observation ends in z = 1 - (cost so far) / limit, the paper's safety state without discounting, and the agent
    learns from r where z >= 0, else from `Config.unsafe_reward`: the lower, the more episodes keep the limit, and the
    less return there is.
    """

    needed_by_policy = True

    def __init__(self, env: Any, cost_limit: jax.Array | float):
        super().__init__(env, cost_limit)
        self.observation_size = env.observation_size + 1

    def reset(self, key: jax.Array) -> Any:
        """A new episode, nothing spent."""
        # Without the limit: `AutoReset` resets under `sparse.cond`, which nothing may enter in which agents differ.
        return self._show(super().reset(key), jnp.float32(1.0))

    def step(self, state: Any, action: jax.Array) -> Any:
        """One step."""
        after = super().step(state, action)
        return self._show(after, 1.0 - after.costs[SPENT] / self.cost_limit)

    def learned_reward(self, reward: jax.Array, final_obs: jax.Array, hyper: "Hyper") -> jax.Array:
        """See the class."""
        return jnp.where(final_obs[..., -1] >= 0.0, reward, hyper.unsafe_reward)

    def _show(self, state: Any, left: jax.Array) -> Any:
        return state.replace(obs=jnp.append(state.obs, left))


class EarlyTerminated(Wrapper):
    """Early-terminated MDP (Sun et al. 2021): the cost that spends the limit ends the episode."""

    def step(self, state: Any, action: jax.Array) -> Any:
        """One step."""
        after = super().step(state, action)
        over = (after.cost > 0.0) & (after.costs[SPENT] >= self.cost_limit)
        return after.replace(terminated=after.terminated | over)
