"""Batches of environments that start a new episode in the step in which one ends."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from mjx_safety import checks, sparse
from mjx_safety.env import Env, State

HEADROOM = 8  # so many times as many episodes are handed out at once as end in a step of slots spread over their phases


@flax.struct.dataclass
class Bank:
    """Beginnings of episodes, drawn many at once because that is cheap, and handed out one by one.

    Attributes:
      starts: fields of `State` that an episode starts anew, leading axis [size].
      used: int32 [], how many of them are spent.
      key: for those to come.
    """

    starts: dict[str, Any]
    used: jax.Array
    key: jax.Array


@flax.struct.dataclass
class VecState(State):
    """States of a batch; every leaf but those of `bank` has a leading axis [num_envs].

    Where an episode ended, `reward`, `cost`, `costs`, `terminated`, `truncated` and `goal_met` are those of its last
    step, and everything else, `obs` among it, is the start of the next episode.

    Attributes:
      final_obs: float32 [num_envs, observation_size], what the step led to, before any reset.
      episode_return: float32 [num_envs], rewards of the episode so far, this step included; where the episode ended,
        its total.
      episode_cost: float32 [num_envs], the same of costs.
      episode_goals: int32 [num_envs], the same of goals reached.
      episode_length: int32 [num_envs], steps of the episode so far.
      bank: episodes to come.
    """

    final_obs: jax.Array
    episode_return: jax.Array
    episode_cost: jax.Array
    episode_goals: jax.Array
    episode_length: jax.Array
    bank: Bank

    def unbatched(self) -> State:
        """The environments' states alone, every leaf with the leading axis [num_envs]: index them to get one's."""
        return State(**{name: getattr(self, name) for name in State.__dataclass_fields__})

    @property
    def done(self) -> jax.Array:
        """Whether an episode ended in this step, bool [num_envs]."""
        return self.terminated | self.truncated


class AutoReset:
    """A batch of one environment, each slot with a fresh layout in every episode.

    New episodes come from a bank that is refilled when it is spent, because many layouts at once are cheap. One whose
    layout found no room in 10,000 attempts begins all the same; `Env.reset` tells, by `terminated`.

    Loops inside begin with constants, so `jax.shard_map` round `reset` and `step` needs `check_vma=False`.

    Args:
      env: the environment.
      num_envs: how many.

    Raises:
      TypeError: `env` is an id.
      ValueError: `num_envs` is not positive.
    """

    def __init__(self, env: Env, num_envs: int):
        if isinstance(env, str):
            raise TypeError(f"AutoReset got {env!r}; it takes an environment, such as mjx_safety.make({env!r}).")
        checks.whole("num_envs of AutoReset", num_envs, least=1)
        self.env, self.num_envs = env, num_envs
        self._bank_size = min(num_envs, max(64, num_envs // 8))
        self._at_once = min(self._bank_size, sparse.chunk(num_envs, max(1, env.task.num_steps // HEADROOM)))

    def reset(self, key: jax.Array, *, stagger: bool = False) -> VecState:
        """First states.

        Args:
          key: random key.
          stagger: start every slot at a random step of its first episode, which is shorter for it. Otherwise all slots
            end their episodes together, and every batch of experience is one slice of the episode.
        """
        layout_key, phase_key, bank_key = jax.random.split(key, 3)
        states = jax.vmap(self.env.reset)(jax.random.split(layout_key, self.num_envs))
        if stagger:
            steps = jax.random.randint(phase_key, (self.num_envs,), 0, self.env.task.num_steps)
            states = states.replace(steps=steps, obs=self._at_time(states.obs, steps))
        count = jnp.zeros(self.num_envs, jnp.int32)
        total = jnp.zeros(self.num_envs)
        fields = {name: getattr(states, name) for name in State.__dataclass_fields__}
        return VecState(
            **fields,
            final_obs=states.obs,
            episode_return=total,
            episode_cost=total,
            episode_goals=count,
            episode_length=count,
            bank=Bank(
                starts=jax.tree.map(lambda x: x[: self._bank_size], _beginning(states)),  # placeholders, all spent
                used=jnp.int32(self._bank_size),
                key=bank_key,
            ),
        )

    def _at_time(self, obs: jax.Array, steps: jax.Array) -> jax.Array:
        """First observations as if so many steps were taken already, where they tell of that."""
        seen = getattr(self.env, "observation_slices", {}).get("remaining")
        return obs if seen is None else obs.at[:, seen].set((steps / self.env.task.num_steps)[:, None])

    def step(self, states: VecState, actions: jax.Array) -> VecState:
        """Steps every slot.

        Args:
          states: from `reset` or `step`.
          actions: [num_envs, action_size].

        Raises:
          ValueError: the actions have the wrong shape.
        """
        if jnp.shape(actions) != (self.num_envs, self.env.action_size):
            raise ValueError(
                f"AutoReset.step got actions of shape {jnp.shape(actions)}; "
                f"it takes ({self.num_envs}, {self.env.action_size})."
            )
        ongoing = ~states.done
        bank = states.bank
        states = jax.vmap(self.env.step)(states.replace(bank=None), actions)
        states = states.replace(
            final_obs=states.obs,
            episode_return=jnp.where(ongoing, states.episode_return, 0.0) + states.reward,
            episode_cost=jnp.where(ongoing, states.episode_cost, 0.0) + states.cost,
            episode_goals=jnp.where(ongoing, states.episode_goals, 0) + states.goal_met.astype(jnp.int32),
            episode_length=jnp.where(ongoing, states.episode_length, 0) + 1,
        )
        begin, bank = self._begin(states.done, _beginning(states), bank)
        return states.replace(**begin, bank=bank)

    def _begin(self, done: jax.Array, begin: dict[str, Any], bank: Bank) -> tuple[dict[str, Any], Bank]:
        """Puts episodes from the bank where one ended; one round, unless many end together or the bank runs out."""

        def pending(carry):
            return carry[0].any()

        def hand_out(carry):
            waiting, begin, bank = carry
            empty = bank.used >= self._bank_size
            bank = sparse.cond(empty, self._refill, (bank.key,), otherwise=bank, fraction=1_000_000)
            slots, count = sparse.in_need(waiting, 0)
            slots = slots[: self._at_once]
            order = bank.used + jnp.arange(self._at_once, dtype=jnp.int32)
            slots = jnp.where(order < self._bank_size, slots, self.num_envs)  # out of range: dropped
            begin = jax.tree.map(lambda x, new: x.at[slots].set(new[order], mode="drop"), begin, bank.starts)
            left = waiting.at[slots].set(False, mode="drop")
            served = jnp.minimum(jnp.minimum(count, self._at_once), self._bank_size - bank.used)
            return left, begin, bank.replace(used=bank.used + served)

        _, begin, bank = jax.lax.while_loop(pending, hand_out, (done, begin, bank))
        return begin, bank

    def _refill(self, key: jax.Array) -> Bank:
        keys = jax.random.split(key, 1 + self._bank_size)
        starts = jax.vmap(self.env.reset)(keys[1:])
        return Bank(_beginning(starts), jnp.int32(0), keys[0])


_EPISODE = ("obs", "steps", "ctrl", "physics", "places", "target", "timer", "measured", "key")


def _beginning(state: State) -> dict[str, Any]:
    """The fields that an episode starts anew; the others tell of the step that led to it."""
    return {name: getattr(state, name) for name in _EPISODE}
