"""Mechanics of rigid bodies for many environments at once, and how to lay it out for XLA.

A vector is a list of three arrays, a twist (motion) of six, angular part first, a wrench (force) of six, torque first,
a matrix a list of rows. The arrays broadcast; what is done to a batch is then nothing but elementwise arithmetic.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.xla_metadata import set_xla_metadata

from mjx_safety import short
from mjx_safety.angles import cos_sin
from mjx_safety.batching import batched

BLOCK = 128  # environments at a time on a CPU: a robot's arrays then fit the cache, and the vectors are long enough

Vec = list  # three arrays
Twist = list  # six arrays, angular part first; wrenches alike, torque first
Mat = list  # of rows
Columns = list  # of a symmetric matrix, from the diagonal down: n arrays [n - j, ...]
Inertia = tuple[Any, Vec, Mat]  # of a rigid body: mass, mass times centre, inertia about the origin


def cross(a: Vec, b: Vec) -> Vec:
    """Cross product."""
    return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]


def dot(a: Any, b: Any) -> Any:
    """Scalar product of lists, or of arrays, which count as lists along their first axis."""
    return sum((x * y for x, y in zip(a[1:], b[1:], strict=True)), a[0] * b[0])


def norm(vec: Vec) -> jax.Array:
    """Length, at least 1e-6."""
    return jnp.sqrt(jnp.maximum(dot(vec, vec), 1e-12))


def add(a: list, b: list) -> list:
    """Sum."""
    return [x + y for x, y in zip(a, b, strict=True)]


def scale(a: list, s: Any) -> list:
    """Product with a number."""
    return [x * s for x in a]


def apply(inertia: Inertia, twist: Twist) -> Twist:
    """Momentum of a rigid body."""
    mass, centre, about = inertia
    ang, lin = twist[:3], twist[3:]
    return [
        *add([dot(row, ang) for row in about], cross(centre, lin)),
        *[mass * v - c for v, c in zip(lin, cross(centre, ang), strict=True)],
    ]


def columns(inertia: Inertia) -> list[list]:
    """A rigid body's inertia as a 6x6 matrix: of each column what is not above the diagonal."""
    mass, (x, y, z), about = inertia
    none = jnp.zeros_like(x)
    skew = [[none, -z, y], [z, none, -x], [-y, x, none]]
    angular = [[*(about[i][j] for i in range(j, 3)), *skew[j]] for j in range(3)]
    return [*angular, *([mass, *[none] * (2 - j)] for j in range(3))]


def cross_motion(a: Twist, b: Twist) -> Twist:
    """Rate of change of the motion b that is carried along by a."""
    return [*cross(a[:3], b[:3]), *add(cross(a[:3], b[3:]), cross(a[3:], b[:3]))]


def cross_force(a: Twist, f: Twist) -> Twist:
    """Rate of change of the wrench f that is carried along by a."""
    return [*add(cross(a[:3], f[:3]), cross(a[3:], f[3:])), *cross(a[:3], f[3:])]


def turn(axis: Vec, angle: jax.Array) -> Mat:
    """Rotation matrix about constant unit axes."""
    cos, sin = cos_sin(angle)
    x, y, z = axis
    rest = 1 - cos
    return [
        [cos + x * x * rest, x * y * rest - z * sin, x * z * rest + y * sin],
        [y * x * rest + z * sin, cos + y * y * rest, y * z * rest - x * sin],
        [z * x * rest - y * sin, z * y * rest + x * sin, cos + z * z * rest],
    ]


def mul(a: Mat, b: Mat) -> Mat:
    """Product of 3x3 matrices."""
    return [[dot(a[i], [row[j] for row in b]) for j in range(3)] for i in range(3)]


def rotate(mat: Mat, vec: Vec) -> Vec:
    """`mat @ vec`."""
    return [dot(row, vec) for row in mat]


def back(mat: Mat, vec: Vec) -> Vec:
    """`mat.T @ vec`."""
    return [dot([row[i] for row in mat], vec) for i in range(3)]


def quat_mat(quat: list) -> Mat:
    """Rotation matrix of a unit quaternion, w first."""
    w, x, y, z = quat
    return [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]


