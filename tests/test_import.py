"""What importing the package does: nothing that a user would notice."""

import subprocess
import sys

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
