"""Generalised advantage estimation (Schulman et al. 2016, eq. 16) with exact bootstrapping at time limits."""

import jax
import jax.numpy as jnp


def gae(
    rewards: jax.Array,
    values: jax.Array,
    next_values: jax.Array,
    terminated: jax.Array,
    truncated: jax.Array,
    gamma: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> jax.Array:
    """Advantages of a rollout that crosses episode ends; `advantages + values` are the critic's targets.

    A terminated step is worth its reward alone. A truncated step is cut by the clock, not by the task, so it still
    bootstraps from the observation it really ended in. Either one stops the trace into the next episode.

    Args:
        rewards: float32 [T, ...]; rewards, or costs for the cost critic.
        values: float32 [T, ...]; V of the observation acted on.
        next_values: float32 [T, ...]; V of the true next observation (`final_obs`), before any reset.
        terminated: bool [T, ...]; wins where a step is both terminated and truncated.
        truncated: bool [T, ...].
        gamma: discount in [0, 1].
        gae_lambda: trace decay in [0, 1].

    Returns:
        float32 [T, ...].
    """
    continues = jnp.where(terminated, 0.0, 1.0)
    carries = jnp.where(terminated | truncated, 0.0, 1.0)
    deltas = rewards + gamma * continues * next_values - values

    def backwards(advantage: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        delta, carry = step
        advantage = delta + gamma * gae_lambda * carry * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(backwards, jnp.zeros_like(values[0]), (deltas, carries), reverse=True)
    return advantages
