"""regsim."""
