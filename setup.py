"""Adds the experiment files to the wheel; everything else is in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("src"), "highway_jax.experiments"],
    package_dir={"": "src", "highway_jax.experiments": "experiments"},
)
