"""Measurements on real images. Each table in the docs names the module here that made it."""
