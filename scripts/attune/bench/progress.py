"""What a benchmark says while it works, on standard error."""

from rich.console import Console


def say(line: str) -> None:
    """Print a line as it is: a user's name in it may look like markup."""
    Console(stderr=True, markup=False, emoji=False).print(line)
