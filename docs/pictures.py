"""Pictures of robots, objects and tasks, drawn by the package's own renderer, and plots of what was measured."""

import dataclasses
from pathlib import Path

import imageio.v3 as imageio
import jax
import matplotlib.pyplot as plt

import mjx_safety
from docs import peers, throughput
from docs.pages import DEFAULT, FAMILIES, KINDS, ROBOTS
from docs.tables import results
from mjx_safety import Env, State
from mjx_safety.objects import Box
from mjx_safety.suite import TASKS

WIDTH, HEIGHT = 400, 300


def plot(folder: Path) -> None:
    """Draws the benchmarks' results into `folder`."""
    folder.mkdir(exist_ok=True)
    _frontier(folder / "frontier.png")
    throughput.draw(folder / "throughput.png")
    peers.draw(folder / "peers.png")


def render(folder: Path) -> None:
    """Renders robots, objects and tasks into `folder`."""
    folder.mkdir(exist_ok=True)
    for robot in ROBOTS:
        env = Env(TASKS[f"{robot.name}Run"])
        _save(folder / f"{robot.name.lower()}.png", env, jax.jit(env.reset)(jax.random.key(0)), "track")
    for kind in KINDS:
        objects = (kind(),) if kind is Box else (dataclasses.replace(kind(), num=3),)
        env = mjx_safety.make("PointRun", objects=objects, extents=(-1.2, -1.2, 1.2, 1.2))
        _save(folder / f"{kind.name}.png", env, jax.jit(env.reset)(jax.random.key(1)), "fixednear")
    for _, levels in FAMILIES.values():
        for level in levels:
            env = Env(TASKS[f"Point{level}"])
            _save(folder / f"Point{level}.png", env, jax.jit(env.reset)(jax.random.key(2)), "fixedfar")


def _frontier(path: Path) -> None:
    """Error against speed of the settings of the robots' solver."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    rows = results("frontier")
    for axis, robot in zip(axes, ("Car", "Doggo"), strict=True):
        for row in [row for row in rows if row["robot"] == robot]:
            setting = (row["iterations"], row["contacts"], row["frictions"])
            colour = "crimson" if setting == DEFAULT else "steelblue"
            axis.scatter(row["speed"], row["error_10_mm"], color=colour)
            axis.annotate("/".join(map(str, setting)), (row["speed"], row["error_10_mm"]), fontsize=7)
        axis.set(yscale="log", title=robot, xlabel="speed", ylabel="error after 10 steps, mm")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _save(path: Path, env: Env, state: State, camera: str) -> None:
    imageio.imwrite(path, mjx_safety.render(env, state, camera=camera, width=WIDTH, height=HEIGHT)[0])
