"""Where a robot's shapes meet the floor and upright things that stand still.

Vectors are lists of three arrays (see `spatial`), in any frame that has a vector `up`. All functions are written for
arrays of alike shapes, first axis the shapes, and give contacts from the obstacle into the robot.

Spheres and capsules are exact. Boxes and cylinders are exact against the floor and against spheres; against pillars
and walls a box or a lying cylinder stands for its outline seen from above, a rectangle, which is right while it leans
by a few degrees.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mjx_safety.spatial import Vec, add, cross, dot, norm, scale

_TINY = 1e-6


class Solid(NamedTuple):
    """Shapes of one kind.

    Attributes:
      kind: "sphere", "capsule", "cylinder" or "box".
      pos: centres.
      axes: their x, y and z axes, three vectors.
      size: as in MuJoCo, three arrays.
    """

    kind: str
    pos: Vec
    axes: list
    size: list


class Candidates(NamedTuple):
    """Possible contacts.

    Attributes:
      dist: signed distance, metres.
      pos: where.
      normal: unit vector into the robot.
      tangent: first direction of friction; the second one is `cross(normal, tangent)`.
    """

    dist: jax.Array
    pos: Vec
    normal: Vec
    tangent: Vec


def _unit(vec: Vec) -> Vec:
    return scale(vec, 1 / norm(vec))


def _flat(vec: Vec, up: Vec) -> Vec:
    """The part across `up`."""
    return add(vec, scale(up, -dot(vec, up)))


def deepest(candidates: list[Candidates], num: int) -> list[Candidates]:
    """The deepest of alike candidates, element by element."""
    kept: list[Candidates] = []
    for new in candidates:
        for i, old in enumerate(kept):
            deeper = new.dist < old.dist
            kept[i] = jax.tree.map(lambda x, y, deeper=deeper: jnp.where(deeper, x, y), new, old)
            new = jax.tree.map(lambda x, y, deeper=deeper: jnp.where(deeper, y, x), new, old)
        if len(kept) < num:
            kept.append(new)
    return kept


def tangent(normal: Vec, axes: Vec) -> Vec:
    """MuJoCo's first direction of friction: the world's y axis, or z where the normal is close to y, made orthogonal.

    Args:
      normal: of the contact.
      axes: the world's x, y and z axes, three vectors.
    """
    _, side, up = axes
    helper = [jnp.where(jnp.abs(dot(normal, side)) < 0.5, y, z) for y, z in zip(side, up, strict=True)]
    return _unit(_flat(helper, normal))


def floor(solid: Solid, height: jax.Array, axes: Vec) -> list[Candidates]:
    """Contacts with the floor.

    A cylinder has the lowest points of its two rims; MuJoCo's third and fourth point, which carry one that stands on
    its end, are left out. Boxes have none: a robot's chassis is off the floor.

    Args:
      solid: shapes.
      height: of the frame's origin above the floor, metres.
      axes: the world's axes.
    """
    _, side, up = axes
    radius = solid.size[0]
    if solid.kind == "sphere":
        low, along = [solid.pos], side
    elif solid.kind == "capsule":
        low = [add(solid.pos, scale(solid.axes[2], sign * solid.size[1])) for sign in (1, -1)]
        along = _unit(_flat(solid.axes[2], up))
    elif solid.kind == "cylinder":
        # From the centre of the disc to the lowest point of its rim.
        steepest = _flat(up, solid.axes[2])
        rim = [s * (-radius) / norm(steepest) + u * radius for s, u in zip(steepest, up, strict=True)]
        low = [add(add(solid.pos, rim), scale(solid.axes[2], sign * solid.size[1])) for sign in (1, -1)]
        along = side
    else:
        return []
    found = []
    for point in low:
        dist = height + dot(point, up) - radius
        pos = add(point, scale(up, -(radius + dist / 2)))
        found.append(_candidates(dist, pos, up, along))
    return found


def _candidates(dist, pos, normal, along) -> Candidates:
    spread = [jnp.broadcast_to(x, dist.shape) for x in (*pos, *normal, *along)]
    return Candidates(dist, spread[:3], spread[3:6], spread[6:])


def obstacle(solid: Solid, kind: str, size: tuple[float, ...], at: Vec, axes: Vec) -> list[Candidates]:
    """Contacts with upright things, all of a kind; the arrays of `at` broadcast against those of the shapes.

    Args:
      solid: shapes.
      kind: of the things: "cylinder", "sphere" or "box".
      size: of the things.
      at: their centres.
      axes: the world's axes.
    """
    up = axes[2]
    if kind == "sphere":
        found = [_point(solid, at, size[0])]
    elif kind == "cylinder":
        found = [_pillar(solid, at, size[0], up)]
    else:
        found = _wall(solid, at, size, axes)
    return [_candidates(dist, pos, normal, tangent(normal, axes)) for dist, pos, normal in found]


def _point(solid: Solid, at: Vec, radius: float):
    """Against spheres: the point of the shape closest to their centre."""
    offset = add(at, scale(solid.pos, -1.0))
    local = [dot(axis, offset) for axis in solid.axes]
    if solid.kind == "sphere":
        closest, skin = [0.0 * x for x in local], solid.size[0]
    elif solid.kind == "capsule":
        reach = solid.size[1]
        closest, skin = [0.0 * local[0], 0.0 * local[1], jnp.clip(local[2], -reach, reach)], solid.size[0]
    elif solid.kind == "cylinder":
        across = norm([*local[:2], 0.0 * local[0]])
        keep = jnp.minimum(1.0, solid.size[0] / across)
        reach = solid.size[1]
        closest, skin = [local[0] * keep, local[1] * keep, jnp.clip(local[2], -reach, reach)], 0.0
    else:
        closest, skin = [jnp.clip(x, -half, half) for x, half in zip(local, solid.size, strict=True)], 0.0
    point = solid.pos
    for axis, length in zip(solid.axes, closest, strict=True):
        point = add(point, scale(axis, length))
    gap = add(point, scale(at, -1.0))
    far = norm(gap)
    normal = scale(gap, 1 / far)
    dist = far - radius - skin
    return dist, add(at, scale(normal, radius + dist / 2)), normal


def _pillar(solid: Solid, at: Vec, radius: float, up: Vec):
    """Against upright cylinders that are taller than the robot."""
    if solid.kind in ("sphere", "capsule"):
        point = solid.pos
        if solid.kind == "capsule":
            along = _flat(solid.axes[2], up)
            offset = _flat(add(at, scale(point, -1.0)), up)
            where = dot(offset, along) / jnp.maximum(dot(along, along), _TINY)
            point = add(point, scale(solid.axes[2], jnp.clip(where, -solid.size[1], solid.size[1])))
        skin = solid.size[0]
    else:
        point, skin = _outline_point(solid, at, up), 0.0
    gap = _flat(add(point, scale(at, -1.0)), up)
    far = norm(gap)
    normal = scale(gap, 1 / far)
    dist = far - radius - skin
    return dist, add(point, scale(normal, -(skin + dist / 2))), normal


def _outline(solid: Solid, up: Vec) -> tuple[Vec, Vec, jax.Array, jax.Array]:
    """A box or a lying cylinder seen from above: a rectangle's level directions and half-sizes.

    The discs of a cylinder that leans bulge over the rectangle's short sides, see `_outline_point`.
    """
    lying = solid.kind == "cylinder"
    first = _unit(_flat(solid.axes[2 if lying else 0], up))
    second = cross(up, first)
    if lying:
        radius, length, _ = solid.size
        return first, second, length * dot(solid.axes[2], first), radius + 0.0 * first[0]
    halves = [dot(solid.size, [jnp.abs(dot(axis, level)) for axis in solid.axes]) for level in (first, second)]
    return first, second, *halves


def _outline_point(solid: Solid, at: Vec, up: Vec) -> Vec:
    """Point of the outline closest to a vertical line, at the height where a leaning shape reaches out farthest."""
    first, second, long, wide = _outline(solid, up)
    offset = add(at, scale(solid.pos, -1.0))
    ahead, aside = dot(offset, first), dot(offset, second)
    x, y = jnp.clip(ahead, -long, long), jnp.clip(aside, -wide, wide)
    if solid.kind == "cylinder":
        # The disc of a cylinder that leans is an ellipse from above: towards a corner, the closest of three points.
        lean = jnp.abs(dot(solid.axes[2], up))
        square = (ahead - x) ** 2 + (aside - y) ** 2
        for share in (1.0, 0.98, 0.9):
            side = jnp.clip(aside, -share * wide, share * wide)
            reach = long + lean * jnp.sqrt(jnp.maximum(wide**2 - side**2, 0.0))
            end = jnp.clip(ahead, -reach, reach)
            new = (ahead - end) ** 2 + (aside - side) ** 2
            x, y = jnp.where(new < square, end, x), jnp.where(new < square, side, y)
            square = jnp.minimum(new, square)
    toward = add(scale(first, ahead - x), scale(second, aside - y))
    if solid.kind == "cylinder":
        axis = solid.axes[2]
        room = jnp.sqrt(jnp.maximum(solid.size[0] ** 2 - y**2, 0.0))
        height = -room * jnp.sign(dot(axis, up) * dot(axis, toward))
    else:
        height = solid.size[2] * jnp.sign(dot(solid.axes[2], toward))
    return add(add(solid.pos, scale(up, height)), add(scale(first, x), scale(second, y)))


def _wall(solid: Solid, at: Vec, size: tuple[float, ...], axes: Vec):
    """Against boxes aligned with the world: points of the shape against the box. Edges of the box are left out."""
    if solid.kind == "sphere":
        points, skin = [solid.pos], solid.size[0]
    elif solid.kind == "capsule":
        points = [add(solid.pos, scale(solid.axes[2], sign * solid.size[1])) for sign in (1, -1)]
        skin = solid.size[0]
    else:
        first, second, long, wide = _outline(solid, axes[2])
        points = [
            add(solid.pos, add(scale(first, a * long), scale(second, b * wide))) for a in (1, -1) for b in (1, -1)
        ]
        skin = 0.0
    found = []
    for point in points:
        offset = add(point, scale(at, -1.0))
        local = [dot(offset, axis) for axis in axes[:2]]
        # Inside, the closest side pushes; outside, the closest point of the box does.
        depth = [jnp.abs(x) - half for x, half in zip(local, size[:2], strict=True)]
        beyond = [jnp.maximum(d, 0.0) for d in depth]
        inside = jnp.maximum(*depth) < 0
        toward = [jnp.where(inside, jnp.where(depth[i] >= depth[1 - i], 1.0, 0.0), beyond[i]) for i in range(2)]
        length = jnp.maximum(jnp.sqrt(toward[0] ** 2 + toward[1] ** 2), _TINY)
        far = jnp.where(inside, jnp.maximum(*depth), length)
        sides = [jnp.sign(x) * t / length for x, t in zip(local, toward, strict=True)]
        normal = add(scale(axes[0], sides[0]), scale(axes[1], sides[1]))
        dist = far - skin
        found.append((dist, add(point, scale(normal, -(skin + dist / 2))), normal))
    return found
