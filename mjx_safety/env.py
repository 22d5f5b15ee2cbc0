"""The environment: `reset` and `step` of one Safety Gym task, as pure functions."""

from typing import Any, TypeVar

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mjx_safety import checks, geometry, robots, sparse
from mjx_safety.layout import Layout
from mjx_safety.movers import Movers, settle
from mjx_safety.objects import Objects, Placement
from mjx_safety.physics import Physics, PhysicsState
from mjx_safety.robots import Pose
from mjx_safety.task import Task
from mjx_safety.view import View


@flax.struct.dataclass
class State:
    """One environment's state: what an agent sees, and what the next step needs. A pytree of about 1 KB.

    Attributes:
      obs: float32 [observation_size], Safety Gym's flat order (see `Env.observation_slices`).
      reward: float32 [].
      cost: float32 [], 0 or 1 with the indicator on.
      costs: float32 [] by Safety Gym's names ("cost_hazards", ...), and "cost_exception".
      terminated: bool [], the physics failed, or no place was left for the next goal (after a reset: for a layout).
      truncated: bool [], the episode reached its last step.
      goal_met: bool [], the goal was reached in this step.
      steps: int32 [], steps taken in this episode.
      ctrl: float32 [action_size], the last clipped action.
      physics: what moves.
      places: float32 [num, 2], metres: where the layout's things are, or were put if they move since.
      potential: float32 [], the objective's potential, whose fall the next step pays.
      key: for the goals to come.
    """

    obs: jax.Array
    reward: jax.Array
    cost: jax.Array
    costs: dict[str, jax.Array]
    terminated: jax.Array
    truncated: jax.Array
    goal_met: jax.Array
    steps: jax.Array
    ctrl: jax.Array
    physics: PhysicsState
    places: jax.Array
    potential: jax.Array
    key: jax.Array


StateT = TypeVar("StateT", bound=State)


