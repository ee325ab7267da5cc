"""What pyproject.toml cannot state: the experiments in the wheel, the text of the index page."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# On the index page, links to files of the repository would lead nowhere.
README = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
INDEX_PAGE = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n", "", README)
INDEX_PAGE = re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", INDEX_PAGE)

setup(
    long_description=INDEX_PAGE,
    long_description_content_type="text/markdown",
    packages=[*find_packages("src"), "highway_jax.experiments"],
    package_dir={"": "src", "highway_jax.experiments": "experiments"},
)
