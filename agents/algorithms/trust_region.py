"""Trust region policy optimisation (Schulman et al. 2015), alone or with a price on cost, and what CPO shares with it.

One step of the policy per update, on the whole batch: a direction from conjugate gradients, then a line search. All
numbers that decide anything are those of the batch on all devices.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from agents import networks, reduce
from agents.algorithms.base import Constraint, priced

if TYPE_CHECKING:
    from agents.loop import Batch, Hyper

# All four as in safety-starter-agents (Ray et al. 2019).
CG_ITERATIONS = 10
DAMPING = 0.1
BACKTRACK = 0.8
BACKTRACK_STEPS = 10

# Blocks of samples, spread evenly over the batch, that Fisher's matrix is taken from; Schulman et al. 2015, appendix
# C.1, take a tenth. With the cpu preset's 2,048 samples of 32,768 PointGoal1 is learned as well as with 4,096.
CURVATURE_BLOCKS = 4

EPS = 1e-8


class Outlook(NamedTuple):
    """What a batch says of a policy, float32 [] each.

    Attributes:
        reward: E[rho A], where rho is its probability of an action over that of the policy that acted.
        cost: E[rho A_C].
        kl: mean KL(it || the policy that acted).
    """

    reward: jax.Array
    cost: jax.Array
    kl: jax.Array


class Problem(NamedTuple):
    """The policy as one vector, and what the batch of all devices says of any other value of it.

    Attributes:
        params: float32 [n]; the policy that acted.
        unravel: vector -> policy.
        outlook: vector -> Outlook.
        slope: linear function of an Outlook -> its gradient [n] at `params`, and the Outlook there.
        curvature: vector x -> (F + DAMPING) x, where F is Fisher's matrix.
    """

    params: jax.Array
    unravel: Callable
    outlook: Callable
    slope: Callable
    curvature: Callable


def pose(policy: dict, batch: "Batch") -> Problem:
    """The policy step as a problem in one vector; the batch is worked on part by part, as `Algorithm.step` gets it."""
    params, unravel = ravel_pytree(policy)
    old_log_std = policy["log_std"]

    def distribution(vector: jax.Array, obs: jax.Array) -> tuple[jax.Array, jax.Array]:
        policy = unravel(vector)
        return networks.mlp(policy["mean"], obs), policy["log_std"]

    def look(vector: jax.Array, part: "Batch") -> Outlook:
        new = distribution(vector, part.obs)
        ratio = jnp.exp(networks.log_prob(*new, part.action) - part.log_prob)
        kl = networks.kl_divergence(*new, part.mean, old_log_std)
        return Outlook(*map(jnp.mean, (ratio * part.advantage, ratio * part.cost_advantage, kl)))

    def over_parts(function: Callable) -> Any:
        over = jax.lax.map(lambda part: function(jax.tree.map(_rows, part)), batch)
        return reduce.average(jax.tree.map(lambda x: jnp.mean(x, 0), over))

    def outlook(vector: jax.Array) -> Outlook:
        return over_parts(lambda part: look(vector, part))

    def slope(function: Callable) -> tuple[jax.Array, Outlook]:
        def value(vector: jax.Array, part: "Batch") -> tuple[jax.Array, Outlook]:
            outlook = look(vector, part)
            return function(outlook), outlook

        return over_parts(lambda part: jax.grad(value, has_aux=True)(params, part))

    blocks = _rows(batch.obs)
    some = _rows(blocks[:: max(1, len(blocks) // CURVATURE_BLOCKS)])
    _, push = jax.linearize(lambda vector: distribution(vector, some), params)
    pull = jax.linear_transpose(push, params)

    def curvature(x: jax.Array) -> jax.Array:
        # KL's Hessian where it vanishes: of a Gaussian 1 / variance in the mean and 2 in log_std, carried to the
        # parameters by the network's Jacobian on both sides.
        mean, log_std = push(x)
        (fisher,) = pull((mean * jnp.exp(-2.0 * old_log_std) / (mean.size // mean.shape[-1]), 2.0 * log_std))
        return reduce.average(fisher) + DAMPING * x

    return Problem(params, unravel, outlook, slope, curvature)


def _rows(x: jax.Array) -> jax.Array:
    """The first two axes as one: XLA transposes what it contracts over two, and a step takes half as long again."""
    return x.reshape(-1, *x.shape[2:])


def conjugate_gradient(product: Callable, b: jax.Array) -> jax.Array:
    """x with product(x) = b, after CG_ITERATIONS steps from zero (Hestenes and Stiefel 1952)."""

    def step(_: int, carry: tuple) -> tuple:
        x, residual, direction, norm = carry
        image = product(direction)
        ahead = norm > 1e-10  # else solved: what is left is rounding
        alpha = jnp.where(ahead, norm / (direction @ image + EPS), 0.0)
        x, residual = x + alpha * direction, residual - alpha * image
        left = residual @ residual
        direction = residual + jnp.where(ahead, left / (norm + EPS), 0.0) * direction
        return x, residual, direction, left

    return jax.lax.fori_loop(0, CG_ITERATIONS, step, (jnp.zeros_like(b), b, b, b @ b))[0]


def line_search(
    problem: Problem, step: jax.Array, now: Outlook, accept: Callable
) -> tuple[jax.Array, Outlook, jax.Array]:
    """The longest of step, 0.8 step, 0.8^2 step, ... that is accepted, or no step.

    Args:
        problem: the policy step.
        step: [n]; subtracted from the parameters.
        now: outlook of the parameters.
        accept: outlook of a candidate -> bool [].

    Returns:
        The parameters [n], their outlook, and whether they have moved.
    """

    def search(carry: tuple) -> tuple:
        tries, *kept, _ = carry
        candidate = problem.params - BACKTRACK ** tries.astype(jnp.float32) * step
        outlook = problem.outlook(candidate)
        accepted = accept(outlook)
        kept = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), (candidate, outlook), tuple(kept))
        return tries + 1, *kept, accepted

    def searching(carry: tuple) -> jax.Array:
        tries, *_, accepted = carry
        return (tries < BACKTRACK_STEPS) & ~accepted

    start = jnp.int32(0), problem.params, now, jnp.bool_(False)
    return jax.lax.while_loop(searching, search, start)[1:]


def step(policy: dict, batch: "Batch", constraint: Constraint, hyper: "Hyper") -> tuple[dict, dict[str, jax.Array]]:
    """theta - 0.8^j sqrt(2 target_kl / x'Hx) x with Hx = g.

    g is the gradient of -(E[rho A] - lambda E[rho A_C]) / (1 + lambda), H the damped Hessian of the mean KL (Schulman
    et al. 2015, appendix C). The first j is taken at which the KL is within target_kl and the objective no worse.
    `trpo` has lambda = 0; with `trpo_lagrangian` it follows the cost.
    """
    problem = pose(policy, batch)

    def loss(outlook: Outlook) -> jax.Array:
        return priced(outlook.reward, outlook.cost, constraint.multiplier)

    gradient, now = problem.slope(loss)
    direction = conjugate_gradient(problem.curvature, gradient)
    length = jnp.sqrt(2.0 * hyper.target_kl / (direction @ problem.curvature(direction) + EPS))

    def accept(new: Outlook) -> jax.Array:
        return (new.kl <= hyper.target_kl) & (loss(new) <= loss(now))

    params, outlook, accepted = line_search(problem, length * direction, now, accept)
    policy = problem.unravel(params)
    return policy, report(policy, loss(outlook), outlook, accepted)


def report(policy: dict, loss: jax.Array, outlook: Outlook, accepted: jax.Array) -> dict[str, Any]:
    """The policy's metrics after its step; it took one or none."""
    return {
        "policy_loss": loss,
        "kl": outlook.kl,
        "clip_fraction": jnp.float32(0.0),
        "entropy": networks.entropy(policy["log_std"]),
        "policy_steps": accepted.astype(jnp.float32),
    }
