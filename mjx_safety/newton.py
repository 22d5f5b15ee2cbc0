"""Newton's method on what MuJoCo's constraint solver minimises, for systems of a few accelerations each.

A system with inertia M under forces f, whose contacts push as `contact.edges` has it, accelerates by the a that makes

    1/2 a'M a - f'a + sum over edges of 1/2 k min(0, row a + offset)^2

least (MuJoCo's documentation, "Computation", section "Primal problem"). Environments come last, as in `spatial`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mjx_safety import contact, short, spatial
from mjx_safety.spatial import dot, keep

TOLERANCE = 1e-4  # relative change of the accelerations at which Newton's method has converged


class Contacts(NamedTuple):
    """Contacts of systems of n accelerations; the first direction is the normal, the others are those of friction.

    All systems' contacts lie side by side, as in `points`.

    Attributes:
      rows: the acceleration along each direction that those of the system give, [directions, n, contacts * systems].
      offset: what it has besides, beyond the reference [directions, contacts * systems].
      stiffness: of each edge, 0 where nothing touches, [contacts * systems].
      friction: coefficients for each direction but the first, numbers or [contacts * systems].
    """

    rows: jax.Array
    offset: jax.Array
    stiffness: jax.Array
    friction: Any

    def press(self, acc: jax.Array) -> tuple:
        """Forces at accelerations [n, ...], and how they fall, [contacts * systems] each, see `contact.edges`."""
        along = keep(short.sum(_apart(self.rows, acc) * acc[None, :, None], 1) + _apart(self.offset, acc))
        return contact.edges(along.reshape(self.offset.shape), self.stiffness, self.friction)


class System(NamedTuple):
    """What is minimised.

    Attributes:
      inertia: [n, n, ...].
      force: [n, ...].
      start: accelerations [n, ...] to start from.
      contacts: `Contacts`; None where there cannot be any.
    """

    inertia: jax.Array
    force: jax.Array
    start: jax.Array
    contacts: Any


class Terms(NamedTuple):
    """Of a step of Newton's method.

    Attributes:
      matrix: the Hessian's lower triangle by rows, [...] each.
      slope: the gradient [n, ...].
    """

    matrix: list[list]
    slope: jax.Array

    def change(self) -> jax.Array:
        """What the step takes from the accelerations [n, ...]."""
        return jnp.stack(spatial.solve(self.matrix, list(self.slope)))


def terms(system: System, acc: jax.Array) -> Terms:
    """The terms at accelerations [n, ...]."""
    inertia, contacts = system.inertia, system.contacts
    slope = short.sum(inertia * acc, 1) - system.force
    if contacts is None:
        return Terms([[inertia[i, j] for j in range(i + 1)] for i in range(len(inertia))], slope)
    forces, *fall = contacts.press(acc)
    stiff, forces = keep((contact.stiffen(contacts.rows, *fall), forces))
    # By columns, each from the diagonal down.
    columns = [dot([x[j:] for x in stiff], contacts.rows[:, j : j + 1]) for j in range(len(inertia))]
    columns, pull = keep((columns, dot(forces, contacts.rows)))
    columns = [inertia[j:, j] + short.sum(_apart(column, acc), 1) for j, column in enumerate(columns)]
    columns, slope = keep((columns, slope - short.sum(_apart(pull, acc), 1)))
    return Terms(spatial.lower(columns), slope)


def _apart(values: jax.Array, like: jax.Array) -> jax.Array:
    """Contacts [..., contacts * systems] on an axis of their own, before the systems' axes in `like` [m, ...]."""
    return values.reshape(*values.shape[:-1], -1, *like.shape[1:])


def minimise(step: Callable[[Any], Any], start: Any, most: int) -> Any:
    """Takes what `step` says from accelerations until they hardly change, `most` times at most."""

    def newton(carry):
        count, _, acc = carry
        taken = keep(step(acc))
        acc = jax.tree.map(jnp.subtract, acc, taken)
        moves = jax.tree.map(lambda t, a: jnp.any(jnp.abs(t) > TOLERANCE * (1 + jnp.abs(a))), taken, acc)
        return count + 1, jnp.any(jnp.stack(jax.tree.leaves(moves))), acc

    def more(carry):
        return (carry[0] < most) & carry[1]

    return jax.lax.while_loop(more, newton, (jnp.int32(0), jnp.array(True), start))[2]
