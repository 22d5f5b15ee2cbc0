"""The comparison with peers, on a stand-in: what it writes, what it says of a peer that is missing, its refusals."""

import json
import subprocess
import sys
import time

import pytest

from benchmarks import peers
from benchmarks.programs import Program
from mjx_safety import make

# A stand-in of safety_gymnasium whose episodes last 3 steps, and which prints where the answers go.
STAND_IN = """
import types, numpy

class Env:
    num_envs, resets = 1, 0
    action_space = types.SimpleNamespace(seed=lambda seed: None, sample=lambda: None)
    model = types.SimpleNamespace(opt=types.SimpleNamespace(timestep=0.004))
    task = types.SimpleNamespace(sim_conf=types.SimpleNamespace(frameskip_binom_n=5), model=model)

    @property
    def unwrapped(self):
        return self

    def reset(self, seed=None):
        self.steps = 0

    def step(self, action):
        print("noise")
        self.steps += 1
        assert self.steps <= 3 or self.num_envs > 1
        return None, 0.0, 0.0, False, self.steps == 3, {}

    def close(self):
        pass

def make(task):
    if task == "SafetyCarGoal1-v0":
        raise ValueError("no such wheels")
    return Env()

class vector:
    def make(task, num_envs, asynchronous):
        env = Env()
        env.num_envs = max(2, num_envs)
        return env
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """The worker, finding the stand-in in place of the peer, in this interpreter."""
    (tmp_path / "safety_gymnasium.py").write_text(STAND_IN)
    worker = tmp_path / "worker.py"
    worker.write_text(
        f"import runpy, sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        f"runpy.run_path({str(peers.WORKER)!r}, run_name='__main__')"
    )
    monkeypatch.setattr(peers, "WORKER", worker)
    monkeypatch.setattr(peers, "environment", lambda *_: peers.Path(sys.executable))


@pytest.fixture
def ours(monkeypatch):
    """Stands in for our programs: 1000 steps in a millisecond."""
    program = Program("stepping", 1000, lambda units: time.sleep(0.001 * units))
    monkeypatch.setattr(peers, "stepping", lambda env, num_envs: peers.Ours(program, num_envs, 10, 0.002))


@pytest.fixture
def measure(tmp_path):
    """Runs the command line with a certain exit status, and gives the rows that it appended."""

    def run(status, *arguments):
        output = tmp_path / "results" / "peers.jsonl"
        tiny = ["--rounds", "3", "--round-seconds", "0.01", "--environments", str(tmp_path / "environments")]
        tiny += ["--training-tasks", "--output", str(output)]
        assert peers.main([*tiny, *arguments]) == status
        return {row["benchmark"]: row for row in map(json.loads, output.read_text().splitlines())}

    return run


def test_rounds_of_peers_are_counted_beside_ours(measure, ours, stand_in):
    rows = measure(0, "--tasks", "PointGoal2", "--peers", "safety_gymnasium", "--num-envs", "64")

    assert list(rows) == ["stepping", "safety_gymnasium", "safety_gymnasium_vector"]
    assert rows["stepping"]["num_envs"] == 64
    assert rows["stepping"]["ours_to_it"] == 1
    assert rows["stepping"]["physics_timestep_s"] == 0.002
    assert rows["safety_gymnasium"]["num_envs"] == 1
    for row in rows.values():
        assert row["task"] == "PointGoal2"
        assert row["missing"] is None
        assert row["rounds"] == 3
        assert 0 < row["env_steps_per_s_min"] <= row["env_steps_per_s"] <= row["env_steps_per_s_max"]
        assert row["cpu_count"] >= 1
    peer = rows["safety_gymnasium"]
    assert peer["physics_steps_per_s"] == pytest.approx(5 * peer["env_steps_per_s"])
    assert peer["ours_to_it_physics"] == pytest.approx(2 * peer["ours_to_it"])
    assert peer["physics_timestep_s"] == 0.004
    assert peer["peer_versions"].keys() == {"safety-gymnasium", "gymnasium", "mujoco", "numpy"}


def test_physics_steps_of_ours_last_as_long_as_the_robot_s():
    program = Program("stepping", 1000, lambda _: None)

    for task, timestep in (("PointGoal1", 0.002), ("CarGoal2", 0.004), ("DoggoGoal2", 0.01)):
        assert peers.Ours.of(program, make(task), 8) == (program, 8, 10, timestep)


def test_a_peer_that_fails_is_reported_and_stops_no_other(measure, ours, stand_in, capsys):
    rows = measure(1, "--tasks", "CarGoal1", "--peers", "safety_gymnasium")

    assert rows["stepping"]["rounds"] == 3
    assert rows["safety_gymnasium"]["missing"] == "ValueError: no such wheels"
    assert "missing: CarGoal1, safety_gymnasium: ValueError: no such wheels" in capsys.readouterr().err


def test_a_peer_that_cannot_be_installed_is_reported(measure, ours, capsys):
    rows = measure(1, "--tasks", "PointGoal1", "--peers", "crax", "--python", "no-such-python")

    assert list(rows) == ["stepping", "crax"]
    assert rows["crax"]["missing"].startswith("no-such-python: ")
    assert rows["crax"]["task"] == "PointGoal1"


def test_an_environment_is_made_once(tmp_path, monkeypatch):
    commands = []

    def run(command, **_):
        commands.append(command)
        (tmp_path / "peer").mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(peers.subprocess, "run", run)
    pins = peers.Pins(("alone==1",), ("rest==2",))
    for _ in range(2):
        inside = peers.environment(pins, tmp_path / "peer", "python")
    assert inside.is_relative_to(tmp_path / "peer")
    assert [command[-1] for command in commands] == [str(tmp_path / "peer"), "alone==1", "rest==2"]
    assert "--no-deps" in commands[1]
    assert "--no-deps" not in commands[2]

    peers.environment(peers.Pins((), ("rest==3",)), tmp_path / "peer", "python")
    assert [command[-1] for command in commands[3:]] == [str(tmp_path / "peer"), "rest==3"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tasks", "PointGaol1"], "did you mean 'PointGoal1'"),
        (["--tasks", "PointRun"], "unknown task 'PointRun'"),
        (["--training-tasks", "PointGaol1"], "did you mean 'PointGoal1'"),
        (["--peers", "crux"], "did you mean 'crax'"),
        (["--peers"], "peers is empty"),
        (["--num-envs", "0"], "num_envs is 0"),
        (["--training-rounds", "0"], "training_rounds is 0"),
        (["--round-seconds", "nan"], "round_seconds is nan"),
        (["--epoch-steps", "999"], "epoch_steps is 999"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(arguments, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(peers, "run", lambda *_: pytest.fail("it ran"))
    output = tmp_path / "peers.jsonl"

    assert peers.main([*arguments, "--output", str(output)]) == 2

    assert complaint in capsys.readouterr().err
    assert not output.exists()
