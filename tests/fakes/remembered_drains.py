"""A queue for tests in which nothing runs."""

from server.errors import JobsUnavailableError
from server.jobs import Jobs


class RememberedDrains(Jobs):
    """A queue that only remembers whose versions it was asked to drain, or is away."""

    def __init__(self) -> None:
        super().__init__("sqlite://")
        self.drained: list[int] = []
        self.away = False

    def drain(self, user_id: int, workflow_id: str | None = None, alone: bool = False) -> None:
        if self.away:
            raise JobsUnavailableError()
        self.drained.append(user_id)