class Env:
    """A task as `reset` and `step` of one environment; batch with `jax.vmap`, compile with `jax.jit`.

    Attributes:
      task: the task.
      observation_size: length of `State.obs`.
      action_size: length of an action; every entry is clipped to [-1, 1].
      observation_slices: where each sensor and lidar lies in the observation, by name.
    """

    def __init__(self, task: Task):
        self.task = task
        self._num_movers = sum(kind.num for kind in task.movers)
        half = task.movers[0].size if task.movers else 0.0
        self._physics = Physics(task.robot, self._num_movers, half, task.frame_skip)
        self.action_size = self._physics.action_size

        spots, self._slots = [], {}
        for name, num, placement in self._things():
            self._slots[name] = slice(len(spots), len(spots) + num)
            spots += placement.split(num)
        self._layout = Layout(spots, task.extents, task.margin)

        readings = jax.eval_shape(self._first_readings, jax.random.key(0))
        self.observation_slices, self.observation_size = {}, 0
        for name, reading in readings.items():
            self.observation_slices[name] = slice(self.observation_size, self.observation_size + reading.size)
            self.observation_size += reading.size

    def reset(self, key: jax.Array) -> State:
        """A new episode with a new layout.

        Args:
          key: random key, `jax.random.key(seed)`.
        """
        physics, places, key, found = self._draw(key)
        state = self._begin(physics, places, jnp.zeros(self.action_size), key)
        return state.replace(terminated=~found)

    def step(self, state: StateT, action: jax.Array) -> StateT:
        """One environment step: `frame_skip` physics steps, then reward and costs, the next goal, and what is seen.

        Args:
          state: from `reset`, `step` or `set_world`.
          action: [action_size], clipped to [-1, 1].

        Raises:
          ValueError: the action has the wrong shape.
        """
        task = self.task
        ctrl = self._clip(action)
        physics, motion = self._physics.step(state.physics, ctrl)
        failed = _broken((physics, motion))
        physics = jax.tree.map(lambda old, new: jnp.where(failed, old, new), state.physics, physics)
        motion = jax.tree.map(lambda value: jnp.where(failed, 0.0, value), motion)

        view = self._view(physics, state.places, motion.contacts)
        progress = jnp.clip(state.potential - task.objective.potential(view), -task.reward_clip, task.reward_clip)
        goal_met = task.objective.reached(view) & ~failed
        reward = progress + jnp.where(goal_met, task.objective.reward_goal, 0.0)
        costs = self._costs(view, failed)

        # The next goal appears now: the observation shows it, and the distance is measured anew, so that the next
        # reward does not jump.
        places, found, key = sparse.cond(
            goal_met,
            self._redraw_goal,
            (self._positions(physics, state.places), state.places, state.key),
            otherwise=(state.places, jnp.array(True), state.key),
            fraction=64,
        )
        view = self._view(physics, places, motion.contacts)
        steps = state.steps + 1
        return state.replace(
            obs=self._observe(view, physics, motion.qacc),
            reward=jnp.where(failed, task.reward_exception, reward),
            cost=costs.pop("cost"),
            costs=costs,
            terminated=failed | ~found,
            truncated=steps >= task.num_steps,
            goal_met=goal_met,
            steps=steps,
            ctrl=ctrl,
            physics=physics,
            places=places,
            potential=task.objective.potential(view),
            key=key,
        )

    def get_world(self, state: State) -> dict[str, jax.Array]:
        """The world as plain arrays: world frame, SI units, quaternions w first, velocities of body origins.

        Returns:
          time [], robot_pos [3], robot_quat [4], robot_linvel [3], robot_angvel [3], joint_pos and joint_vel [joints],
          ctrl [action_size], buttons_timer [] (0 where there are no buttons), and for each kind its positions, such as
          hazards_pos [num, 3] and goal_pos [3]; for kinds that move also vases_quat [num, 4], vases_linvel [num, 3] and
          vases_angvel [num, 3].
        """
        body = robots.pose(self.task.robot, state.physics.qpos, state.physics.qvel)
        world = {
            "time": state.physics.time,
            "robot_pos": body.pos,
            "robot_quat": body.quat,
            "robot_linvel": body.linvel,
            "robot_angvel": body.angvel,
            "joint_pos": jnp.zeros(0),
            "joint_vel": jnp.zeros(0),
            "ctrl": state.ctrl,
            "buttons_timer": jnp.zeros(()),
        }
        view = self._view(state.physics, state.places, jnp.zeros(self._num_movers))
        world |= {f"{name}_pos": pos for name, pos in view.pos.items()}
        world["goal_pos"] = world["goal_pos"][0]
        for kind, movers in self._moving(state.physics.movers):
            still = jnp.zeros((kind.num, 2))
            world[f"{kind.name}_quat"] = geometry.yaw_to_quat(movers.pose[:, 2])
            world[f"{kind.name}_linvel"] = view.linvel[kind.name]
            world[f"{kind.name}_angvel"] = jnp.concatenate([still, movers.vel[:, 2:]], axis=1)
        return world

    def set_world(self, world: dict[str, jax.Array], key: jax.Array) -> State:
        """A state that continues from exactly there.

        Args:
          world: arrays as `get_world` gives them. Positions of the robot and of every kind are needed; what else is
            missing is zero: velocities, upright default pose, last action, time.
          key: for the goals to come.

        Raises:
          ValueError: a key that no world has, or positions that are missing.
        """
        template = jax.eval_shape(lambda k: self.get_world(self.reset(k)), key)
        _check_world(world, template)
        upright = {
            name: jnp.zeros(x.shape).at[..., 0].set(1.0) for name, x in template.items() if name.endswith("_quat")
        }
        zeros = {name: jnp.zeros(x.shape) for name, x in template.items()}
        world = zeros | upright | world
        body = Pose(*(world[f"robot_{part}"] for part in ("pos", "quat", "linvel", "angvel")))
        qpos, qvel = robots.coordinates(body)
        movers = [Movers(jnp.zeros((0, 3)), jnp.zeros((0, 3)))]
        for kind in self.task.movers:
            yaw = geometry.quat_to_yaw(world[f"{kind.name}_quat"])
            pose = jnp.concatenate([world[f"{kind.name}_pos"][:, :2], yaw[:, None]], axis=1)
            vel = jnp.concatenate([world[f"{kind.name}_linvel"][:, :2], world[f"{kind.name}_angvel"][:, 2:]], axis=1)
            movers.append(Movers(pose, vel))
        movers = jax.tree.map(lambda *x: jnp.concatenate(x), *movers)
        places = [world[f"{name}_pos"].reshape(-1, 3)[:, :2] for name in self._slots]
        physics = PhysicsState(qpos, qvel, settle(movers), world["time"])
        return self._begin(physics, jnp.concatenate(places), world["ctrl"], key)

    def _things(self) -> list[tuple[str, int, Placement]]:
        """What a layout holds, in Safety Gym's order: name, number and placement."""
        task = self.task
        return [
            ("robot", 1, task.robot_placement),
            (task.objective.name, 1, task.objective.placement),
            *((kind.name, kind.num, kind.placement) for kind in task.objects),
        ]

    def _draw(self, key: jax.Array) -> tuple[PhysicsState, jax.Array, jax.Array, jax.Array]:
        """A new layout at rest: physics, places, a key for the goals to come, and whether room was found."""
        key, layout_key, goal_key, robot_key, mover_key = jax.random.split(key, 5)
        places, valid = self._layout.sample(layout_key)
        # As the original does: the first goal only leaves a hole in the others' distribution, and is drawn again.
        places, found, _ = self._redraw_goal(places, places, goal_key)
        body = Pose(
            pos=jnp.append(places[0], self.task.robot.height),
            quat=geometry.yaw_to_quat(jax.random.uniform(robot_key, maxval=2 * jnp.pi)),
            linvel=jnp.zeros(3),
            angvel=jnp.zeros(3),
        )
        yaw = jax.random.uniform(mover_key, (self._num_movers, 1), maxval=2 * jnp.pi)
        start = [places[self._slots[kind.name]] for kind in self.task.movers]
        pose = jnp.concatenate([jnp.concatenate([jnp.zeros((0, 2)), *start]), yaw], axis=1)
        qpos, qvel = robots.coordinates(body)
        physics = PhysicsState(qpos, qvel, Movers(pose, jnp.zeros_like(pose)), jnp.zeros(()))
        return physics, places, key, valid & found

    def _redraw_goal(
        self, positions: jax.Array, places: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """A new goal among things at `positions`: new places, whether there was room, and a key for the next goal."""
        key, draw = jax.random.split(key)
        index = self._slots[self.task.objective.name].start
        goal, found = self._layout.resample(draw, index, positions)
        return places.at[index].set(jnp.where(found, goal, places[index])), found, key

    def _begin(self, physics: PhysicsState, places: jax.Array, ctrl: jax.Array, key: jax.Array) -> State:
        """The state from which an episode starts or continues."""
        view = self._view(physics, places, self._physics.contacts(physics))
        no = jnp.zeros((), bool)
        costs = self._costs(view, no)
        return State(
            obs=self._observe(view, physics, self._physics.accelerations(physics, ctrl)),
            reward=jnp.zeros(()),
            cost=costs.pop("cost"),
            costs=costs,
            terminated=no,
            truncated=no,
            goal_met=no,
            steps=jnp.round(physics.time / self._physics.step_time).astype(jnp.int32),
            ctrl=ctrl,
            physics=physics,
            places=places,
            potential=self.task.objective.potential(view),
            key=key,
        )

    def _clip(self, action: jax.Array) -> jax.Array:
        if jnp.shape(action) != (self.action_size,):
            raise ValueError(
                f"step got an action of shape {jnp.shape(action)}; one environment takes ({self.action_size},). "
                "Use jax.vmap(env.step), or AutoReset, for a batch."
            )
        return jnp.clip(jnp.asarray(action, jnp.float32), -1.0, 1.0)

    def _positions(self, physics: PhysicsState, places: jax.Array) -> jax.Array:
        """Where the layout's things are now, float32 [num, 2]."""
        body = robots.pose(self.task.robot, physics.qpos, physics.qvel)
        now = places.at[self._slots["robot"]].set(body.pos[:2])
        for kind, movers in self._moving(physics.movers):
            now = now.at[self._slots[kind.name]].set(movers.pose[:, :2])
        return now

    def _moving(self, movers: Movers) -> list[tuple[Objects, Movers]]:
        """The boxes by kind."""
        ends = np.cumsum([kind.num for kind in self.task.movers])
        return [
            (kind, jax.tree.map(lambda x, end=end, num=kind.num: x[end - num : end], movers))
            for kind, end in zip(self.task.movers, ends, strict=True)
        ]

    def _view(self, physics: PhysicsState, places: jax.Array, contacts: jax.Array) -> View:
        task = self.task
        body = robots.pose(task.robot, physics.qpos, physics.qvel)
        positions = self._positions(physics, places)
        pos = {}
        for kind in (task.objective, *task.objects):
            on_floor = positions[self._slots[kind.name]]
            pos[kind.name] = jnp.concatenate([on_floor, jnp.full((len(on_floor), 1), kind.height)], axis=1)
        linvel, touched, start = {}, {}, 0
        for kind, movers in self._moving(physics.movers):
            linvel[kind.name] = movers.vel * jnp.array([1.0, 1.0, 0.0])
            touched[kind.name] = contacts[start : start + kind.num]
            start += kind.num
        return View(robot_pos=body.pos, robot_mat=body.mat, pos=pos, linvel=linvel, contacts=touched)

    def _costs(self, view: View, failed: jax.Array) -> dict[str, jax.Array]:
        """Costs by name and their sum as "cost"; each is 1 if it is positive, with the indicator on."""
        costs = {"cost_exception": failed.astype(jnp.float32)}
        for kind in self.task.objects:
            if kind.constrained:
                costs |= kind.raw_costs(view)
        costs["cost"] = sum(costs.values(), start=jnp.zeros(()))
        if self.task.indicator:
            costs = {name: (cost > 0).astype(jnp.float32) for name, cost in costs.items()}
        return costs

    def _readings(self, view: View, physics: PhysicsState, qacc: jax.Array) -> dict[str, jax.Array]:
        """Sensors and lidars by name, sorted as the original's flat observation is."""
        task = self.task
        body = robots.pose(task.robot, physics.qpos, physics.qvel)
        readings = robots.sensors(body, robots.acceleration(qacc))
        for kind in (task.objective, *task.objects):
            if kind.observed:
                readings[f"{kind.name}_lidar"] = task.lidar.read(view.robot_pos, view.robot_mat, view.pos[kind.name])
        return dict(sorted(readings.items()))

    def _observe(self, view: View, physics: PhysicsState, qacc: jax.Array) -> jax.Array:
        return jnp.concatenate([reading.ravel() for reading in self._readings(view, physics, qacc).values()])

    def _first_readings(self, key: jax.Array) -> dict[str, jax.Array]:
        physics, places, _, _ = self._draw(key)
        view = self._view(physics, places, jnp.zeros(self._num_movers))
        return self._readings(view, physics, jnp.zeros_like(physics.qvel))


def _broken(numbers: Any) -> jax.Array:
    """Whether any number is not finite, or beyond what MuJoCo takes for sound (its mjMAXVAL), bool []."""
    return jnp.stack([~(jnp.abs(x) < 1e10).all() for x in jax.tree.leaves(numbers)]).any()


def _check_world(world: dict[str, Any], template: dict[str, Any]) -> None:
    """Raises ValueError where a world's keys or shapes are not those of the task."""
    missing = [name for name in template if name.endswith("_pos") and name != "joint_pos" and name not in world]
    if missing:
        raise ValueError(f"set_world lacks {', '.join(missing)}; it needs the positions of the robot and every kind.")
    for name, value in world.items():
        if name not in template:
            hint = checks.nearest(name, template)
            raise ValueError(f"set_world got {name!r}, which this task lacks.{hint} It has: {', '.join(template)}.")
        if jnp.shape(value) != template[name].shape:
            raise ValueError(f"set_world got {name!r} of shape {jnp.shape(value)}; it must be {template[name].shape}.")
