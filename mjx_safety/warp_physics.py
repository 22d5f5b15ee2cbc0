"""The physics by MuJoCo Warp: one general model of the whole scene, for every robot and every kind of thing.

Our own physics solves what can touch, and no more. MuJoCo Warp solves every contact of every thing in every physics
step, with all of MuJoCo's terms, in kernels of NVIDIA's Warp: it costs more, and leaves out no kind of contact.
"""

import functools
from collections.abc import Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from mjx_safety import geometry, scene
from mjx_safety.batching import batched
from mjx_safety.boxes import Boxes, hover
from mjx_safety.contact import EDGES, Forces
from mjx_safety.objects import Objects
from mjx_safety.physics import Motion, Physics, PhysicsState
from mjx_safety.robots import Robot

# Room for contact points in one environment, half as much again as a heap of everything needs (test_warp.py). What is
# beyond Warp leaves out, and prints that it does.
_CONTACTS_OF_PART = 6  # of each box: on the floor it lies on four
_CONTACTS_OF_ROBOT = 40
_WELD_ROWS = 6


class WarpPhysics(Physics):
    """Steps one environment, or a batch of them in one go; states, arguments and results are those of `Physics`.

    Attributes:
      scene: MuJoCo's model of everything that collides.
      num_contacts: contact points of one environment for which there is room.
      num_rows: rows of constraints for which there is room.

    Raises:
      ImportError: Warp is not installed.
    """

    def __init__(self, robot: Robot, objects: Sequence[Objects], frame_skip: int, counted: Set[str]):
        super().__init__(robot, objects, frame_skip, counted)
        self._mjx = _import_mjx()
        kinds = [kind for kind in objects if kind.num and (kind.obstacle() or kind.boxes())]
        self.scene = _scene(robot, kinds, counted)
        self._model = self._mjx.put_model(self.scene, impl="warp")
        self._pushed = {kind.name: pushed for kind in kinds if (pushed := kind.boxes())}
        self._mocaps = {  # kinds of the scene's mocap bodies, in its order
            kind.name: kind.num for kind in kinds if kind.obstacle() or self._pushed[kind.name].travel is not None
        }
        self._contact_sensors = {
            kind.name: np.array([self.scene.sensor(f"{kind.name}{i}").adr[0] for i in range(kind.num)])
            for kind in kinds
            if kind.name in counted
        }
        self._touch_sensors = self.scene.sensor_adr[self.scene.sensor_type == mujoco.mjtSensor.mjSENS_TOUCH]
        parts = sum(kind.num * len(pushed.parts) for kind in kinds if (pushed := self._pushed.get(kind.name)))
        self.num_contacts = _CONTACTS_OF_PART * parts + _CONTACTS_OF_ROBOT
        self.num_rows = EDGES * self.num_contacts + _WELD_ROWS * self.scene.neq + int(self.scene.jnt_limited.sum())

    def _check_weights(self, robot: Robot, robot_mass: float) -> None:
        """Here all is solved at once, whatever it weighs."""

    def look(self, state: PhysicsState, ctrl: jax.Array, places: dict[str, jax.Array]) -> Motion:
        """What there is to tell of `state`, with all forces on the robot; arguments as of `Physics.look`."""
        return self._play(0, state, ctrl, places, jnp.int32(0))[1]

    def settle(self, state: PhysicsState) -> PhysicsState:
        """The state itself: here boxes rest on their contacts alone."""
        return state

    def step(
        self, state: PhysicsState, ctrl: jax.Array, places: dict[str, jax.Array], count: jax.Array | None = None
    ) -> tuple[PhysicsState, Motion]:
        """One environment step; arguments as of `Physics.step`."""
        count = jnp.int32(self._frame_skip) if count is None else count
        return self._play(self._frame_skip, state, ctrl, places, count)

    def _play(self, num_steps: int, *args: Any) -> tuple[PhysicsState, Motion]:
        """As many physics steps of one environment; a batch goes to Warp as one, for its contacts share their room."""

        def together(*args: Any) -> tuple[PhysicsState, Motion]:
            num_envs = len(jax.tree.leaves(args)[0])
            return jax.vmap(functools.partial(self._play_one, num_envs, num_steps))(*args)

        return batched(together)(*args)

    def _play_one(
        self,
        num_envs: int,
        num_steps: int,
        state: PhysicsState,
        ctrl: jax.Array,
        places: dict[str, jax.Array],
        count: jax.Array,
    ) -> tuple[PhysicsState, Motion]:
        """One of `num_envs` environments; of its `num_steps` physics steps `count` are taken, int32 []."""
        room = {"naconmax": num_envs * self.num_contacts, "njmax": self.num_rows}
        data = self._mjx.make_data(self.scene, impl="warp", **room)
        qpos, qvel = self._coordinates(state)
        data = data.replace(qpos=qpos, qvel=qvel, ctrl=ctrl, mocap_quat=self._mocap_quat(state))

        def substep(data: Any, index: jax.Array) -> tuple[Any, None]:
            after = self._mjx.step(self._model, self._led(data, state, places, index))
            qpos, qvel = (jnp.where(index < count, getattr(after, x), getattr(data, x)) for x in ("qpos", "qvel"))
            return after.replace(qpos=qpos, qvel=qvel), None

        data, _ = jax.lax.scan(substep, data, jnp.arange(num_steps, dtype=jnp.int32))
        data = self._mjx.forward(self._model, self._led(data, state, places, count))
        return self._state(data, state, self._later(state.time, count)), self._motion(data, state)

    def _coordinates(self, state: PhysicsState) -> tuple[jax.Array, jax.Array]:
        """Joint coordinates of the scene: the robot's, then those of what it pushes."""
        qpos, qvel = [state.qpos], [state.qvel]
        for name in self._pushed:
            boxes = state.boxes[name]
            spin = jax.vmap(geometry.rotate_back)(jax.vmap(geometry.quat_to_mat)(boxes.quat), boxes.angvel)
            qpos.append(jnp.concatenate([boxes.pos, boxes.quat], axis=1).ravel())
            qvel.append(jnp.concatenate([boxes.linvel, spin], axis=1).ravel())
        return jnp.concatenate(qpos), jnp.concatenate(qvel)

    def _state(self, data: Any, before: PhysicsState, time: jax.Array) -> PhysicsState:
        """The inverse of `_coordinates`."""
        nq, nv = before.qpos.size, before.qvel.size
        boxes, start = {}, 0
        for name in self._pushed:
            stop = start + len(before.boxes[name].pos)
            place = data.qpos[nq + 7 * start : nq + 7 * stop].reshape(-1, 7)
            rate = data.qvel[nv + 6 * start : nv + 6 * stop].reshape(-1, 6)
            pos, quat, linvel, spin = place[:, :3], place[:, 3:], rate[:, :3], rate[:, 3:]
            angvel = jax.vmap(geometry.rotate)(jax.vmap(geometry.quat_to_mat)(quat), spin)
            boxes[name] = Boxes(pos, quat, linvel, angvel)
            start = stop
        return PhysicsState(data.qpos[:nq], data.qvel[:nv], boxes, before.home, time)

    def _led(self, data: Any, state: PhysicsState, places: dict[str, jax.Array], index: jax.Array) -> Any:
        """Data with the mocap bodies where they are after `index` physics steps: obstacles, and targets of welds."""
        time, pos = self._later(state.time, index), {}
        for name, obstacle in self._obstacles.items():
            pos[name] = geometry.at_height(places[name], obstacle.height)
        for name, home in state.home.items():
            ahead = jnp.stack(self._boxes[name].on_circle(time))
            pos[name] = geometry.at_height(home[:, :2] + ahead, hover(self._pushed[name]))
        return data.replace(mocap_pos=jnp.concatenate([pos[name] for name in self._mocaps])) if pos else data

    def _mocap_quat(self, state: PhysicsState) -> jax.Array:
        """Obstacles stand with a yaw of 0; targets have the headings to which a weld turns what it leads."""
        yaw = [state.home[name][:, 2] if name in state.home else jnp.zeros(num) for name, num in self._mocaps.items()]
        return geometry.yaw_to_quat(jnp.concatenate([*yaw, jnp.zeros(0)]))

    def _motion(self, data: Any, state: PhysicsState) -> Motion:
        sensors = data.sensordata
        forces = Forces(data.qacc[: state.qvel.size], sensors[self._touch_sensors])
        return Motion(forces, {name: sensors[at] for name, at in self._contact_sensors.items()})


