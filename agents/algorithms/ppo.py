"""Proximal policy optimisation, alone or with a price on cost (Schulman et al. 2017; Ray et al. 2019, section 5)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from agents.algorithms.base import Constraint, Samples, priced

if TYPE_CHECKING:
    from agents.loop import Hyper


def clipped(samples: Samples, advantage: jax.Array, clip_eps: jax.Array) -> jax.Array:
    """min(rho A, clip(rho, 1 - eps, 1 + eps) A), what Schulman et al. 2017, eq. 7, take the mean of; [...]."""
    ratio = samples.ratio
    return jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip_eps, 1.0 + clip_eps) * advantage)


def objective(samples: Samples, constraint: Constraint, hyper: "Hyper") -> jax.Array:
    """-(E[min(rho A, clip(rho) A)] - lambda E[rho A_C]) / (1 + lambda).

    `ppo` has lambda = 0, `ppo_fixed` a constant, `ppo_lagrangian` one that follows the cost (`agents.lagrange`). The
    cost term is not clipped, as in safety-starter-agents.
    """
    reward = jnp.mean(clipped(samples, samples.advantage, hyper.clip_eps))
    cost = jnp.mean(samples.ratio * samples.cost_advantage)
    return priced(reward, cost, constraint.multiplier)
