"""Measurements: each is made in fresh subprocesses and carries the conditions under which it holds."""
