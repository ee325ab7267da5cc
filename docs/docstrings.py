"""Lets the API reference render `Example:` sections of docstrings as code, as `Examples:` are."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the sections, which this package writes in the singular."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Renames the section in the docstring of one object."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)
