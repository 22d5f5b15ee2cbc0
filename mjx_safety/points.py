"""Soft contacts of rigid bodies, worked out at the points of contact.

What a contact does depends on the acceleration of one point, a_p = a + w x arm: three numbers instead of a body's six.
So the friction pyramid (`contact.edges`) is evaluated there: a force f, and the symmetric matrix K = -df/da_p. With
J = [1, -[arm]x] the body gets J'f and J'KJ. A body's accelerations are six, the linear ones first.

All contacts of all bodies lie side by side, the first of each body first, [contacts * bodies]: so loops over them are
long enough for a CPU's vectors even where few bodies are solved at a time. Vectors are lists of three arrays, world
axes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mjx_safety import contact, short, spatial
from mjx_safety.spatial import Mat, Vec, add, cross, keep, keep_on_cpu

_FRICTION = tuple(map(np.float32, contact.FRICTION[:2]))  # sliding alone


class Points(NamedTuple):
    """Contacts of one kind.

    Attributes:
      arm: from the body's centre to the point.
      axes: the normal, into the body, and two directions of friction; None on the floor: up, y and -x.
      offset: along each of these, the acceleration of a point whose body has none, less the reference acceleration;
        three arrays.
      stiffness: of each edge of the friction pyramid, 0 where nothing touches.
    """

    arm: Vec
    axes: list[Vec] | None
    offset: list
    stiffness: jax.Array

    def accelerations(self, acc: jax.Array) -> Vec:
        """Of the points, where the bodies have accelerations [6, bodies...]."""
        at_points = spread(acc, (self.each(acc.shape[1:]), *acc.shape[1:]))
        return add(at_points[:3], cross(at_points[3:], self.arm))

    def react(self, at_points: Vec) -> "Reaction":
        """Forces on points with these accelerations, and how they fall."""
        along = add(onto(self.axes, at_points), self.offset)
        forces, steep, mixed, own = contact.edges(along, self.stiffness, _FRICTION)
        return Reaction(*keep((_out_of(self.axes, forces), _to_world(self.axes, steep, mixed, own))))

    def on_bodies(self, reaction: "Reaction", bodies: tuple[int, ...]) -> tuple[Mat, list]:
        """J'KJ, the lower triangle by rows, and J'f: six by six arrays and six, of the shape `bodies`."""
        rows = reaction.rows
        turned = [cross(self.arm, row) for row in rows]  # columns of [arm]x K
        about = [cross(self.arm, [column[i] for column in turned]) for i in range(3)]  # rows of [arm]x K [arm]x'
        matrix = [[rows[i][j] for j in range(i + 1)] for i in range(3)]
        matrix += [[*(turned[j][i] for j in range(3)), *(about[i][j] for j in range(i + 1))] for i in range(3)]
        push = [*reaction.force, *cross(self.arm, reaction.force)]
        return jax.tree.map(lambda x: total(x, bodies), (matrix, push))

    def each(self, bodies: tuple[int, ...]) -> int:
        """How many there are of each of the bodies, which have this shape."""
        return self.stiffness.size // int(np.prod(bodies))


class Reaction(NamedTuple):
    """What contacts do to points.

    Attributes:
      force: vector.
      fall: by how much it falls with the points' accelerations: of a symmetric matrix xx, yx, yy, zx, zy, zz.
    """

    force: Vec
    fall: list

    @property
    def rows(self) -> Mat:
        """`fall` as a whole matrix."""
        xx, yx, yy, zx, zy, zz = self.fall
        return [[xx, yx, zx], [yx, yy, zy], [zx, zy, zz]]

    def falling(self, factor: Any) -> "Reaction":
        """With `fall` times a factor."""
        return self._replace(fall=[x * factor for x in self.fall])


def spread(values: Any, shape: tuple[int, ...]) -> list[jax.Array]:
    """Numbers of bodies for each of their contacts, side by side; contacts first in `shape`, as all arrays have it."""
    # All bodies on one axis: loops over few environments are unrolled before they are vectorised.
    bodies = [jnp.broadcast_to(x, shape[1:]).reshape(1, -1) for x in values]
    return keep_on_cpu([jnp.broadcast_to(x, (shape[0], x.size)) for x in bodies], flat=True)


def total(values: jax.Array, bodies: tuple[int, ...]) -> jax.Array:
    """Sums over each body's contacts; with `bodies` = (envs,), over all of an environment's."""
    return short.sum(values.reshape(-1, *bodies), 0)


def onto(axes: list[Vec] | None, vec: Vec) -> list:
    """A vector along the axes of `Points`."""
    if axes is None:
        return [vec[2], vec[1], -vec[0]]
    return spatial.rotate(axes, vec)


def _out_of(axes: list[Vec] | None, along: list) -> Vec:
    """The inverse of `onto`."""
    if axes is None:
        return [-along[2], along[1], along[0]]
    return spatial.back(axes, along)


def _to_world(axes: list[Vec] | None, steep: jax.Array, mixed: list, own: list) -> list:
    """How forces fall, as `contact.edges` tells it along the axes, as `Reaction.fall`."""
    if axes is None:
        return [own[1], jnp.zeros_like(steep), own[0], -mixed[1], mixed[0], steep]
    columns = [contact.stiffen(column, steep, mixed, own) for column in zip(*axes, strict=True)]
    return [x for i, column in enumerate(columns) for x in _out_of(axes, column)[: i + 1]]
