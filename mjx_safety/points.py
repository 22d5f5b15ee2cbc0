"""Contacts of rigid bodies by the points where they are: what pushes there, and how that falls as points speed up.

Each body has six accelerations, the linear ones first. All contacts of all bodies lie side by side, the first of each
body first, [contacts * bodies]: so loops over them are long enough for a CPU's vectors even where few bodies are solved
at a time. Vectors are lists of three arrays, world axes; a symmetric matrix is its lower triangle by rows.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mjx_safety import contact, short
from mjx_safety.spatial import Mat, Vec, add, cross, dot, keep

_FRICTION = tuple(map(np.float32, contact.FRICTION[:2]))  # sliding alone


class Points(NamedTuple):
    """Contacts of one kind.

    Attributes:
      arm: from the body's centre to the point.
      axes: the normal, into the body, and two directions of friction; None on the floor: up, y and -x.
      offset: acceleration along each of these beyond the reference where the point has none, three arrays.
      stiffness: of each edge of the friction pyramid, 0 where nothing touches.
    """

    arm: Vec
    axes: list[Vec] | None
    offset: list
    stiffness: jax.Array

    def accelerations(self, acc: jax.Array) -> Vec:
        """Of the points, where the bodies have accelerations [6, bodies...]."""
        linear, angular = (
            [jnp.broadcast_to(x, (self.num(x), *x.shape)).reshape(-1) for x in part] for part in (acc[:3], acc[3:])
        )
        return add(linear, cross(angular, self.arm))

    def press(self, accelerations: Vec) -> "Pressure":
        """What the contacts do to points with these accelerations."""
        along = add(onto(self.axes, accelerations), self.offset)
        forces, steep, mixed, own = contact.edges(along, self.stiffness, _FRICTION)
        return Pressure(*keep((_out_of(self.axes, forces), _to_world(self.axes, steep, mixed, own))))

    def felt(self, pressure: "Pressure", like: jax.Array) -> tuple[Mat, list]:
        """The bodies' share: how pushes fall with their accelerations, 6 by 6, and the pushes, six arrays.

        Args:
          pressure: at the points.
          like: a number for each body [bodies...].
        """
        rows = pressure.rows
        turned = [cross(self.arm, row) for row in rows]  # with turns of the body, by turns
        about = [cross(self.arm, [row[j] for row in turned]) for j in range(3)]
        matrix = [[rows[i][j] for j in range(i + 1)] for i in range(3)]
        matrix += [[*(turned[j][i] for j in range(3)), *(about[j][i] for j in range(i + 1))] for i in range(3)]
        push = [*pressure.force, *cross(self.arm, pressure.force)]
        return jax.tree.map(lambda x: total(x, like), (matrix, push))

    def num(self, like: jax.Array) -> int:
        """Contacts of each body; there is a number [bodies...] of each."""
        return self.stiffness.size // like.size


class Pressure(NamedTuple):
    """What contacts do to points.

    Attributes:
      force: vector.
      fall: by how much it falls with the points' accelerations, a symmetric matrix.
    """

    force: Vec
    fall: list

    @property
    def rows(self) -> Mat:
        """`fall` in full."""
        xx, yx, yy, zx, zy, zz = self.fall
        return [[xx, yx, zx], [yx, yy, zy], [zx, zy, zz]]

    def scaled(self, factor: Any) -> "Pressure":
        """With a fall that is some times as steep."""
        return self._replace(fall=[x * factor for x in self.fall])


def total(values: jax.Array, like: jax.Array) -> jax.Array:
    """Sums over each body's contacts, or over all of each environment's where `like` is [envs]."""
    return short.sum(values.reshape(-1, *like.shape), 0)


def onto(axes: list[Vec] | None, vec: Vec) -> list:
    """A vector along the axes of `Points`."""
    if axes is None:
        return [vec[2], vec[1], -vec[0]]
    return [dot(axis, vec) for axis in axes]


def _out_of(axes: list[Vec] | None, along: list) -> Vec:
    if axes is None:
        return [-along[2], along[1], along[0]]
    return [dot(list(column), along) for column in zip(*axes, strict=True)]


def _to_world(axes: list[Vec] | None, steep: jax.Array, mixed: list, own: list) -> list:
    if axes is None:
        return [own[1], jnp.zeros_like(steep), own[0], -mixed[1], mixed[0], steep]
    columns = [contact.stiffen(column, steep, mixed, own) for column in zip(*axes, strict=True)]
    return [_out_of(axes, columns[i])[j] for i in range(3) for j in range(i + 1)]
