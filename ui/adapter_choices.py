"""What a person may choose among their adapter versions: one to answer with, one to go back to."""

from ui.records import Versions

Choices = list[tuple[str, str]]
"""Labels, and the values that requests name them by."""


def adapter_choices(versions: Versions) -> Choices:
    """Choices for the adapter: the active one, the base model, and every published version."""
    active = f"Active ({versions.answers})" if versions.answers else "Active (none yet)"
    published = [
        (f"{version.version} ({version.state})", version.version)
        for version in versions.data
        if version.state in {"active", "retired"}
    ]
    return [(active, "active"), ("None: base model", "none"), *published]


def rollback_choices(versions: Versions) -> Choices:
    """Everything that may become active and is not: published versions, and none at all."""
    choices = [
        (label, value)
        for label, value in adapter_choices(versions)
        if value not in {"active", "none", versions.active}
    ]
    return [*choices, ("None of their own", "none")] if versions.active else choices
