"""Pruning to a latency: finds the share of channels to take away that brings a model to the time it may take."""
