"""First-order constrained optimisation in policy space (Zhang, Vuong and Ross 2020)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from agents.algorithms.base import Constraint, Samples

if TYPE_CHECKING:
    from agents.loop import Hyper


def objective(samples: Samples, constraint: Constraint, hyper: "Hyper") -> jax.Array:
    """E[(KL(s) - rho (A - nu A_C) / (1 + nu) / temperature) 1{KL(s) <= target_kl}].

    The best policy within a trust region is known in closed form; this is the way from the present one towards it
    (eq. 10, corollary 1), taken sample by sample: an observation at which the policy has moved too far pulls no more.
    The multiplier nu follows the cost by `Config.multiplier`. The division by 1 + nu is OmniSafe's; it takes the place
    of the paper's bound on nu.
    """
    price = constraint.multiplier
    advantage = (samples.advantage - price * samples.cost_advantage) / (1.0 + price)
    pull = samples.kl - samples.ratio * advantage / hyper.focops_temperature
    return jnp.mean(jnp.where(samples.kl <= hyper.target_kl, pull, 0.0))
