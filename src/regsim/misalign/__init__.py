"""Pairs of images whose misalignment is known: motion, appearance, anatomy, and the audit of what they give away."""
