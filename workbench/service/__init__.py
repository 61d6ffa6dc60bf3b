"""A running service: what its metrics say, how it is watched, and load to try it."""
