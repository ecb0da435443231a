"""`python -m regsim` and the `regsim` command."""

import os
import sys


def main() -> None:
    """Run the command line."""
    # Threads that wait should spin only briefly: two programs on the same cores are else 30 times slower (docs/lab-notes.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    from regsim.cli.app import run

    sys.exit(run())


if __name__ == "__main__":
    main()
