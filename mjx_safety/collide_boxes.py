"""Where two boxes in any pose meet.

Boxes are few at a time, and what a kernel costs is then its start: numbers that are worked out alike are worked out in
one. So vectors are arrays here, [3, ...]. A box's sides are one array too, [5, 4, ...], each an axis and then the
half-size along it, in the order x, y, z, x, y: the two that follow any axis are then a slice.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mjx_safety import short
from mjx_safety.collide import Solid
from mjx_safety.collide_box import APART, Candidates
from mjx_safety.spatial import Vec, cross, dot, keep, norm, scale

_CLEARLY = 1e-6  # metres: by so much more than float32's rounding
_PARALLEL = 1e-4  # square of the sine of the angle below which edges do not cross
_CORNERS = np.array(list(itertools.product((-1, 1), repeat=2)), np.float32)  # of a face, in its half-sides


class _Box(NamedTuple):
    """A box.

    Attributes:
      pos: its centre, [3, ...].
      sides: its axes, the first two once more, and their half-sizes, [5, 4, ...].
    """

    pos: jax.Array
    sides: jax.Array


class _Edges(NamedTuple):
    """Where two edges cross: signed distance, place, and unit vector into the second box."""

    dist: jax.Array
    pos: jax.Array
    normal: jax.Array


def meet(a: Solid, b: Solid) -> list[Candidates]:
    """Box a against box b, four candidates, normals into b.

    Where a face overlaps least it is the reference; the corners of the other's facing face are drawn into its outline.
    These are corners of the clipped face where the edges of both run alike as seen along the normal, as they do when
    both stand upright. Where two edges overlap least, they touch where they cross.
    """
    rank = len(jnp.broadcast_shapes(*map(jnp.shape, jax.tree.leaves((a[1:], b[1:])))))
    first, second = keep((_as_arrays(a, rank), _as_arrays(b, rank)))
    relative = keep(_dot(first.sides[:, None, :3], second.sides[None, :, :3], 2))  # cosines between axes
    gaps = keep(_face_gaps(first, second, relative))
    edges = _edges(first, second, relative)
    on_first = short.max(gaps[0], 0) >= short.max(gaps[1], 0)
    faces = short.greater(short.max(gaps[0], 0), short.max(gaps[1], 0))
    crossed = edges.dist > faces + _CLEARLY

    # The reference's sides, its face first; the other's sides, the face that looks at it first.
    between = second.pos - first.pos
    between = jnp.where(on_first, between, -between)
    ref = _from_axis(jnp.where(on_first, first.sides, second.sides), jnp.where(on_first, *gaps))
    ref, other = keep((ref, jnp.where(on_first, second.sides, first.sides)))
    normal = ref[0, :3] * _sign(dot(ref[0, :3], between))
    normal, other = keep((normal, _from_axis(other, jnp.abs(_dot(other[:3, :3], normal, 1)))))
    face = -_sign(dot(other[0, :3], normal)) * other[0, :3]

    # The middle of the other's face and its half-sides, from the reference's centre; as seen along the normal; and with
    # the reference's directions, how far they rise from that face.
    spans = keep(jnp.concatenate([(between + face * other[0, 3])[None], other[1:, :3] * other[1:, 3:]]))
    seen = keep(_dot(ref[1:, None, :3], spans[None], 2))  # [2, 3, ...]
    rises = keep(_dot(jnp.concatenate([spans[:1], ref[1:, :3], normal[None]]), face, 1))
    depth, halves = ref[0, 3], ref[1:, 3]
    beside = short.any(jnp.abs(seen[:, 0]) >= halves + jnp.abs(seen[:, 1]) + jnp.abs(seen[:, 2]), 0)
    apart = beside | (short.greater(faces, edges.dist) > 0)
    x, y, apart = keep((*_common_corners(seen, halves), apart))

    # Where the lines along the normal meet the plane of the other's face.
    across, rise_x, rise_y, slope = rises
    dist = keep((across - x * rise_x - y * rise_y) / slope - depth)  # [4, ...]
    origin = jnp.where(on_first, first.pos, second.pos)[:, None]
    pos = origin + normal[:, None] * (depth + dist / 2) + (ref[1, :3, None] * x + ref[2, :3, None] * y)

    more = np.arange(len(_CORNERS)).reshape(-1, *[1] * rank) > 0  # edges that cross make one contact
    dist = jnp.where(crossed, jnp.where(more, APART, edges.dist), jnp.where(apart, APART, dist))
    pos = jnp.where(crossed, edges.pos[:, None], pos)
    normal = jnp.where(crossed, edges.normal, jnp.where(on_first, normal, -normal))
    dist, pos, normal = keep((dist, pos, normal))
    return [Candidates(dist[i], list(pos[:, i]), list(normal)) for i in range(len(_CORNERS))]


def wheel(centre: Vec, axle: Vec, radius: Any, half_width: Any) -> Solid:
    """The box that stands for a wheel on a level axle: its outline seen from above, and half its height."""
    side = [-axle[1], axle[0], 0.0 * axle[2]]
    side = scale(side, 1 / norm(side))
    return Solid("box", centre, [axle, side, cross(axle, side)], [half_width, radius, radius / 2])


def _as_arrays(solid: Solid, rank: int) -> _Box:
    """A box whose arrays have so many axes behind their own."""
    shape = jnp.broadcast_shapes(*map(jnp.shape, jax.tree.leaves(solid[1:])))
    shape = *[1] * (rank - len(shape)), *shape
    numbers = [x for i in (0, 1, 2, 0, 1) for x in (*solid.axes[i], solid.size[i])]
    pos, sides = (jnp.stack([jnp.broadcast_to(x, shape) for x in vec]) for vec in (solid.pos, numbers))
    return _Box(pos, sides.reshape(5, 4, *shape))


def _face_gaps(a: _Box, b: _Box, relative: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Room between the boxes along the axes of each, less than 0 where they overlap, [3, ...] twice."""
    between, cosines = b.pos - a.pos, jnp.abs(relative[:3, :3])
    room_a, room_b = (jnp.abs(_dot(box.sides[:3, :3], between, 1)) - box.sides[:3, 3] for box in (a, b))
    return room_a - _dot(cosines, b.sides[None, :3, 3], 1), room_b - dot(cosines, a.sides[:3, None, 3])


