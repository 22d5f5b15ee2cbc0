"""Constraint-rectified policy optimisation (Xu, Liang and Lan 2021), with PPO's clipped steps."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from agents.algorithms.base import Constraint, Samples
from agents.algorithms.ppo import clipped

if TYPE_CHECKING:
    from agents.loop import Hyper


def objective(samples: Samples, constraint: Constraint, hyper: "Hyper") -> jax.Array:
    """-E[min(rho A, clip(rho) A)] while the cost is within limit + tolerance, else the same with -A_C (algorithm 1).

    There is no multiplier: each update serves either the reward or the limit.
    """
    violated = constraint.violation > hyper.crpo_tolerance
    advantage = jnp.where(violated, -samples.cost_advantage, samples.advantage)
    return -jnp.mean(clipped(samples, advantage, hyper.clip_eps))
