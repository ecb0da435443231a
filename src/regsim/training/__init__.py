"""Training: objectives, the one training loop, recipes."""
