"""`python -m regsim` and the `regsim` command."""

import os
import sys


def main() -> None:
    """Run the command line."""
    # Waiting threads that spin cost a factor of ten where something else runs on the same cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from regsim.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
