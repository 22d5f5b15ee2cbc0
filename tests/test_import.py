"""What importing the package does, nothing that a user would notice, and what the tests need of pytest."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import mjx_safety, sys
from jax._src import xla_bridge
assert not xla_bridge._backends, "importing started a device"
assert "matplotlib" not in sys.modules and "agents" not in sys.modules
mjx_safety.registered()
"""


def test_importing_prints_nothing_and_starts_no_device():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="runs on workers")
def test_a_file_runs_on_one_worker(request):
    """Else every worker would compile what its tests share, and nobody would notice."""
    assert request.node.nodeid.endswith("@test_import.py")