def _edges(a: _Box, b: _Box, relative: jax.Array) -> _Edges:
    """Where the edges that overlap least cross."""

    def after(values: jax.Array, i: int) -> jax.Array:
        """Of each of a's axes, what belongs to the one i after it."""
        return values[i : i + 3, None]

    def cosines(i: int, j: int) -> jax.Array:
        """Between the axes i and j after each of a's and b's."""
        return relative[i : i + 3, j : j + 3]

    between = b.pos - a.pos
    local, half_a, half_b = _dot(a.sides[:, :3], between, 1), a.sides[:, 3], b.sides[:, 3]
    square = cosines(0, 1) ** 2 + cosines(0, 2) ** 2  # of the sine between them
    overlap = (
        after(half_a, 1) * jnp.abs(cosines(2, 0))
        + after(half_a, 2) * jnp.abs(cosines(1, 0))
        + half_b[1:4] * jnp.abs(cosines(0, 2))
        + half_b[2:5] * jnp.abs(cosines(0, 1))
    )
    away = jnp.abs(after(local, 2) * cosines(1, 0) - after(local, 1) * cosines(2, 0))
    gaps = (away - overlap) * jax.lax.rsqrt(short.greater(square, _PARALLEL))
    gaps = keep(jnp.where(square > _PARALLEL, gaps, -jnp.inf))
    gaps_a, gaps_b = short.max(gaps, 1), short.max(gaps, 0)
    sides_a, sides_b = keep((_from_axis(a.sides, gaps_a), _from_axis(b.sides, gaps_b)))
    edge_a, edge_b = sides_a[0, :3], sides_b[0, :3]
    normal = jnp.stack(cross(list(edge_a), list(edge_b)))
    normal = keep(normal * (_sign(dot(normal, between)) / norm(list(normal))))
    end_a = a.pos + _corner(sides_a, normal)
    offset, cos = b.pos - _corner(sides_b, normal) - end_a, dot(edge_a, edge_b)
    along = (dot(offset, edge_a) - cos * dot(offset, edge_b)) / short.greater(1 - cos * cos, _PARALLEL)
    along, end_a, dist = keep((jnp.clip(along, -sides_a[0, 3], sides_a[0, 3]), end_a, short.max(gaps_a, 0)))
    return _Edges(dist, end_a + (edge_a * along + normal * (dist / 2)), normal)


def _corner(sides: jax.Array, towards: jax.Array) -> jax.Array:
    """From a box's centre to the middle of the first of these sides that is foremost in a direction."""
    signs = _sign(_dot(sides[1:, :3], towards, 1)) * sides[1:, 3]
    return dot(sides[1:, :3], signs[:, None])


def _common_corners(seen: jax.Array, halves: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The corners of a face, drawn into a rectangle and back into the face by turns, [4, ...] twice.

    What was drawn into one of them may lie beside the other.

    Args:
      seen: along the rectangle's two directions, the face's middle and its half-sides p and q, [2, 3, ...].
      halves: the rectangle's own, [2, ...].
    """
    (centre_u, p_u, q_u), (centre_v, p_v, q_v) = seen
    area = p_u * q_v - p_v * q_u

    def draw(share_p, share_q):
        x, y = centre_u + share_p * p_u + share_q * q_u, centre_v + share_p * p_v + share_q * q_v
        return jnp.clip(x, -halves[0], halves[0]), jnp.clip(y, -halves[1], halves[1])

    x, y = draw(*_CORNERS.T.reshape(2, -1, *[1] * area.ndim))
    for _ in range(2):
        x, y = x - centre_u, y - centre_v
        x, y = draw(*(jnp.clip(area_of / area, -1, 1) for area_of in (x * q_v - y * q_u, y * p_u - x * p_v)))
    return x, y


def _dot(x: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """`dot` of vectors that lie along any axis."""
    return short.sum(x * y, axis)


def _sign(x: jax.Array) -> jax.Array:
    return jnp.where(x < 0, -1.0, 1.0)


def _from_axis(sides: jax.Array, scores: jax.Array) -> jax.Array:
    """Of a box's sides that with the highest score [3, ...], then the two after it, [3, 4, ...]."""
    x, y, z = scores
    first = (x >= y) & (x >= z)
    second = ~first & (y >= z)
    return jnp.where(first, sides[:3], jnp.where(second, sides[1:4], sides[2:]))
