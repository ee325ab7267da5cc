"""Blocks, stacks and nets: the only package that imports Flax."""
