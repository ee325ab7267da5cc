"""Configs: keys, defaults, validation and the command line."""
