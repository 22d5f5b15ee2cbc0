"""`python -m agents.evaluate RUN_DIR`: see --help."""

import sys

from agents.cli import evaluate_command

if __name__ == "__main__":
    sys.exit(evaluate_command())
