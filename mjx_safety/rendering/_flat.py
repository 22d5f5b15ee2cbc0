"""The flat renderer: the outlines of the solids, seen from straight above, drawn with matplotlib."""

import mujoco
import numpy as np

from mjx_safety.rendering import _scene

_NUM_CORNERS = 48
_ANGLES = 2 * np.pi * np.arange(_NUM_CORNERS) / _NUM_CORNERS
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES), np.zeros(_NUM_CORNERS)])  # [3, corners]
_DOTS_PER_INCH = 64  # a power of 2: figures are measured in inches, and pixels must come out whole

_RING_RADIUS, _RING_GAP, _RING_DOT = 0.23, 0.08, 0.035
"""Metres: the lowest ring of lidar dots, how much each is wider than the one below, which it would hide, and a dot."""


def draw(scene: _scene.Scene, camera: str, width: int, height: int) -> np.ndarray:
    """Frames of a scene, uint8 [T, height, width, 3], as high as what the 3D camera shows."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.collections import PolyCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Drawing without a GL library needs matplotlib: pip install -e ".[viz]".') from error

    figure = Figure((width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), dpi=_DOTS_PER_INCH, facecolor=_scene.SKY[0])
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    half, num = _scene.FLOOR_HALF_WIDTH, _scene.FLOOR_SQUARES
    checker = np.indices((num, num)).sum(axis=0) % 2
    dark, light = _scene.FLOOR_GREYS
    axes.imshow(
        dark + (light - dark) * checker, cmap="gray", vmin=0.0, vmax=1.0, extent=(-half, half, -half, half),
        aspect="auto",
    )  # fmt: skip
    polygons = axes.add_collection(PolyCollection([], linewidths=0.8), autolim=False)

    view = _scene.CAMERAS[camera]
    half_height = view.distance * np.tan(np.deg2rad(_scene.FIELD_OF_VIEW / 2))
    half_width = half_height * width / height
    frames = np.empty((len(scene.robot_pos), height, width, 3), np.uint8)
    for t, robot_pos in enumerate(scene.robot_pos):
        x, y, _ = view.target(robot_pos)
        axes.set(xlim=(x - half_width, x + half_width), ylim=(y - half_height, y + half_height))
        corners, rgba = _polygons(scene, t)
        polygons.set(verts=corners, facecolor=rgba, edgecolor=rgba * (0.6, 0.6, 0.6, 1.0))
        canvas.draw()
        frames[t] = np.asarray(canvas.buffer_rgba())[..., :3]
    return frames


def _polygons(scene: _scene.Scene, t: int) -> tuple[np.ndarray, np.ndarray]:
    """Outlines [P, corners, 2] and colours [P, 4] of a frame, the lowest solid first."""
    solids = scene.solids
    order = np.argsort(solids.pos[t, :, 2], kind="stable")
    corners = [_outline(int(solids.kind[i]), solids.size[i], solids.pos[t, i], solids.mat[t, i]) for i in order]
    colours = [solids.rgba[t, order]]
    for level, ring in enumerate(scene.rings):
        spread = ring.pos[t] - ring.pos[t].mean(axis=0)
        pos = scene.robot_pos[t] + spread * (_RING_RADIUS + _RING_GAP * level) / _scene.LIDAR_RADIUS
        corners += [_outline(int(ring.kind[i]), np.full(3, _RING_DOT), pos[i], ring.mat[t, i]) for i in range(len(pos))]
        colours.append(ring.rgba[t])
    return np.stack(corners), np.concatenate(colours)


def _outline(kind: int, size: np.ndarray, pos: np.ndarray, mat: np.ndarray) -> np.ndarray:
    """Convex outline of a solid seen from above, [corners, 2]: its farthest point in each horizontal direction."""
    along = mat.T @ _DIRECTIONS  # in the solid's own frame, [3, corners]
    ends = np.array([[0.0], [0.0], [size[1]]]) * np.sign(along)
    match mujoco.mjtGeom(kind):
        case mujoco.mjtGeom.mjGEOM_SPHERE:
            farthest = size[0] * along
        case mujoco.mjtGeom.mjGEOM_CAPSULE:
            farthest = size[0] * along + ends
        case mujoco.mjtGeom.mjGEOM_CYLINDER:
            rim = along * [[1.0], [1.0], [0.0]]
            farthest = size[0] * rim / np.maximum(np.linalg.norm(rim, axis=0), 1e-9) + ends
        case _:
            farthest = size[:, None] * np.sign(along)
    return (pos[:, None] + mat @ farthest)[:2].T
