"""A robot that slides and turns on the plane: the Point.

It has three degrees of freedom and no floor: its sphere touches the plane at distance 0, which MuJoCo leaves out of the
constraints. Free, it is a rigid body with an off-centre mass, viscous damping, a thrust and a servo on its heading:
written out, a physics step is some forty multiplications, and the result is MuJoCo's to float32 rounding. Among
obstacles, Newton's method finds the accelerations, see `newton`. Private methods have environments last, see `spatial`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from mjx_safety import collide, contact, geometry, newton, scene, short, spatial
from mjx_safety.angles import cos_sin, turned
from mjx_safety.collide import Candidates, Solid
from mjx_safety.contact import Forces, Frames, Obstacle, Reach
from mjx_safety.spatial import dot, keep, keep_on_cpu

ITERATIONS = 8  # Newton steps of a physics step among obstacles
COAST_BLOCK = 1024  # environments at a time on a CPU where nothing is about: as many as fit the cache
_AXES = [[np.float32(i == j) for j in range(3)] for i in range(3)]  # the world's


class PlanarBody:
    """A body on two world slides and a vertical hinge, with a thruster and a heading servo.

    Args:
      model: the robot alone; `qpos` is x, y, yaw.
      obstacles: kinds of things that stand about.
    """

    def __init__(self, model: mujoco.MjModel, obstacles: tuple[Obstacle, ...] = ()):
        joints = [mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE]
        if list(model.jnt_type) != joints or model.nu != 2 or model.dof_damping[0] != model.dof_damping[1]:
            raise ValueError("A planar robot has slides x and y with equal damping, a hinge z, a thruster and a servo.")
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        matrix = np.zeros((3, 3))
        mujoco.mj_fullM(model, data, matrix)
        self.timestep, self.action_size = float(model.opt.timestep), model.nu
        self.nq, self.nv = model.nq, model.nv
        self.shapes = scene.shapes(model)
        self._obstacles = obstacles
        self._balls = model.geom_pos.astype(np.float32), model.geom_rbound.astype(np.float32)  # round the shapes
        # MuJoCo takes the larger coefficient of two geoms; the Point's sphere has more than the default.
        self._rolling = np.maximum(model.geom_friction[:, 2], contact.FRICTION[4]).astype(np.float32).tolist()
        self._height = float(model.body_pos[1, 2])
        self._weight = float(model.body_invweight0[1, 0])
        self._mass = matrix[0, 0].item()
        self._coupling = matrix[1, 2].item()  # mass times the offset of its centre ahead of the origin
        self._inertia = matrix[2, 2].item()  # about the origin
        self._drag, self._turn_drag = model.dof_damping[0].item(), model.dof_damping[2].item()
        self._gear = tuple(model.actuator_gear[[0, 1], [0, 0]].tolist())
        self._servo_gain = model.actuator_gainprm[1, 0].item()  # per rad/s of error, before the gear
        self._force_limit = tuple(model.actuator_forcerange[:, 1].tolist())  # before the gear

    def frames(self, qpos: jax.Array, qvel: jax.Array) -> Frames:
        """Pose and velocity of the one body."""
        zero = jnp.zeros(())
        return Frames(
            pos=jnp.stack([qpos[0], qpos[1], zero + self._height])[None],
            mat=geometry.yaw_to_mat(qpos[2])[None],
            linvel=jnp.stack([qvel[0], qvel[1], zero])[None],
            angvel=jnp.stack([zero, zero, qvel[2]])[None],
        )

    def coast(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array, num_steps: int):
        """Physics steps under one command with nothing about.

        Args:
          qpos: float32 [3].
          qvel: float32 [3].
          ctrl: float32 [2].
          num_steps: how many.

        Returns:
          Joint positions and velocities [3] afterwards and the `Forces` there; and the `Reach` of a ball round each
          shape on the way.
        """
        whole = spatial.in_one_go(functools.partial(self._coast, num_steps))
        return spatial.lanes(whole, block=COAST_BLOCK)(qpos, qvel, ctrl)

    def _coast(self, num_steps, qpos, qvel, ctrl):
        qpos, qvel, heading = list(qpos), list(qvel), keep(cos_sin(qpos[2]))
        path = [qpos]
        for _ in range(num_steps):
            acc = self._free(heading, qvel, ctrl, None, implicit=self.timestep)
            qvel = keep_on_cpu([v + self.timestep * a for v, a in zip(qvel, acc, strict=True)])
            qpos = keep_on_cpu([x + self.timestep * v for x, v in zip(qpos, qvel, strict=True)])
            heading = keep(turned(heading, self.timestep * qvel[2]))  # 0.006 rad at the servo's full speed
            path.append(qpos)
        forces = Forces(jnp.stack(self._free(heading, qvel, ctrl, None)), jnp.zeros((0, len(qpos[0]))))
        return (jnp.stack(qpos), jnp.stack(qvel), forces), self._reach(path)

    def _reach(self, path: list) -> Reach:
        """Of a ball round each shape on a path of joint positions, lists of three [envs].

        From the middle of the path, a point of the robot is off by no more than half of the box that holds the path,
        and by half the range of its headings times its distance from the origin.
        """
        least, most = keep_on_cpu([
            [functools.reduce(op, x) for x in zip(*path, strict=True)] for op in (short.lesser, short.greater)
        ])  # fmt: skip
        x, y, yaw = ((low + high) / 2 for low, high in zip(least, most, strict=True))
        *half, turn = ((high - low) / 2 for low, high in zip(least, most, strict=True))
        way, (cos, sin) = keep((jnp.sqrt(dot(half, half)), cos_sin(yaw)))
        centres, radii = [], []
        for (ahead, left, up), radius in zip(*self._balls, strict=True):
            level = jnp.full_like(x, self._height + up)
            centres.append(jnp.stack([x + cos * ahead - sin * left, y + sin * ahead + cos * left, level]))
            radii.append(radius + way + np.hypot(ahead, left) * turn)
        return Reach(jnp.stack(centres), jnp.stack(radii))

    def roll(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array, num_steps: int, places: tuple):
        """Physics steps under one command, among obstacles.

        Args:
          qpos: float32 [3].
          qvel: float32 [3].
          ctrl: float32 [2].
          num_steps: how many.
          places: for each kind of obstacle float32 [num, 2], where they stand.

        Returns:
          Joint positions and velocities [num_steps + 1, 3], the first ones included, and `Forces` at the last state.
        """
        whole = spatial.in_one_go(functools.partial(self._roll, num_steps))
        return spatial.lanes(whole)(qpos, qvel, ctrl, places)

    def _roll(self, num_steps: int, qpos, qvel, ctrl, places):
        def substep(carry, _):
            qpos, qvel, _ = carry
            acc = self._accelerations(qpos, qvel, ctrl, places, None)
            return (*self.integrate(qpos, qvel, acc), acc), (qpos, qvel)

        # The forces at the last state take a step more, whose outcome is thrown away: one traced forward pass.
        start = qpos, qvel, jnp.zeros_like(qvel)
        (*_, acc), (qpos, qvel) = jax.lax.scan(substep, start, length=num_steps + 1)
        return qpos, qvel, Forces(acc, jnp.zeros((0, qpos.shape[-1])))

    def advance(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array, places: tuple, push: jax.Array):
        """One physics step among obstacles.

        Args:
          qpos: float32 [3].
          qvel: float32 [3].
          ctrl: float32 [2].
          places: for each kind of obstacle float32 [num, 2], where they stand.
          push: float32 [6], force and torque about the robot's origin, world axes.

        Returns:
          Positions and velocities afterwards, and the true accelerations, damping not integrated: float32 [3].
        """
        return spatial.lanes(self._advance)(qpos, qvel, ctrl, places, push)

    @spatial.traced_once
    def _advance(self, qpos, qvel, ctrl, places, push):
        acc = self._accelerations(qpos, qvel, ctrl, places, push)
        return *self.integrate(qpos, qvel, acc), acc

    def integrate(self, qpos: jax.Array, qvel: jax.Array, acc: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Positions and velocities [3, ...] after a physics step with true accelerations [3, ...]."""
        # MuJoCo integrates the damping implicitly: (M + h B) x = M a, here solved for x - a.
        heading = cos_sin(qpos[2])
        drags = self._drag, self._drag, self._turn_drag
        resist = [-self.timestep * drag * a for drag, a in zip(drags, acc, strict=True)]
        change = self._divide(heading, [*_ahead(heading, resist), resist[2]], self.timestep)
        qvel = qvel + self.timestep * (acc + jnp.stack(change))
        return qpos + self.timestep * qvel, qvel

    def forces(self, qpos: jax.Array, qvel: jax.Array, ctrl: jax.Array, places: tuple, push: jax.Array) -> Forces:
        """What this very state feels; arguments as of `advance`."""
        return Forces(
            spatial.lanes(spatial.in_one_go(self._accelerations))(qpos, qvel, ctrl, places, push), jnp.zeros(0)
        )

    def touching(self, qpos: jax.Array, places: tuple) -> tuple[jax.Array, ...]:
        """The robot's contact points with each obstacle: for each kind float32 [num]."""
        return spatial.lanes(self._touching)(qpos, places)

    @spatial.traced_once
    def _touching(self, qpos, places):
        found = self._candidates(qpos, places)
        return tuple(sum(short.sum((c.dist < 0).astype(jnp.float32), 0) for c, _ in kind) for kind in found)

    def _divide(self, heading: tuple, force: list, implicit: float) -> list:
        """Accelerations, three [envs], that a force in the robot's frame gives, damping integrated over some seconds.

        It comes as its parts ahead, to the left and about the vertical.
        """
        # In the robot's frame the mass matrix is constant, and only y and yaw are coupled.
        mass, inertia = self._mass + implicit * self._drag, self._inertia + implicit * self._turn_drag
        det = mass * inertia - self._coupling**2
        forward, left, about = force
        turn = (mass * about - self._coupling * left) / det
        left = (inertia * left - self._coupling * about) / det
        forward = forward / mass
        cos, sin = heading
        return [cos * forward - sin * left, sin * forward + cos * left, turn]

    def _free(self, heading: tuple, qvel, ctrl, push, implicit: float = 0.0) -> list:
        """Accelerations, three [envs], without obstacles; with `implicit` 0 the true ones, else see `_divide`."""
        (ahead, about), (most, most_turn) = self._gear, self._force_limit
        along, across = _ahead(heading, qvel)
        turn = qvel[2]
        forward = ahead * jnp.clip(ctrl[0], -most, most) + self._coupling * turn * turn - self._drag * along
        servo = about * jnp.clip(self._servo_gain * (ctrl[1] - about * turn), -most_turn, most_turn)
        force = [forward, -self._drag * across, servo - self._turn_drag * turn]
        if push is not None:
            force = spatial.add(force, [*_ahead(heading, push), push[5]])
        return self._divide(heading, keep_on_cpu(force), implicit)

    def _candidates(self, qpos: jax.Array, places: tuple) -> list[list[tuple[Candidates, float]]]:
        """What may touch, for each kind of obstacle, arrays [1, num, envs], and the rolling friction there."""
        cos, sin = keep(cos_sin(qpos[2]))
        zero = jnp.zeros((1, 1, 1))
        axes = [[cos + zero, sin + zero, zero], [zero - sin, cos + zero, zero], [zero, zero, zero + 1]]
        kinds = []
        for thing, place in zip(self._obstacles, places, strict=True):
            at = [place[:, 0], place[:, 1], jnp.full_like(place[:, 0], thing.height)]
            kinds.append([])
            for shape, rolling in zip(self.shapes, self._rolling, strict=True):
                x, y, z = shape.pos
                pos = [qpos[0] + cos * x - sin * y, qpos[1] + sin * x + cos * y, zero + (self._height + z)]
                size = [jnp.full((1, 1, 1), half) for half in shape.size]
                solid = Solid(shape.kind, [value + zero for value in pos], axes, size)
                kinds[-1] += [(c, rolling) for c in collide.obstacle(solid, thing.kind, thing.size, at, _AXES)]
        return kinds

    @spatial.traced_once
    def _accelerations(self, qpos, qvel, ctrl, places, push) -> jax.Array:
        """True accelerations [3, envs] among obstacles."""
        system = self.system(qpos, qvel, ctrl, places, push)
        if system.contacts is None:
            return system.start
        return newton.minimise(lambda acc: newton.terms(system, acc).change(), system.start, ITERATIONS)

    def system(self, qpos, qvel, ctrl, places, push) -> newton.System:
        """What determines the true accelerations [3, envs]; arguments as of `advance`, environments last."""
        heading = keep(cos_sin(qpos[2]))
        free = jnp.stack(self._free(heading, qvel, ctrl, push))
        none = jnp.zeros_like(free[0])
        cos, sin = (self._coupling * x for x in heading)
        mass = [[none + self._mass, none, -sin], [none, none + self._mass, cos], [-sin, cos, none + self._inertia]]
        inertia, force = jnp.stack([jnp.stack(row) for row in mass]), jnp.stack([dot(row, list(free)) for row in mass])
        found = [(c, rolling) for kind in self._candidates(qpos, places) for c, rolling in kind if c.dist.size]
        if not found:
            return newton.System(inertia, force, free, None)
        touch = jax.tree.map(lambda *x: jnp.concatenate([y[0] for y in x]), *keep([c for c, _ in found]))
        rolling = jnp.concatenate([jnp.full(c.dist.shape[1:], x) for c, x in found])

        # The robot only sees the normal, the level direction of sliding and rolling about the vertical.
        nx, ny, _ = touch.normal
        x, y = touch.pos[0] - qpos[0], touch.pos[1] - qpos[1]
        flat = jnp.zeros_like(nx)
        directions = [[nx, ny, x * ny - y * nx], [-ny, nx, x * nx + y * ny], [flat, flat, flat + 1]]
        rows = jnp.stack([jnp.stack(row) for row in directions])
        spring, damping = contact.spring(self.timestep)
        rate = damping * short.sum(rows * qvel[:, None], 1)
        offset = jnp.concatenate([rate[:1] + spring * contact.impedance(touch.dist) * touch.dist, rate[1:]])
        stiffness = contact.edge_stiffness(touch.dist, self._weight)
        inertia, force, free, contacts = keep((inertia, force, free, (rows, offset, stiffness, rolling)))
        rows, offset, stiffness, rolling = (x.reshape(*x.shape[:-2], -1) for x in contacts)
        friction = np.float32(contact.FRICTION[0]), rolling
        return newton.System(inertia, force, free, newton.Contacts(rows, offset, stiffness, friction))


def _ahead(heading: tuple, vec: Any) -> tuple[jax.Array, jax.Array]:
    """A level vector's parts ahead and to the left of a robot with that cosine and sine."""
    cos, sin = heading
    return cos * vec[0] + sin * vec[1], cos * vec[1] - sin * vec[0]
