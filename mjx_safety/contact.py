"""MuJoCo's soft contacts, written for a batch: what touches, where, and what the constraint asks for.

All things keep MuJoCo's default contact parameters, as in Safety Gym: solref (0.02, 1), solimp (0.9, 0.95, 0.001, 0.5,
2), no margin, condim 6 with the pyramidal cone. A contact then has ten edges, n +- mu_i d_i, where n is the normal and
d_i are two sliding, one turning and two rolling directions; each edge is a one-sided spring-damper on the acceleration
(MuJoCo's documentation, "Computation", sections "Constraint model" and "Solver parameters").
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mjx_safety.spatial import dot, keep

FRICTION = (1.0, 1.0, 0.005, 0.0001, 0.0001)  # sliding twice, turning, rolling twice
_TIMECONST, _DAMPRATIO = 0.02, 1.0
_DMIN, _DMAX, _WIDTH = 0.9, 0.95, 0.001
EDGES = 10  # of the pyramid


class Shape(NamedTuple):
    """A convex part of the robot, fixed in the frame of one of its bodies."""

    kind: str  # "sphere", "capsule", "cylinder" or "box"
    body: int  # index into `Frames`
    pos: tuple[float, float, float]
    quat: tuple[float, float, float, float]
    size: tuple[float, float, float]  # as in MuJoCo: radius; radius and half-length; half-sizes


class Frames(NamedTuple):
    """The robot's bodies in the world, leading axis the bodies; the first one is the root.

    Attributes:
      pos: float32 [bodies, 3], origins, metres.
      mat: float32 [bodies, 3, 3], rotations to the world.
      linvel: float32 [bodies, 3], velocities of the origins, m/s.
      angvel: float32 [bodies, 3], rad/s, world axes.
    """

    pos: jax.Array
    mat: jax.Array
    linvel: jax.Array
    angvel: jax.Array


class Reach(NamedTuple):
    """Balls that hold the robot all along a step in which nothing touches it.

    Attributes:
      centres: float32 [balls, 3], metres.
      radii: float32 [balls], metres.
    """

    centres: jax.Array
    radii: jax.Array


class Forces(NamedTuple):
    """What the robot feels at a state.

    Attributes:
      qacc: float32 [nv], joint accelerations, MuJoCo's `qacc`.
      touch: float32 [sensors], normal force of the contacts in each touch sensor, newtons.
    """

    qacc: jax.Array
    touch: jax.Array


class Obstacle(NamedTuple):
    """A kind of thing that stands still and collides: all of a kind are alike and upright, with a yaw of 0."""

    kind: str  # "cylinder", "sphere" or "box"
    size: tuple[float, float, float]  # as in MuJoCo
    height: float  # of the centre, metres

    @property
    def radius(self) -> float:
        """Of the circle that holds it, seen from above, metres."""
        return math.hypot(self.size[0], self.size[1]) if self.kind == "box" else self.size[0]


def impedance(violation: jax.Array) -> jax.Array:
    """MuJoCo's impedance d(r) of a constraint violated by `violation`, metres or radians [...]."""
    depth = jnp.minimum(jnp.abs(violation) / _WIDTH, 1.0)
    rise = jnp.where(depth < 0.5, 2 * depth**2, 1 - 2 * (1 - depth) ** 2)
    return _DMIN + rise * (_DMAX - _DMIN)


def spring(dt: float, timeconst: float = _TIMECONST, dampratio: float = _DAMPRATIO) -> tuple[float, float]:
    """Stiffness k (1/s^2) and damping b (1/s) of MuJoCo's reference acceleration -b v - k d(r) r."""
    timeconst = max(timeconst, 2 * dt)
    return 1 / (_DMAX * timeconst * dampratio) ** 2, 2 / (_DMAX * timeconst)


def edge_stiffness(dist: jax.Array, weight: jax.Array | float) -> jax.Array:
    """MuJoCo's D of each edge of the friction pyramid, kg-like [...]; 0 where nothing touches.

    Args:
      dist: signed distance [...], metres.
      weight: sum of the two bodies' translational `body_invweight0`, 1/kg.
    """
    slide = FRICTION[0]
    imp = impedance(dist)
    regularisation = 2 * slide**2 * (1 + slide**2) * weight * (1 - imp) / imp
    return jnp.where(dist < 0, 1 / regularisation, 0.0)


def edges(along: Any, stiffness: jax.Array, friction: Any) -> tuple:
    """What the edges of a contact's friction pyramid do.

    Args:
      along: accelerations beyond the reference along the normal and the directions of friction that are solved for,
        1 + frictions arrays; edges in other directions count as straight ones.
      stiffness: D of each edge, an array like those.
      friction: coefficients, one for each of those directions.

    Returns:
      Forces along the directions, 1 + frictions arrays, and how they fall with the accelerations: the normal's own, an
      array, and by friction what couples it to the normal and its own, arrays each.
    """
    normal, *others = along
    steep = jnp.where(normal < 0, (EDGES - 2 * len(others)) * stiffness, 0.0)
    mixed, own = [], []
    for coefficient, other in zip(friction, others, strict=True):
        slide = coefficient * other
        plus, minus = (jnp.where(x < 0, stiffness, 0.0) for x in (normal + slide, normal - slide))
        both = plus + minus
        steep = steep + both
        mixed.append(coefficient * (plus - minus))
        own.append(coefficient**2 * both)
    steep, mixed, own = keep((steep, mixed, own))
    return [-x for x in stiffen(along, steep, mixed, own)], steep, mixed, own


def stiffen(along: Any, steep: jax.Array, mixed: list, own: list) -> list:
    """How much forces along directions fall with accelerations along them: a term for each direction.

    Args:
      along: accelerations along the normal and the directions of friction, or how these grow with others.
      steep, mixed, own: how forces fall, as `edges` tells.
    """
    normal, *others = along
    across = [m * normal + o * other for m, o, other in zip(mixed, own, others, strict=True)]
    return [dot([steep, *mixed], along), *across]
