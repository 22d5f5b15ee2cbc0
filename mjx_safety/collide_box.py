"""Where boxes in any pose meet balls, capsules and pillars.

Vectors are lists of three arrays (see `spatial`), world axes; shapes broadcast. Normals point into the box.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mjx_safety.collide import Solid
from mjx_safety.spatial import Vec, add, dot, keep, norm, scale

APART = 1.0  # metres: the distance of candidates that are none


class Candidates(NamedTuple):
    """Possible contacts.

    Attributes:
      dist: signed distance, metres.
      pos: where.
      normal: unit vector into the box.
    """

    dist: jax.Array
    pos: Vec
    normal: Vec


def into(solid: Solid, vec: Vec) -> Vec:
    """A direction in the solid's axes."""
    return [dot(axis, vec) for axis in solid.axes]


def out_of(solid: Solid, local: Vec) -> Vec:
    """A direction in the world's axes, from the solid's."""
    return functools.reduce(add, map(scale, solid.axes, local))


def _from(solid: Solid, point: Vec) -> Vec:
    """A point in the solid's frame."""
    return into(solid, add(point, scale(solid.pos, -1.0)))


def _least(values: list) -> jax.Array:
    return functools.reduce(jnp.minimum, values)


def _most(values: list) -> jax.Array:
    return functools.reduce(jnp.maximum, values)


def ball(centre: Vec, radius: Any, box: Solid) -> Candidates:
    """A ball against a box."""
    local = _from(box, centre)
    beyond = [x - jnp.clip(x, -half, half) for x, half in zip(local, box.size, strict=True)]
    gap = jnp.sqrt(dot(beyond, beyond))
    # A centre inside the box leaves it through the nearest face.
    room = [half - jnp.abs(x) for x, half in zip(local, box.size, strict=True)]
    nearest = _least(room)
    inside, length = gap < 1e-9, jnp.maximum(gap, 1e-9)
    away = [
        jnp.where(inside, jnp.where(r == nearest, jnp.sign(x), 0.0), b / length)
        for r, x, b in zip(room, local, beyond, strict=True)
    ]
    normal = scale(out_of(box, away), -1.0)
    dist = jnp.where(inside, -nearest, gap) - radius
    return Candidates(dist, add(centre, scale(normal, radius + dist / 2)), normal)


def capsule(centre: Vec, axis: Vec, radius: Any, half_length: Any, box: Solid) -> list[Candidates]:
    """A capsule against a box, two candidates.

    One ball sits where the capsule's axis comes closest to the box, the other one as far along as the axis runs beside
    the box's face there.
    """
    local, along = _from(box, centre), into(box, axis)
    length = half_length + 0.0 * local[0]
    # Where the axis enters and leaves each face's span.
    safe = [jnp.where(jnp.abs(x) < 1e-6, 1e-6, x) for x in along]
    spans = [[(sign * half - x) / d for sign in (1, -1)] for x, half, d in zip(local, box.size, safe, strict=True)]

    # The squared distance's slope along the axis rises, in straight pieces between these knots.
    knots = [jnp.clip(knot, -length, length) for span in spans for knot in span] + [-length, length]
    low, high, slope_low, slope_high = -length, length, jnp.inf, jnp.inf
    for knot in knots:
        points = add(local, scale(along, knot))
        slope = dot(along, [x - jnp.clip(x, -half, half) for x, half in zip(points, box.size, strict=True)])
        low = jnp.where(slope <= 0, jnp.maximum(low, knot), low)
        high = jnp.where(slope >= 0, jnp.minimum(high, knot), high)
        slope_low = jnp.where(slope <= 0, jnp.minimum(slope_low, -slope), slope_low)
        slope_high = jnp.where(slope >= 0, jnp.minimum(slope_high, slope), slope_high)
    both = slope_low + slope_high
    share = jnp.where(both > 0, slope_low / both, 0.5)
    share = jnp.where(jnp.isinf(slope_low), 0.0, jnp.where(jnp.isinf(slope_high), 1.0, share))
    closest = keep(low + jnp.clip(share, 0.0, 1.0) * (high - low))
    first = ball(add(centre, scale(axis, closest)), radius, box)

    # Beside a face, the span of the axis that lies over it.
    facing = [jnp.abs(x) for x in into(box, first.normal)]
    most = _most(facing)
    over = [x < most for x in facing]
    enters = [jnp.where(o, jnp.minimum(*span), -jnp.inf) for o, span in zip(over, spans, strict=True)]
    leaves = [jnp.where(o, jnp.maximum(*span), jnp.inf) for o, span in zip(over, spans, strict=True)]
    enter, leave = jnp.maximum(_most(enters), -length), jnp.minimum(_least(leaves), length)
    far = jnp.where(jnp.abs(enter - closest) > jnp.abs(leave - closest), enter, leave)
    distinct = (jnp.abs(far - closest) > 1e-3) & (enter < leave)
    far, distinct = keep((far, distinct))
    second = ball(add(centre, scale(axis, far)), radius, box)
    return [first, second._replace(dist=jnp.where(distinct, second.dist, APART))]


def pillar(centre: Vec, radius: float, half_height: float, box: Solid) -> Candidates:
    """An upright cylinder against a box.

    MuJoCo finds one point, at the end of the common heights where the box leans against the cylinder.
    """
    reach = dot([jnp.abs(axis[2]) for axis in box.axes], box.size)
    low = jnp.maximum(box.pos[2] - reach, centre[2] - half_height)
    high = jnp.minimum(box.pos[2] + reach, centre[2] + half_height)
    touch = ball([*centre[:2], (low + high) / 2], radius, box)
    normal = [*touch.normal[:2], 0.0 * touch.normal[2]]
    normal = scale(normal, 1 / norm(normal))
    lean = dot(box.axes[2], normal)
    dist = touch.dist - jnp.abs(lean) * (high - low) / 2
    pos = [*touch.pos[:2], jnp.where(lean < 0, high, low)]
    return Candidates(jnp.where(low < high, dist, APART), pos, normal)
