"""Several devices and several processes give what one device gives, and a run moves from one to the other."""

import dataclasses
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import agents
from agents import hosts
from tests.test_agents_training import SMALL
from tests.toy_env import ToyEnv
from tests.train_toy import checkpointed, start

SHARED = dataclasses.replace(SMALL, num_groups=2)  # one agent, its environments on both devices
FLEET = dataclasses.replace(SMALL, seeds=(0, 7))  # an agent on each device
CONFIGS = {"shared": SHARED, "fleet": FLEET}


def finish(process: subprocess.Popen) -> dict:
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, Path]:
    """Run directories of the same training on one device."""
    return {
        name: agents.train(ToyEnv(), config, run_dir=tmp_path_factory.mktemp(name) / "run", progress=False).run_dir
        for name, config in CONFIGS.items()
    }


def assert_same(run_dir: Path, reference: Path) -> None:
    rows, expected = ((path / "metrics.jsonl").read_text().splitlines() for path in (run_dir, reference))
    assert len(rows) == len(expected)
    for row, other in zip(map(json.loads, rows), map(json.loads, expected), strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if value is None or other[name] is None:
                assert value == other[name]
            else:
                np.testing.assert_allclose(value, other[name], rtol=1e-2, atol=1e-3, err_msg=f"{name} of {row}")
    for name, array in np.load(run_dir / "policy.npz").items():
        np.testing.assert_allclose(array, np.load(reference / "policy.npz")[name], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, hosts.num_cores()),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
    ],
    ids=["nothing said", "variable", "flag"],
)
def test_every_core_is_a_device_unless_the_user_says_otherwise(said, expected):
    program = "import jax\nfrom agents import hosts\nhosts.split_cpu()\nprint(jax.device_count())"
    variables = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    variables |= {"JAX_PLATFORMS": "cpu"} | said
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected


def test_a_cpu_in_use_stays_as_it_is():
    count = jax.device_count()
    hosts.split_cpu()
    assert jax.device_count() == count


@pytest.mark.slow
def test_two_processes_give_what_one_gives(alone, tmp_path):
    """Both work on the same agent, and only the first one writes: the second one's directory is never made."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [start(tmp_path / f"run{i}", SHARED, devices=1, processes=[coordinator, 2, i]) for i in range(2)]
    first, second = (finish(process) for process in processes)
    assert first == second
    assert first["devices"] == 2
    assert not (tmp_path / "run1").exists()
    assert_same(tmp_path / "run0", alone["shared"])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_killed_on_two_devices_ends_the_same_on_one(alone, tmp_path, name):
    """What two devices did before the kill is in the metrics too."""
    config = CONFIGS[name]
    process = start(tmp_path / "run", config, devices=2, pause=1.0)
    while process.poll() is None and not checkpointed(tmp_path / "run"):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert 0 < max(checkpointed(tmp_path / "run")) < config.num_updates
    agents.train(ToyEnv(), config, run_dir=tmp_path / "run", resume=True, devices=1, progress=False)
    assert_same(tmp_path / "run", alone[name])


def test_hosts_without_work_are_refused(tmp_path, monkeypatch):
    class Device:
        def __init__(self, process_index):
            self.process_index = process_index

    monkeypatch.setattr(hosts, "choose_devices", lambda _: [Device(0), Device(1)])
    with pytest.raises(ValueError, match="1 agents of 1 groups fill 1 of 2 devices, which leaves whole hosts without"):
        agents.train(ToyEnv(), SMALL, run_dir=tmp_path / "run")
    assert not any(tmp_path.iterdir())


def test_more_devices_than_there_are(tmp_path):
    with pytest.raises(ValueError, match="devices must be from 1 to the 1 that there are, got 2"):
        agents.train(ToyEnv(), SMALL, run_dir=tmp_path / "run", devices=2)
    assert not any(tmp_path.iterdir())


def test_half_of_a_coordinator():
    with pytest.raises(ValueError, match="--coordinator HOST:PORT, --num-processes N and --process-id I together"):
        hosts.initialize("localhost:1234", None, 0)


class Picky(Exception):
    """Pickles, and cannot be rebuilt: the usual fate of an exception with arguments of its own."""

    def __init__(self, path, reason):
        super().__init__(f"{path}: {reason}")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (KeyError("lr"), KeyError, "lr"),
        (Picky("file", "lost"), RuntimeError, "Picky: file: lost"),
        (ValueError("held by", lambda: None), RuntimeError, "ValueError: .*held by"),
    ],
)
def test_what_process_0_raises_reaches_the_others(monkeypatch, error, kind, message):
    sent = []

    def broadcast(x):
        sent.append(x)
        return x

    def fail():
        raise error

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts.multihost_utils, "broadcast_one_to_all", broadcast)
    with pytest.raises(kind, match=message):
        hosts.on_first(fail)
    assert len(sent) == 2
    with pytest.raises((AttributeError, pickle.PicklingError, RuntimeError), match="lambda"):
        hosts.on_first(lambda: lambda: None)  # a result that cannot be sent
    assert len(sent) == 4
    assert hosts.on_first(lambda: 3) == 3
