"""Sections of recipes in the reference, with keys and defaults: griffe, which reads the sources, knows no msgspec."""

from typing import Any

import griffe


class SectionSignatures(griffe.Extension):
    """Gives every ``Section`` the constructor that msgspec makes: its annotated fields, as keywords with defaults."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called when a class's members are known."""
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
