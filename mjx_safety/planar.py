"""A robot that slides and turns on the plane, in closed form.

The Point has three degrees of freedom and nothing that holds it: what MuJoCo computes for it is a rigid body with an
off-centre mass, viscous damping, a thrust and a servo on its heading. Written out, a physics step is some forty
multiplications that XLA fuses into one kernel, where MJX's general pipeline runs more than a hundred; the result is the
same to float32 rounding.
"""

import dataclasses

import jax
import jax.numpy as jnp
import mujoco
import numpy as np


@dataclasses.dataclass(frozen=True)
class PlanarBody:
    """Constants of the body, read off a compiled model.

    Attributes:
      timestep: physics step, seconds.
      mass: kg.
      coupling: mass times the offset of the centre of mass ahead of the origin, kg m.
      inertia: about the vertical through the origin, kg m^2.
      drag: viscous damping of the slides, N s/m.
      turn_drag: viscous damping of the hinge, N m s.
      gear: of the thruster and of the heading servo.
      servo_gain: force of the servo per rad/s of error, before the gear.
      force_limit: bounds on the actuators' scalar forces, before the gear.
    """

    timestep: float
    mass: float
    coupling: float
    inertia: float
    drag: float
    turn_drag: float
    gear: tuple[float, float]
    servo_gain: float
    force_limit: tuple[float, float]

    @classmethod
    def of(cls, model: mujoco.MjModel) -> "PlanarBody":
        """Reads a model of one body on two world slides and a vertical hinge, with a thruster and a heading servo."""
        joints = [mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE]
        if list(model.jnt_type) != joints or model.nu != 2 or model.dof_damping[0] != model.dof_damping[1]:
            raise ValueError("A planar robot has slides x and y with equal damping, a hinge z, a thruster and a servo.")
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        matrix = np.zeros((3, 3))
        mujoco.mj_fullM(model, data, matrix)
        return cls(
            timestep=float(model.opt.timestep),
            mass=matrix[0, 0].item(),
            coupling=matrix[1, 2].item(),
            inertia=matrix[2, 2].item(),
            drag=model.dof_damping[0].item(),
            turn_drag=model.dof_damping[2].item(),
            gear=tuple(model.actuator_gear[[0, 1], [0, 0]].tolist()),
            servo_gain=model.actuator_gainprm[1, 0].item(),
            force_limit=tuple(model.actuator_forcerange[:, 1].tolist()),
        )

    def accelerations(self, pose: jax.Array, vel: jax.Array, ctrl: jax.Array, implicit: float = 0.0) -> jax.Array:
        """Accelerations of x, y and yaw, float32 [3].

        Args:
          pose: x, y, yaw.
          vel: their rates.
          ctrl: thrust and turning-rate commands, [2].
          implicit: time over which the damping is integrated implicitly, as MuJoCo's Euler integrator does; 0 gives
            the true acceleration.
        """
        turn = vel[2]
        cos, sin = jnp.cos(pose[2]), jnp.sin(pose[2])
        (ahead, about), (most, most_turn) = self.gear, self.force_limit
        thrust = ahead * jnp.clip(ctrl[0], -most, most)
        servo = about * jnp.clip(self.servo_gain * (ctrl[1] - about * turn), -most_turn, most_turn)

        # In the robot's frame the mass matrix is constant, and only y and yaw are coupled.
        forward = thrust - self.drag * (cos * vel[0] + sin * vel[1]) + self.coupling * turn * turn
        left = -self.drag * (cos * vel[1] - sin * vel[0])
        torque = servo - self.turn_drag * turn
        mass, inertia = self.mass + implicit * self.drag, self.inertia + implicit * self.turn_drag
        det = mass * inertia - self.coupling**2
        acc_forward = forward / mass
        acc_left = (inertia * left - self.coupling * torque) / det
        acc_turn = (mass * torque - self.coupling * left) / det
        return jnp.stack([cos * acc_forward - sin * acc_left, sin * acc_forward + cos * acc_left, acc_turn])

    def roll(self, pose: jax.Array, vel: jax.Array, ctrl: jax.Array, num_steps: int) -> tuple[jax.Array, ...]:
        """Physics steps under one command: semi-implicit Euler with implicit damping, as MuJoCo's.

        Returns:
          Poses and velocities [num_steps + 1, 3], the first ones included, and the accelerations [3] at the last state.
        """
        poses, vels = [pose], [vel]
        for _ in range(num_steps):
            vel = vel + self.timestep * self.accelerations(pose, vel, ctrl, implicit=self.timestep)
            pose = pose + self.timestep * vel
            poses.append(pose)
            vels.append(vel)
        return jnp.stack(poses), jnp.stack(vels), self.accelerations(pose, vel, ctrl)
