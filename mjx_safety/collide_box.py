"""Where boxes in any pose meet balls, capsules, wheels and other boxes.

Vectors are lists of three arrays (see `spatial`), world axes; shapes broadcast. Normals point into the box.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mjx_safety.collide import Solid
from mjx_safety.spatial import Vec, add, cross, dot, keep, norm, scale

_APART = 1.0  # metres: the distance of candidates that are none
_CLEARLY = 1e-6  # metres: by so much more than float32's rounding
_PARALLEL = 1e-4  # square of the sine of the angle below which edges do not cross


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
    return [first, second._replace(dist=jnp.where(distinct, second.dist, _APART))]


def wheel(centre: Vec, axle: Vec, radius: Any, half_width: Any) -> Solid:
    """The box that stands for a wheel on a level axle: its outline seen from above, and half its height."""
    side = [-axle[1], axle[0], 0.0 * axle[2]]
    side = scale(side, 1 / norm(side))
    return Solid("box", centre, [axle, side, cross(axle, side)], [half_width, radius, radius / 2])


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
    return Candidates(jnp.where(low < high, dist, _APART), pos, normal)


def box(a: Solid, b: Solid) -> list[Candidates]:
    """Box a against box b, four candidates, normals into b.

    Where a face overlaps least it is the reference; the corners of the other's facing face are drawn into its outline.
    These are corners of the clipped face where the edges of both run alike as seen along the normal, as they do when
    both stand upright. Where two edges overlap least, they touch where they cross.
    """
    between = add(b.pos, scale(a.pos, -1.0))
    relative = [[dot(x, y) for y in b.axes] for x in a.axes]
    gaps_a = [
        jnp.abs(dot(axis, between)) - half - dot(list(map(jnp.abs, row)), b.size)
        for axis, half, row in zip(a.axes, a.size, relative, strict=True)
    ]
    gaps_b = [
        jnp.abs(dot(axis, between)) - half - dot([jnp.abs(row[j]) for row in relative], a.size)
        for j, (axis, half) in enumerate(zip(b.axes, b.size, strict=True))
    ]
    relative, gaps_a, gaps_b = keep((relative, gaps_a, gaps_b))
    edges = _edges(a, b, between, relative)
    faces_a, faces_b = _most(gaps_a), _most(gaps_b)
    faces = _most([faces_a, faces_b])
    crossed = edges.dist > faces + _CLEARLY
    apart = _most([faces, edges.dist]) > 0
    on_a = faces_a >= faces_b
    sides = a[1:], b[1:]  # place, axes, half-sizes
    ref, inc = (Solid("box", *jax.tree.map(lambda x, y: jnp.where(on_a, x, y), *pair)) for pair in (sides, sides[::-1]))
    gaps = jax.tree.map(lambda x, y: jnp.where(on_a, x, y), gaps_a, gaps_b)
    ref, inc, gaps = keep((ref[1:], inc[1:], gaps))
    ref, inc = Solid("box", *ref), Solid("box", *inc)

    between = add(inc.pos, scale(ref.pos, -1.0))
    (normal, depth), (u, wide), (v, high) = _from_axis(ref, gaps)
    normal = scale(normal, _sign(dot(normal, between)))
    (face, thick), (p, p_half), (q, q_half) = _from_axis(inc, [jnp.abs(x) for x in into(inc, normal)])
    face = scale(face, -_sign(dot(face, normal)))
    normal, depth, u, wide, v, high, face, p, q = keep(
        (normal, depth, u, wide, v, high, face, scale(p, p_half), scale(q, q_half))
    )
    middle = add(between, scale(face, thick))

    # Along the normal, the middle of the other's face and its half-sides p and q, as seen on the reference.
    seen = keep([(dot(middle, edge), dot(p, edge), dot(q, edge), half) for edge, half in ((u, wide), (v, high))])
    for centre, along_p, along_q, half in seen:
        apart = apart | (jnp.abs(centre) >= half + jnp.abs(along_p) + jnp.abs(along_q))
    at = _common_corners(*seen)
    across, rise_u, rise_v = dot(middle, face), dot(u, face), dot(v, face)
    slope = dot(normal, face)
    apart, at, across, rise_u, rise_v, slope = keep((apart, at, across, rise_u, rise_v, slope))
    towards_b = scale(normal, jnp.where(on_a, 1.0, -1.0))
    found = []
    for x, y in at:
        # Where the line along the normal meets the plane of the other's face.
        dist = (across - x * rise_u - y * rise_v) / slope - depth
        level = scale(normal, depth + dist / 2)
        pos = add(add(ref.pos, level), add(scale(u, x), scale(v, y)))
        found.append(Candidates(jnp.where(apart | crossed, _APART, dist), pos, towards_b))
    found[0] = jax.tree.map(lambda x, y: jnp.where(crossed, x, y), edges, found[0])
    return found


def _common_corners(seen_u: tuple, seen_v: tuple) -> list[tuple[jax.Array, jax.Array]]:
    """The corners of a face, drawn into a rectangle and back into the face by turns.

    What was drawn into one of them may lie beside the other.

    Args:
      seen_u: along the rectangle's first direction, the face's middle and half-sides and the rectangle's own half-side.
      seen_v: along the second one.
    """
    (centre_u, p_u, q_u, wide), (centre_v, p_v, q_v, high) = seen_u, seen_v
    area = p_u * q_v - p_v * q_u

    def draw(share_p, share_q):
        x, y = centre_u + share_p * p_u + share_q * q_u, centre_v + share_p * p_v + share_q * q_v
        return jnp.clip(x, -wide, wide), jnp.clip(y, -high, high)

    at = []
    for corner in itertools.product((-1.0, 1.0), repeat=2):
        x, y = draw(*corner)
        for _ in range(2):
            x, y = x - centre_u, y - centre_v
            x, y = draw(*(jnp.clip(area_of / area, -1, 1) for area_of in (x * q_v - y * q_u, y * p_u - x * p_v)))
        at.append((x, y))
    return at


def _edges(a: Solid, b: Solid, between: Vec, relative: list) -> Candidates:
    """Where the edges that overlap least cross."""
    local = into(a, between)
    gaps = []
    for i in range(3):
        i1, i2 = (i + 1) % 3, (i + 2) % 3
        gaps.append([])
        for j in range(3):
            j1, j2 = (j + 1) % 3, (j + 2) % 3
            square = relative[i][j1] ** 2 + relative[i][j2] ** 2  # of the sine between them
            overlap = (
                a.size[i1] * jnp.abs(relative[i2][j])
                + a.size[i2] * jnp.abs(relative[i1][j])
                + b.size[j1] * jnp.abs(relative[i][j2])
                + b.size[j2] * jnp.abs(relative[i][j1])
            )
            away = jnp.abs(local[i2] * relative[i1][j] - local[i1] * relative[i2][j])
            gap = (away - overlap) * jax.lax.rsqrt(jnp.maximum(square, _PARALLEL))
            gaps[i].append(jnp.where(square > _PARALLEL, gap, -jnp.inf))
    gaps = keep(gaps)
    gaps_a = list(map(_most, gaps))
    (edge_a, half_a), *sides_a = _from_axis(a, gaps_a)
    (edge_b, _), *sides_b = _from_axis(b, [_most([row[j] for row in gaps]) for j in range(3)])
    edge_a, edge_b, half_a, sides_a, sides_b = keep((edge_a, edge_b, half_a, sides_a, sides_b))
    normal = cross(edge_a, edge_b)
    normal = scale(normal, _sign(dot(normal, between)) / norm(normal))
    ends = []
    for solid, sign, sides in ((a, 1.0, sides_a), (b, -1.0, sides_b)):
        out = [scale(axis, sign * _sign(dot(axis, normal)) * half) for axis, half in sides]
        ends.append(functools.reduce(add, out, solid.pos))
    offset, cos = add(ends[1], scale(ends[0], -1.0)), dot(edge_a, edge_b)
    along = (dot(offset, edge_a) - cos * dot(offset, edge_b)) / jnp.maximum(1 - cos * cos, _PARALLEL)
    dist = _most(gaps_a)
    pos = add(ends[0], add(scale(edge_a, jnp.clip(along, -half_a, half_a)), scale(normal, dist / 2)))
    return Candidates(dist, pos, normal)


def _sign(x: jax.Array) -> jax.Array:
    return jnp.where(x < 0, -1.0, 1.0)


def _from_axis(solid: Solid, scores: list) -> list[tuple[Vec, jax.Array]]:
    """The axis of the highest score and its half-size, then those of the next two."""
    x, y, z = scores
    first = (x >= y) & (x >= z)
    second = ~first & (y >= z)
    out = []
    for shift in range(3):
        i, j, k = ((n + shift) % 3 for n in range(3))
        pick = functools.partial(_pick, first, second)
        axes = solid.axes
        out.append((list(map(pick, axes[i], axes[j], axes[k])), pick(solid.size[i], solid.size[j], solid.size[k])))
    return out


def _pick(first, second, x, y, z):
    return jnp.where(first, x, jnp.where(second, y, z))
