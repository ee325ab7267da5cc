"""Runs experiments: trains the trials of a config and records their results."""
