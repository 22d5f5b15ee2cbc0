"""`python -m agents.train TASK`: see --help."""

import sys

from agents.cli import train_command

if __name__ == "__main__":
    sys.exit(train_command())
