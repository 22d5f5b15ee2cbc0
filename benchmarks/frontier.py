"""Error of the robots' dynamics beside C MuJoCo, against their speed: Newton steps, contacts, directions of friction.

    python -m benchmarks.frontier --robots Car Doggo

Each setting plays the same commands from the same states, taken on the way under random commands with the floor alone,
as C MuJoCo in float64. Rounds of all settings alternate, so that a busy machine slows them alike.
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax
import mujoco
import numpy as np
import tyro

from agents.run_directory import append_rows
from benchmarks.throughput import check_output, circumstances, moment
from mjx_safety import scene
from mjx_safety.articulated import Articulated
from mjx_safety.robots import CAR, DOGGO, Robot

ROBOTS = {robot.name: robot for robot in (CAR, DOGGO)}
FRAME_SKIP = 10  # physics steps of an environment step
ENV_STEPS = 10
# Newton steps, a body's contacts with the floor, directions of friction (5: condim 6; 3: no rolling; 2: sliding alone).
FINEST = (8, 2, 5)
SETTINGS = [FINEST, (8, 2, 3), (6, 2, 3), (5, 2, 3), (4, 2, 3), (3, 2, 3), (6, 1, 3), (6, 2, 2)]


@dataclasses.dataclass(frozen=True)
class Args:
    """What to measure."""

    robots: tuple[Literal["Car", "Doggo"], ...] = ("Car", "Doggo")
    """Those that are not planar."""
    num_envs: int = 256
    """Robots side by side."""
    rounds: int = 9
    """Timed rounds of each setting, taken in turn."""
    output: Path = Path("benchmarks/results/frontier.jsonl")
    """File to which one JSON object per setting is appended."""


def main(args: Args) -> None:
    """Measure all settings of all robots, appending to the output."""
    check_output(args.output)
    for name in args.robots:
        now = moment()
        rows = [row | now | circumstances() for row in measure(ROBOTS[name], args)]
        append_rows(args.output, rows)


def measure(robot: Robot, args: Args) -> Iterator[dict[str, Any]]:
    """One row a setting."""
    qpos, qvel, ctrl, truth = windows(robot, args.num_envs)
    programs, rates = [], []
    for iterations, contacts, frictions in SETTINGS:
        body = Articulated(scene.robot_model(robot), (), iterations, contacts, frictions)

        def roll(qpos, qvel, ctrl, body=body):
            return body.roll(qpos, qvel, ctrl, FRAME_SKIP)

        programs.append(jax.jit(jax.vmap(roll)).lower(qpos, qvel, ctrl[0]).compile())
        rates.append([])
    for _ in range(args.rounds):
        for program, rate in zip(programs, rates, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(qpos, qvel, ctrl[0]))
            rate.append(args.num_envs / (time.perf_counter() - start))
    for setting, program, rate in zip(SETTINGS, programs, rates, strict=True):
        state, errors = (qpos, qvel), []
        for command, pos in zip(ctrl, truth, strict=True):
            path, vels, _ = program(*state, command)
            state = path[:, -1], vels[:, -1]
            errors.append(np.linalg.norm(state[0][:, :3] - pos, axis=1) * 1e3)
        yield {
            "robot": robot.name,
            **dict(zip(("iterations", "contacts", "frictions"), setting, strict=True)),
            "error_1_mm": float(np.median(errors[0])),
            "error_1_mm_p90": float(np.quantile(errors[0], 0.9)),
            "error_10_mm": float(np.median(errors[-1])),
            "error_10_mm_p90": float(np.quantile(errors[-1], 0.9)),
            "env_steps_per_s": statistics.median(rate),
            "speed": statistics.median(a / b for a, b in zip(rate, rates[SETTINGS.index(FINEST)], strict=True)),
            "num_envs": args.num_envs,
        }


def windows(robot: Robot, num: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """States [num, nq] and [num, nv], commands [ENV_STEPS, num, nu], and where C MuJoCo goes [ENV_STEPS, num, 3]."""
    spec, rng = scene.robot_spec(robot), np.random.default_rng(0)
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[5, 5, 0.1], condim=6)
    model = spec.compile()
    data, along = mujoco.MjData(model), mujoco.MjData(model)
    states, commands, truth = [], [], []
    for _ in range(num):
        for _ in range(5):
            data.ctrl[:] = rng.uniform(-1, 1, model.nu)
            mujoco.mj_step(model, data, FRAME_SKIP)
        # Rounded as the other side sees it, and with no warm start.
        along.qpos[:], along.qvel[:] = data.qpos.astype(np.float32), data.qvel.astype(np.float32)
        along.qacc_warmstart[:] = 0
        states.append((along.qpos.astype(np.float32), along.qvel.astype(np.float32)))
        commands.append(rng.uniform(-1, 1, (ENV_STEPS, model.nu)).astype(np.float32))
        truth.append([])
        for command in commands[-1]:
            along.ctrl[:] = command
            mujoco.mj_step(model, along, FRAME_SKIP)
            truth[-1].append(along.qpos[:3].copy())
    qpos, qvel = (np.array(x) for x in zip(*states, strict=True))
    return qpos, qvel, np.array(commands).swapaxes(0, 1), np.array(truth).swapaxes(0, 1)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