def quat_mul(a: list, b: list) -> list:
    """Product of quaternions, w first."""
    w = a[0] * b[0] - dot(a[1:], b[1:])
    return [w, *add(add(scale(b[1:], a[0]), scale(a[1:], b[0])), cross(a[1:], b[1:]))]


def quat_integrate(quat: jax.Array, angvel: jax.Array, dt: float) -> jax.Array:
    """Turns a quaternion [4, ...] by `angvel` [3, ...] in its own frame for a time; the result is a unit."""
    turn = angvel * dt
    angle = jnp.sqrt(short.sum(turn * turn, 0) + 1e-30)
    c, s = cos_sin(angle / 2)
    x, y, z = turn * (s / angle)
    w0, x0, y0, z0 = quat
    new = jnp.stack([
        w0 * c - x0 * x - y0 * y - z0 * z,
        w0 * x + x0 * c + y0 * z - z0 * y,
        w0 * y - x0 * z + y0 * c + z0 * x,
        w0 * z + x0 * y - y0 * x + z0 * c,
    ])  # fmt: skip
    return new / jnp.sqrt(short.sum(new * new, 0))


def product(mat: Columns, vec: jax.Array) -> jax.Array:
    """A symmetric matrix times vectors [6, ...]."""
    rows = [[mat[min(i, j)][abs(i - j)] for j in range(len(mat))] for i in range(len(mat))]
    # Fused with what uses it, each number would first have to find out which row it is in.
    return keep(jnp.stack([dot(row, list(vec)) for row in rows]))


def lower(mat: Columns) -> Mat:
    """The lower triangle by rows, as `solve` wants it."""
    return [[mat[j][i - j] for j in range(i + 1)] for i in range(len(mat))]


def eliminate(felt: tuple[Columns, jax.Array], motion: jax.Array, torque, stiff):
    """Takes one degree of freedom out of a chain of bodies (articulated-body algorithm).

    Args:
      felt: inertia of what is behind the joint, and the wrench taken from it [6, ...].
      motion: [6, ...], of the joint.
      torque: of the joint.
      stiff: to add to the joint's inertia.

    Returns:
      What the body in front of the joint feels, as `felt`; and for the way back, how the joint's acceleration falls
      with the acceleration of the body in front, [6, ...], and the acceleration if that one is still.
    """
    inertia, wrench = felt
    column = product(inertia, motion)
    pivot = 1 / (short.sum(motion * column, 0) + stiff)
    rest = (torque - short.sum(motion * wrench, 0)) * pivot
    share, rest = keep((column * pivot, rest))
    left = [x - column[j:] * share[j] for j, x in enumerate(inertia)], wrench + column * rest
    return keep(left), (share, rest)


def solve(mat: Mat, vec: list) -> list:
    """Solves a positive definite system by LDL'.

    Args:
      mat: n by n; its lower triangle is enough.
      vec: n arrays; more axes in front than the matrix's are for several right sides.
    """
    n = len(vec)
    low: list[list[Any]] = [[None] * n for _ in range(n)]
    scaled: list[list[Any]] = [[None] * n for _ in range(n)]
    inv: list[Any] = [None] * n
    for j in range(n):
        diag = mat[j][j]
        for k in range(j):
            diag = diag - low[j][k] * scaled[j][k]
        inv[j] = 1 / diag
        for i in range(j + 1, n):
            entry = mat[i][j]
            for k in range(j):
                entry = entry - low[i][k] * scaled[j][k]
            scaled[i][j] = entry
            low[i][j] = entry * inv[j]
    out = list(vec)
    for i in range(n):
        for k in range(i):
            out[i] = out[i] - low[i][k] * out[k]
    out = [x * d for x, d in zip(out, inv, strict=True)]
    for i in reversed(range(n)):
        for k in range(i + 1, n):
            out[i] = out[i] - low[k][i] * out[k]
    return out


