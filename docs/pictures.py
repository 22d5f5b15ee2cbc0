"""Pictures of robots, objects and tasks, drawn by the package's own renderer."""

import dataclasses
from pathlib import Path

import imageio.v3 as imageio
import jax
import jax.numpy as jnp

import mjx_safety
from docs.pages import FAMILIES, KINDS, ROBOTS
from mjx_safety import Env, State
from mjx_safety.objects import Box
from mjx_safety.suite import TASKS

WIDTH, HEIGHT = 400, 300


def draw(folder: Path) -> None:
    """Draws all pictures into `folder`."""
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


def _save(path: Path, env: Env, state: State, camera: str) -> None:
    states = jax.tree.map(lambda x: jnp.asarray(x)[None], state)
    imageio.imwrite(path, mjx_safety.render(env, states, camera=camera, width=WIDTH, height=HEIGHT)[0])
