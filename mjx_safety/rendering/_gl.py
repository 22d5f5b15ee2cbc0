"""The 3D renderer: Safety Gym's floor, sky and light, and the solids of a scene among them."""

import functools
import importlib
import os
import platform
import subprocess
import sys
import warnings

import mujoco
import numpy as np

from mjx_safety.rendering import _scene

_BACKENDS = {"Linux": ("egl", "osmesa", "glfw"), "Darwin": ("cgl", "glfw")}

_PROBE = """import mujoco
from mujoco.{name} import GLContext
context = GLContext(8, 8)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 100)
"""


@functools.cache
def backend() -> str | None:
    """The MuJoCo GL back end that works on this machine, or None, which is said once.

    Each is tried in a process of its own: a driver may abort it, and PyOpenGL binds to the first one it loads.
    """
    backends = _BACKENDS.get(platform.system(), ("glfw",))
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if chosen in ("disable", "disabled", "off", "false", "0"):
        return None
    if chosen in backends:
        backends = (chosen,)
    for name in backends:
        probe = [sys.executable, "-c", _PROBE.format(name=name)]
        if subprocess.run(probe, env=os.environ | {"MUJOCO_GL": name}, capture_output=True).returncode == 0:
            return name
    warnings.warn(
        f"No GL library works here (tried {', '.join(backends)}), so scenes are drawn flat, from above. For the 3D "
        "view install one and start again; on Debian and Ubuntu: apt-get install libegl1 libgl1 libgl1-mesa-dri (EGL) "
        "or apt-get install libosmesa6 (OSMesa).",
        stacklevel=3,
    )
    return None


def draw(scene: _scene.Scene, camera: str, width: int, height: int) -> np.ndarray:
    """Frames of a scene, uint8 [T, height, width, 3]."""
    model = _surroundings(width, height)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    solids = [scene.solids, *scene.rings]
    canvas = mujoco.MjvScene(model, maxgeom=100 + sum(len(part.kind) for part in solids))
    option, view, rect = mujoco.MjvOption(), mujoco.MjvCamera(), mujoco.MjrRect(0, 0, width, height)
    view.distance, view.azimuth, view.elevation = _scene.CAMERAS[camera].distance, 90.0, -45.0
    frames = np.empty((len(scene.robot_pos), height, width, 3), np.uint8)
    pixels = np.empty(frames.shape[1:], np.uint8)

    context = importlib.import_module(f"mujoco.{backend()}").GLContext(width, height)
    context.make_current()
    resources = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
    try:
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, resources)
        for t, robot_pos in enumerate(scene.robot_pos):
            view.lookat[:] = _scene.CAMERAS[camera].target(robot_pos)
            mujoco.mjv_updateScene(model, data, option, None, view, mujoco.mjtCatBit.mjCAT_ALL.value, canvas)
            for part in solids:
                _add(canvas, part, t)
            mujoco.mjr_render(rect, canvas, resources)
            mujoco.mjr_readPixels(pixels, None, rect, resources)
            frames[t] = pixels[::-1]
    finally:
        resources.free()
        context.free()
    return frames


def _add(canvas: mujoco.MjvScene, solids: _scene.Solids, t: int) -> None:
    for i in np.flatnonzero(solids.rgba[t, :, 3]):
        mujoco.mjv_initGeom(
            canvas.geoms[canvas.ngeom],
            int(solids.kind[i]),
            solids.size[i].astype(np.float64),
            solids.pos[t, i].astype(np.float64),
            solids.mat[t, i].astype(np.float64).ravel(),
            solids.rgba[t, i].astype(np.float32),
        )
        canvas.ngeom += 1


def _surroundings(width: int, height: int) -> mujoco.MjModel:
    """Floor, sky and light (Safety Gym, `world.py`), without a body."""
    spec = mujoco.MjSpec()
    spec.visual.global_.offwidth, spec.visual.global_.offheight = width, height
    spec.visual.global_.fovy = _scene.FIELD_OF_VIEW
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 20, 10  # the finer default takes twice as long
    spec.stat.extent, spec.stat.center = 4.0, (0.0, 0.0, 0.0)
    horizon, zenith = _scene.SKY
    spec.add_texture(
        name="sky",
        type=mujoco.mjtTexture.mjTEXTURE_SKYBOX,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_GRADIENT,
        rgb1=horizon,
        rgb2=zenith,
        width=800,
        height=4800,
        mark=mujoco.mjtMark.mjMARK_RANDOM,
        markrgb=(1.0, 1.0, 1.0),
        random=0.01,
    )
    dark, light = _scene.FLOOR_GREYS
    spec.add_texture(
        name="checker",
        type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER,
        rgb1=(dark,) * 3,
        rgb2=(light,) * 3,
        width=100,
        height=100,
    )
    floor = spec.add_material(name="floor", reflectance=0.1, shininess=0.1, specular=0.1)
    floor.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "checker"
    floor.texrepeat = (_scene.FLOOR_SQUARES / 2,) * 2
    half_width = _scene.FLOOR_HALF_WIDTH
    spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=(half_width, half_width, 0.1), material="floor")
    spec.worldbody.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=(0.0, 0.0, 0.5),
        dir=(0.0, 0.0, -1.0),
        diffuse=(1.0, 1.0, 1.0),
        specular=(0.0, 0.0, 0.0),
        castshadow=False,
    )
    return spec.compile()