def lanes(fn: Callable[..., Any], block: int = BLOCK) -> Callable[..., Any]:
    """Makes a function of one environment from one of many, whose arrays have the environments as their last axis.

    Under `vmap`, nested or not, the function then sees all environments at once: the components of small vectors lie
    apart, and environments side by side, as the vector units of a CPU and the threads of a GPU want them. On a CPU it
    sees a block of them at a time, so that what it works with stays in the cache.

    Args:
      fn: pure function of arrays with the environments last.
      block: how many a CPU's function sees at most.
    """

    def work(args):
        out = fn(*jax.tree.map(lambda x: jnp.moveaxis(x, 0, -1), args))
        return jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), out)

    def many(*args):
        size = len(jax.tree.leaves(args)[0])
        num_blocks = -(-size // block) if jax.default_backend() == "cpu" else 1
        if num_blocks == 1:
            return work(args)
        spare = -size % num_blocks
        args = jax.tree.map(lambda x: jnp.concatenate([x, x[:spare]]), args)
        out = jax.lax.map(work, jax.tree.map(lambda x: x.reshape(num_blocks, len(x) // num_blocks, *x.shape[1:]), args))
        return jax.tree.map(lambda x: x.reshape(size + spare, *x.shape[2:])[:size], out)

    return batched(many)


def traced_once(method: Callable[..., Any], static: tuple[str, ...] = ()) -> Callable[..., Any]:
    """A method whose operations are recorded once per shape of its arguments instead of at every call.

    `vmap` and control flow around `lanes` call it anew for each of their layers, and throw most recordings away.

    Args:
      method: pure, given its object.
      static: its arguments that are numbers of Python.
    """
    return jax.jit(method, static_argnames=("self", *static))


def in_one_go(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which a CPU runs as one piece of machine code.

    XLA starts every fusion on its own there, half a microsecond each, which for a few environments takes longer than
    the arithmetic; it does not for a call that is marked so. What is in it must not sort, scatter or multiply matrices.

    XLA aborts the process over what the call is given and whose every use it folds away. Arguments are safe, as the
    call stores them and a barrier hides their numbers; arrays that `fn` closes over must be used whatever theirs are.
    """
    once = jax.jit(fn)  # traced once for all platforms

    def marked(*args):
        call = jax.jit(lambda *args: once(*_stored(args)))
        out = call(*jax.lax.optimization_barrier(args))
        return set_xla_metadata(out, inlineable="false", xla_cpu_small_call="true")

    return lambda *args: jax.lax.platform_dependent(*args, cpu=marked, default=once)


def all_in_one_go(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one environment that a CPU runs for all of a batch `in_one_go`, whose rules hold for all it calls.

    Args:
      fn: pure function of arrays; it must not close over traced values. Without `vmap` it sees a batch of one.
    """
    return batched(in_one_go(jax.vmap(fn)))


def keep(tree: Any, flat: bool = False) -> Any:
    """The same values, worked out once and stored.

    XLA fuses what is cheap into each of its users; where there are many, the same sum is done over and over, on CPUs
    by a factor of ten and more. On CPUs optimisation barriers are dropped before fusion; a call that is not inlined
    stands in for one there. Where JAX differentiates, it passes the values through, and nothing is stored.

    Args:
      tree: of arrays.
      flat: gives each of them as one axis. A `reshape` of what is kept would on CPUs be fused into its users, whose
        loops then work out by divisions where each number stands, and read one at a time.
    """

    def fenced(tree):
        return _same(jax.lax.optimization_barrier(tree), flat=flat)

    return jax.lax.platform_dependent(tree, cpu=functools.partial(_stored, flat=flat), default=fenced)


def keep_on_cpu(tree: Any, flat: bool = False) -> Any:
    """`keep` on CPUs alone, where it is loops that a store makes shorter or lets be vectorised."""
    store, default = (functools.partial(form, flat=flat) for form in (_stored, _same))
    return jax.lax.platform_dependent(tree, cpu=store, default=default)


@functools.partial(jax.jit, static_argnames="flat")
def _same(tree: Any, flat: bool) -> Any:
    return jax.tree.map(jnp.ravel, tree) if flat else tree


def _stored(tree: Any, flat: bool = False) -> Any:
    """`keep` on a CPU."""
    return set_xla_metadata(_same(tree, flat=flat), inlineable="false")
