"""Safety Gym as pure functions of JAX."""

from mjx_safety.autoreset import AutoReset, VecState
from mjx_safety.env import Env, State
from mjx_safety.registry import make, register, registered
from mjx_safety.rendering import render, save_video
from mjx_safety.task import Task

__all__ = ["AutoReset", "Env", "State", "Task", "VecState", "make", "register", "registered", "render", "save_video"]
