"""Batches of environments that start a new episode in the step in which one ends."""

import flax.struct
import jax
import jax.numpy as jnp

from mjx_safety import sparse
from mjx_safety.env import Env, State


@flax.struct.dataclass
class VecState(State):
    """States of a batch; every leaf has a leading axis [num_envs].

    Where an episode ended, `reward`, `cost`, `costs`, `terminated`, `truncated` and `goal_met` are those of its last
    step, and everything else, `obs` among it, is the start of the next episode.

    Attributes:
      final_obs: float32 [num_envs, observation_size], what the step led to, before any reset.
      episode_return: float32 [num_envs], rewards of the episode so far, this step included; where the episode ended,
        its total.
      episode_cost: float32 [num_envs], the same of costs.
      episode_goals: int32 [num_envs], the same of goals reached.
      episode_length: int32 [num_envs], steps of the episode so far.
    """

    final_obs: jax.Array
    episode_return: jax.Array
    episode_cost: jax.Array
    episode_goals: jax.Array
    episode_length: jax.Array

    @property
    def done(self) -> jax.Array:
        """Whether an episode ended in this step, bool [num_envs]."""
        return self.terminated | self.truncated


class AutoReset:
    """A batch of one environment, each slot with a fresh layout in every episode.

    Only the slots whose episode ended draw a layout, so that resetting costs next to nothing.

    Args:
      env: the environment.
      num_envs: how many.

    Raises:
      ValueError: `num_envs` is not positive.
    """

    def __init__(self, env: Env, num_envs: int):
        if num_envs < 1:
            raise ValueError(f"AutoReset got num_envs {num_envs}; it must be at least 1.")
        self.env, self.num_envs = env, num_envs

    def reset(self, key: jax.Array, *, stagger: bool = False) -> VecState:
        """First states.

        Args:
          key: random key.
          stagger: start every slot at a random step of its first episode, which is shorter for it. Otherwise all slots
            end their episodes together, and every batch of experience is one slice of the episode.
        """
        layout_key, phase_key = jax.random.split(key)
        states = jax.vmap(self.env.reset)(jax.random.split(layout_key, self.num_envs))
        if stagger:
            states = states.replace(steps=jax.random.randint(phase_key, (self.num_envs,), 0, self.env.task.num_steps))
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
        )

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
        return jax.vmap(self._step)(states, actions)

    def _step(self, state: VecState, action: jax.Array) -> VecState:
        ongoing = ~state.done
        state = self.env.step(state, action)
        state = state.replace(
            final_obs=state.obs,
            episode_return=jnp.where(ongoing, state.episode_return, 0.0) + state.reward,
            episode_cost=jnp.where(ongoing, state.episode_cost, 0.0) + state.cost,
            episode_goals=jnp.where(ongoing, state.episode_goals, 0) + state.goal_met.astype(jnp.int32),
            episode_length=jnp.where(ongoing, state.episode_length, 0) + 1,
        )
        begin = sparse.cond(state.done, self._begin, (state.key,), otherwise=_beginning(state), fraction=256)
        return state.replace(**begin)

    def _begin(self, key: jax.Array) -> dict[str, jax.Array]:
        return _beginning(self.env.reset(key))


def _beginning(state: State) -> dict[str, jax.Array]:
    """The fields that an episode starts anew; the others tell of the step that led to it."""
    return {name: getattr(state, name) for name in ("obs", "steps", "ctrl", "physics", "places", "potential", "key")}
