"""Penalised proximal policy optimisation (Zhang et al. 2022)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from agents import reduce
from agents.algorithms.base import Constraint, Samples
from agents.algorithms.ppo import clipped

if TYPE_CHECKING:
    from agents.loop import Hyper


def objective(samples: Samples, constraint: Constraint, hyper: "Hyper") -> jax.Array:
    """-E[min(rho A, clip(rho) A)] + kappa max(0, E[max(rho A_C, clip(rho) A_C)] + (1 - gamma) (J_C - d)).

    Equations 8 to 10. The penalty is exact: with kappa above the multiplier of the constrained problem, both problems
    have the same solution. J_C is the undiscounted cost of an episode, which the limit d is stated for.
    """
    reward = jnp.mean(clipped(samples, samples.advantage, hyper.clip_eps))
    cost = -jnp.mean(clipped(samples, -samples.cost_advantage, hyper.clip_eps))
    # The hinge bends where the whole batch says so, not where one device's share does.
    excess = reduce.average(cost) + (1.0 - hyper.gamma) * constraint.violation
    return -reward + hyper.p3o_kappa * jnp.maximum(excess, 0.0)