def _scene(robot: Robot, kinds: Sequence[Objects], counted: Set[str]) -> mujoco.MjModel:
    """The scene with what stands still on mocap bodies, to be placed; a sensor of its name counts the contact points of
    the robot with each thing of the counted kinds."""
    nowhere = {f"{kind.name}_pos": np.zeros((kind.num, 3)) for kind in kinds}
    upright = {f"{kind.name}_quat": np.tile([1.0, 0.0, 0.0, 0.0], (kind.num, 1)) for kind in kinds}
    spec = scene.scene_spec(robot, kinds, nowhere | upright)
    for kind in kinds:
        for i in range(kind.num):
            body = spec.body(f"{kind.name}{i}")
            body.mocap = kind.obstacle() is not None
            if kind.name not in counted:
                continue
            sensor = spec.add_sensor(name=body.name, type=mujoco.mjtSensor.mjSENS_CONTACT)
            sensor.objtype, sensor.objname = mujoco.mjtObj.mjOBJ_XBODY, "robot"
            sensor.reftype, sensor.refname = mujoco.mjtObj.mjOBJ_BODY, body.name
            sensor.intprm[:3] = 1 << int(mujoco.mjtConDataField.mjCONDATA_FOUND), 0, 1
    return spec.compile()


def _import_mjx() -> Any:
    try:
        import warp
        from mujoco import mjx
    except ImportError as error:
        raise ImportError(f"impl='warp' needs MuJoCo Warp ({error}): pip install -e '.[warp]'") from error
    warp.config.log_level = max(warp.config.log_level, warp.LOG_WARNING)  # else a line for each of forty kernels
    return mjx
