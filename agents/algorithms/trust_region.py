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

CURVATURE_STRIDE = 8  # blocks of samples to one in Fisher's matrix: Schulman et al. 2015, appendix C.1, take a tenth

EPS = 1e-8


class Problem(NamedTuple):
    """The policy as one vector, and what the batch says of any other value of it.

    Attributes:
        params: float32 [n]; the policy that acted.
        unravel: vector -> policy.
        surrogates: vector -> (E[rho A], E[rho A_C]), this device's share.
        kl: vector -> mean KL to the policy that acted, this device's share.
        curvature: vector x -> (F + DAMPING) x, where F is Fisher's matrix; of all devices.
    """

    params: jax.Array
    unravel: Callable
    surrogates: Callable
    kl: Callable
    curvature: Callable

    def gradient(self, function: Callable) -> jax.Array:
        """Gradient of a device's share of a mean, at the policy that acted; over all devices, [n]."""
        return reduce.average(jax.grad(function)(self.params))


def pose(policy: dict, batch: "Batch") -> Problem:
    """The policy step as a problem in one vector."""
    params, unravel = ravel_pytree(policy)
    old_log_std = policy["log_std"]

    def distribution(vector: jax.Array, obs: jax.Array = batch.obs) -> tuple[jax.Array, jax.Array]:
        policy = unravel(vector)
        return networks.mlp(policy["mean"], obs), policy["log_std"]

    def surrogates(vector: jax.Array) -> tuple[jax.Array, jax.Array]:
        ratio = jnp.exp(networks.log_prob(*distribution(vector), batch.action) - batch.log_prob)
        return jnp.mean(ratio * batch.advantage), jnp.mean(ratio * batch.cost_advantage)

    def kl(vector: jax.Array) -> jax.Array:
        return jnp.mean(networks.kl_divergence(*distribution(vector), batch.mean, old_log_std))

    some = batch.obs[::CURVATURE_STRIDE]
    _, push = jax.linearize(lambda vector: distribution(vector, some), params)
    pull = jax.linear_transpose(push, params)

    def curvature(x: jax.Array) -> jax.Array:
        # KL's Hessian where it vanishes: of a Gaussian 1 / variance in the mean and 2 in log_std, carried to the
        # parameters by the network's Jacobian on both sides.
        mean, log_std = push(x)
        (fisher,) = pull((mean * jnp.exp(-2.0 * old_log_std) / (mean.size // mean.shape[-1]), 2.0 * log_std))
        return reduce.average(fisher) + DAMPING * x

    return Problem(params, unravel, surrogates, kl, curvature)


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


def line_search(problem: Problem, step: jax.Array, accept: Callable) -> tuple[jax.Array, jax.Array]:
    """The longest of step, 0.8 step, 0.8^2 step, ... that is accepted, or no step.

    Args:
        problem: the policy step.
        step: [n]; subtracted from the parameters.
        accept: (E[rho A], E[rho A_C], KL) of a candidate, of all devices -> bool [].

    Returns:
        The parameters [n], and whether they have moved.
    """

    def search(carry: tuple) -> tuple:
        tries, _, _ = carry
        candidate = problem.params - BACKTRACK ** tries.astype(jnp.float32) * step
        reward, cost = problem.surrogates(candidate)
        accepted = accept(*reduce.average((reward, cost, problem.kl(candidate))))
        return tries + 1, jnp.where(accepted, candidate, problem.params), accepted

    def searching(carry: tuple) -> jax.Array:
        tries, _, accepted = carry
        return (tries < BACKTRACK_STEPS) & ~accepted

    start = jnp.int32(0), problem.params, jnp.bool_(False)
    _, params, accepted = jax.lax.while_loop(searching, search, start)
    return params, accepted


def step(policy: dict, batch: "Batch", constraint: Constraint, hyper: "Hyper") -> tuple[dict, dict[str, jax.Array]]:
    """theta - 0.8^j sqrt(2 target_kl / x'Hx) x with Hx = g.

    g is the gradient of -(E[rho A] - lambda E[rho A_C]) / (1 + lambda), H the damped Hessian of the mean KL (Schulman
    et al. 2015, appendix C). The first j is taken at which the KL is within target_kl and the objective no worse.
    `trpo` has lambda = 0; with `trpo_lagrangian` it follows the cost.
    """
    problem = pose(policy, batch)

    def loss(reward: jax.Array, cost: jax.Array) -> jax.Array:
        return priced(reward, cost, constraint.multiplier)

    def accept(reward: jax.Array, cost: jax.Array, kl: jax.Array) -> jax.Array:
        return (kl <= hyper.target_kl) & (loss(reward, cost) <= before)

    before = loss(*reduce.average(problem.surrogates(problem.params)))
    gradient = problem.gradient(lambda params: loss(*problem.surrogates(params)))
    direction = conjugate_gradient(problem.curvature, gradient)
    length = jnp.sqrt(2.0 * hyper.target_kl / (direction @ problem.curvature(direction) + EPS))
    params, accepted = line_search(problem, length * direction, accept)
    return problem.unravel(params), report(problem, params, accepted, loss)


def report(problem: Problem, params: jax.Array, accepted: jax.Array, loss: Callable) -> dict[str, Any]:
    """The policy's metrics after its step; it took one or none."""
    reward, cost, kl = reduce.average((*problem.surrogates(params), problem.kl(params)))
    return {
        "policy_loss": loss(reward, cost),
        "kl": kl,
        "clip_fraction": jnp.float32(0.0),
        "entropy": networks.entropy(problem.unravel(params)["log_std"]),
        "stop_index": accepted.astype(jnp.float32),
    }
