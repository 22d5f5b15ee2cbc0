"""What an algorithm is told, and what it answers."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from agents.lagrange import Law
from agents.wrappers import Wrapper


class Constraint(NamedTuple):
    """How the acting policy stands with its limit.

    Attributes:
        violation: float32 []; estimated cost of an episode, less the limit.
        multiplier: float32 []; the price of a unit of cost, or with CPO the margin below the limit; moved by this
            violation already.
        horizon: steps of an episode; float32 [] where it terminates at its goal.
    """

    violation: jax.Array
    multiplier: jax.Array
    horizon: jax.Array | int


class Samples(NamedTuple):
    """A minibatch under the policy being learned, every field float32 [...] of one shape.

    Attributes:
        ratio: its probability of the action over that of the policy that acted.
        kl: its divergence from the policy that acted, at this observation.
        advantage: of reward; mean 0 and standard deviation 1 over the batch.
        cost_advantage: of cost; mean 0 over the batch.
    """

    ratio: jax.Array
    kl: jax.Array
    advantage: jax.Array
    cost_advantage: jax.Array


def priced(reward: jax.Array, cost: jax.Array, price: jax.Array) -> jax.Array:
    """-(reward - price cost) / (1 + price), the loss of whoever pays for cost.

    Divided by 1 + price as in safety-starter-agents: the steps of an agent with a high price stay as long as those of
    one with a low price.
    """
    return -(reward - price * cost) / (1.0 + price)


class Algorithm(NamedTuple):
    """One row of `agents.algorithms.ALGORITHMS`; it has an `objective` or a `step`.

    Attributes:
        objective: (samples, constraint, hyper) -> float32 []; the policy's loss on a minibatch.
        step: (policy, batch, constraint, hyper) -> (policy, metrics); all that the policy learns from a whole batch,
            with the fields of `agents.loop.Batch` float32 [parts, blocks, samples, ...]; the metrics are those that
            `trust_region.report` makes, float32 [] each.
        law: how the multiplier moves; None for the one that `Config.multiplier` names.
        wrapper: put around the environment.
        settings: fields of `agents.loop.Hyper` that it uses, beside those of `agents.config.SHARED`, of its law and of
            gradient steps on the policy.
    """

    objective: Callable | None = None
    step: Callable | None = None
    law: Law | None = None
    wrapper: type[Wrapper] | None = None
    settings: tuple[str, ...] = ()
