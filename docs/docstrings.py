"""How the reference page reads docstrings: an Example is code that was run, whatever it is called.

Griffe takes `Examples:` for doctests, and `Example:`, which Google's style has too, for prose.
"""

import re
from typing import Any

from griffe import Extension, Object


class Doctests(Extension):
    """Lets griffe see doctests under `Example:` too."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section of one docstring."""
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.M
            )
