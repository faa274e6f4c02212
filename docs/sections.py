"""Griffe extension: shows recipe sections in the reference with their keys and defaults, as griffe ignores msgspec."""

from typing import Any

import griffe


class SectionSignatures(griffe.Extension):
    """Adds to every ``Section`` the constructor that msgspec generates: annotated fields as keywords with defaults."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Griffe's hook, called after a class's members are loaded."""
        if "Section" not in map(str, cls.bases):
            return
        fields = [member for member in cls.members.values() if member.is_attribute and member.annotation is not None]
        keywords = [
            griffe.Parameter(
                field.name,
                annotation=field.annotation,
                kind=griffe.ParameterKind.keyword_only,
                default=field.value,
            )
            for field in fields
            if "property" not in field.labels
        ]
        cls.set_member("__init__", griffe.Function("__init__", parameters=griffe.Parameters(*keywords), parent=cls))
