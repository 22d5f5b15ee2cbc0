"""Constrained policy optimisation (Achiam, Held, Tamar and Abbeel 2017)."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from agents.algorithms.base import Constraint
from agents.algorithms.trust_region import EPS, Outlook, conjugate_gradient, line_search, pose, report

if TYPE_CHECKING:
    from agents.loop import Batch, Hyper


def solve_dual(
    q: jax.Array, r: jax.Array, s: jax.Array, c: jax.Array, delta: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Multipliers of: minimise g'x subject to c + b'x <= 0 and x'Hx <= 2 delta (theorem 2 and appendix 10.2).

    The solution is x = -(v + nu w) / lam with Hv = g and Hw = b, and where no x satisfies both, x = -nu w: all of the
    trust region is spent on lowering the cost. The cases are numbered as in safety-starter-agents:

    4. no gradient of the cost, limit kept: a trust region step.
    3. the limit is kept in the whole trust region: the same.
    2. the limit is kept now and its border crosses the trust region.
    1. the limit is broken now, and can be kept within the trust region.
    0. it cannot.

    Args:
        q, r, s: g'v, g'w and b'w, float32 [].
        c: violation now, in the units of b.
        delta: size of the trust region.

    Returns:
        lam, nu and the case, float32 [], float32 [] and int32 [].
    """
    flat = (s <= EPS) & (c < 0.0)
    s = jnp.maximum(s, EPS)
    # a vanishes where cost and reward pull along one line; above zero lam does too, and (v + nu w) / lam stays defined.
    a, b = jnp.maximum(q - r * r / s, EPS), 2.0 * delta - c * c / s
    free = jnp.where(flat, 4, 3)
    case = jnp.where(flat | ((c < 0.0) & (b < 0.0)), free, jnp.where(b < 0.0, 0, jnp.where(c < 0.0, 2, 1)))

    # On one side of lam = r / c the limit binds and the dual is f_a, on the other it does not and the dual is f_b.
    unbound = jnp.sqrt(q / (2.0 * delta))
    border = r / jnp.where(jnp.abs(c) < EPS, EPS, c)
    low, high = jnp.clip(border, 0.0, None), jnp.inf
    binds_below = c < 0.0
    bound = jnp.sqrt(a / jnp.maximum(b, EPS))
    lam_a = jnp.where(binds_below, jnp.minimum(bound, low), jnp.clip(bound, low, high))
    lam_b = jnp.where(binds_below, jnp.clip(unbound, low, high), jnp.minimum(unbound, low))
    f_a = -0.5 * (a / (lam_a + EPS) + b * lam_a) - r * c / s
    f_b = -0.5 * (q / (lam_b + EPS) + 2.0 * delta * lam_b)
    lam = jnp.where(f_a >= f_b, lam_a, lam_b)
    nu = jnp.maximum(lam * c - r, 0.0) / s

    lam = jnp.where(case >= 3, unbound, lam)
    nu = jnp.where(case >= 3, 0.0, jnp.where(case == 0, jnp.sqrt(2.0 * delta / s), nu))
    return lam, nu, case.astype(jnp.int32)


def step(policy: dict, batch: "Batch", constraint: Constraint, hyper: "Hyper") -> tuple[dict, dict[str, jax.Array]]:
    """theta - 0.8^j x, with x from `solve_dual` for the linearised reward and cost.

    The limit is kept with a margin that grows while it is broken, see `lagrange.update_margin`: a batch promises more
    than it holds, for its cost falls fastest along its own noise. A violation of an episode is divided by its steps,
    which gives it the unit of E[rho A_C]. A candidate is accepted when the KL is within target_kl, the cost rises by no
    more than the limit leaves room for, and, unless the limit is broken, the reward is no worse (algorithm 1, with the
    line search of section 6.1). "multiplier" is nu.
    """
    problem = pose(policy, batch)
    g, now = problem.slope(lambda outlook: -outlook.reward)
    b, _ = problem.slope(lambda outlook: outlook.cost)
    v, w = (conjugate_gradient(problem.curvature, x) for x in (g, b))
    q, r, s = g @ v, g @ w, b @ w
    c = (constraint.violation + constraint.multiplier) / constraint.horizon
    lam, nu, case = solve_dual(q, r, s, c, hyper.target_kl)
    x = jnp.where(case == 0, nu * w, (v + nu * w) / (lam + EPS))

    def accept(new: Outlook) -> jax.Array:
        better = (new.reward >= now.reward) | (case <= 1)
        return (new.kl <= hyper.target_kl) & better & (new.cost - now.cost <= jnp.maximum(-c, 0.0))

    params, outlook, accepted = line_search(problem, x, now, accept)
    policy = problem.unravel(params)
    return policy, report(policy, -outlook.reward, outlook, accepted) | {"multiplier": nu}
