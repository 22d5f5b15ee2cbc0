"""Pictures and videos of episodes (host only): in 3D with MuJoCo's renderer, or flat where no GL library works."""

import numbers
import os
import pathlib
from typing import TYPE_CHECKING

import numpy as np

from mjx_safety import checks
from mjx_safety.rendering import _flat, _gl, _scene

if TYPE_CHECKING:
    from mjx_safety.env import Env, State

MAX_SIZE = 4096
"""Pixels: larger frames do not fit the offscreen buffers of common drivers."""


def render(env: "Env", states: "State", camera: str = "fixedfar", width: int = 480, height: int = 360) -> np.ndarray:
    """Draws an episode, one frame a state, much as Safety Gym does.

    Objects in Safety Gym's colours, a ring of lidar readings above the robot for every kind it sees, and a red sphere
    round the robot after each step that cost something.

    The 3D renderer needs no display, only one of MuJoCo's GL back ends: on Linux EGL, OSMesa or a display, in this
    order, elsewhere the system's own. The environment variable `MUJOCO_GL` chooses one; `MUJOCO_GL=disable` none.
    Without one the same scene is drawn flat with matplotlib, seen from straight above the point that the camera looks
    at, after one warning that names the packages to install.

    Args:
      env: the environment the states come from.
      states: states of one environment with a leading time axis, as `jax.lax.scan` stacks them, or a single state.
      camera: "fixednear" and "fixedfar" look at the origin from the south, "track" follows the robot.
      width: of a frame, pixels, 1 to 4096.
      height: of a frame, pixels, 1 to 4096.

    Returns:
      uint8 [T, height, width, 3].

    Raises:
      ValueError: for an unknown camera, a frame size out of range, or states of a batch of environments.
      TypeError: if `states` is no state.
      ImportError: if neither a GL back end nor matplotlib is there.
    """
    if camera not in _scene.CAMERAS:
        hint = checks.nearest(str(camera), _scene.CAMERAS)
        raise ValueError(f"There is no camera {camera!r}; choose from {', '.join(_scene.CAMERAS)}.{hint}")
    for name, size in (("width", width), ("height", height)):
        if not (isinstance(size, numbers.Integral) and 1 <= size <= MAX_SIZE):
            raise ValueError(f"{name} is {size!r}; a frame has 1 to {MAX_SIZE} whole pixels on a side.")
    scene = _scene.build(env, states)
    draw = _flat.draw if _gl.backend() is None else _gl.draw
    return draw(scene, camera, int(width), int(height))


def save_video(path: str | pathlib.Path, frames: np.ndarray, fps: float = 30.0) -> None:
    """Writes frames to a video file, H.264 for `.mp4`.

    Args:
      path: of the file; its folder must exist.
      frames: uint8 [T, height, width, 3]; an odd last row or column is left out, as the codec needs even sizes.
      fps: frames a second.

    Raises:
      ValueError: if the frames have another shape or type, or are none, or `fps` is not positive.
      FileNotFoundError: if the folder does not exist.
      ImportError: if imageio or its ffmpeg is missing.
    """
    checks.number("fps", fps, above=0)
    path = pathlib.Path(path)
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise ValueError(f"frames is {frames.dtype} {list(frames.shape)}; a video needs uint8 [T, height, width, 3].")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent} to put {path.name} in; create it first.")
    try:
        import imageio.v2 as imageio
        import imageio_ffmpeg  # noqa: F401  (imageio finds it by itself, but says less clearly when it is missing)
    except ImportError as error:
        raise ImportError('Videos need imageio and ffmpeg: pip install -e ".[viz]".') from error
    # imageio would fork to shield ffmpeg from Ctrl-C, which can deadlock under JAX's threads.
    os.environ.setdefault("IMAGEIO_FFMPEG_NO_PREVENT_SIGINT", "1")
    height, width = frames.shape[1:3]
    even = frames[:, : height - height % 2, : width - width % 2]
    imageio.mimwrite(path, list(even), fps=fps, macro_block_size=2)
