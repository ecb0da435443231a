"""Evaluation: scores, true errors, overlap, folding, and the slices to look at."""
