"""Training many users' adapters in one process, several at once over one frozen base model.

For devices that one user's step does not fill. Every user's adapter comes out as
`perce.train.train_adapter` would make it alone, up to rounding, whoever else is aboard: the
users share the passes through the model and nothing else. Only with dropout, whose draws are
common, do the numbers depend on the company. How many users to take at once is
`perce.fleet_size`; what a joint step computes is `perce.fleet_step`.

A user who is done leaves, and the next one comes aboard. A user who fails leaves with the
error. When a joint pass fails, half of its users wait, until it works or one user is left,
whose error it then is; an out-of-memory is first met with smaller parts of that user's batch.
Nothing was updated at that point, so every user goes on from the state before the step. As
soon as a user leaves, the fleet may grow again.
"""

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from perce.adapter import write_adapter
from perce.errors import AttuneError
from perce.example import Example
from perce.fleet_step import Trainee, fleet_backward
from perce.hyperparameters import Hyperparameters
from perce.run import Step, TrainResult


class BadFleetSize(AttuneError):
    """A fleet needs room for at least one user and one example."""


@dataclass(frozen=True, slots=True)
class FleetSize:
    """How much goes through the model at once.

    Attributes:
        users: K, the most users.
        micro_batch: Most examples of one user; None for all of the user's batch.

    Raises:
        BadFleetSize: One of them is below 1.
    """

    users: int = 1
    micro_batch: int | None = None

    def __post_init__(self) -> None:
        if self.users < 1 or (self.micro_batch is not None and self.micro_batch < 1):
            raise BadFleetSize(f"{self} must have at least 1 of each. Change users or micro_batch.")


@dataclass(frozen=True, slots=True)
class Member:
    """A user whose adapter is to be trained.

    Attributes:
        examples: What the user wrote or endorsed, each with its own persona context.
        hyper: Everything that can be chosen, for this user.
        folder: Where the adapter is written.
        start: The adapter folder to go on from; None for a fresh adapter.
    """

    examples: Sequence[Example]
    hyper: Hyperparameters
    folder: Path
    start: Path | None = None


Outcome = TrainResult | Exception
"""How one user's training ended: finished and written, or the error that ended it."""


def train_fleet(
    model: PreTrainedModel,
    members: Mapping[str, Member],
    size: FleetSize | None = None,
    on_step: Callable[[str, Step], None] | None = None,
) -> dict[str, Outcome]:
    """Train each user's adapter and write its folder, which is PEFT's.

    Users with the longest examples come first, so that users of like length meet, which saves
    padding, and a lack of memory shows at the beginning.

    Args:
        model: The frozen base model, without adapters; the same afterwards, in evaluation mode.
        members: The users by name.
        size: How much goes through the model at once; by default one user after the other.
        on_step: Called with the user's name after each of the user's steps; whatever it raises
            cancels that user's training.

    Returns:
        For each user a result, or the error that ended that user's training alone: among
        others NothingToTrain, TrainingDiverged, AdapterError, torch.OutOfMemoryError, or what
        `on_step` raised. That user's folder is then not written, or must not be used.
    """
    fleet = _Fleet(model, members, size or FleetSize(), on_step)
    with torch.random.fork_rng():
        torch.manual_seed(min((member.hyper.seed for member in members.values()), default=0))
        while fleet.sails:
            fleet.step()
    return {user: fleet.outcomes[user] for user in members}


class _Fleet:
    """Who waits, who is aboard, and who has left, and how."""

    def __init__(
        self,
        model: PreTrainedModel,
        members: Mapping[str, Member],
        size: FleetSize,
        on_step: Callable[[str, Step], None] | None,
    ) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self._model = model
        self._members = members
        self._on_step = on_step
        self._most = size
        self._size = size
        self._waiting = sorted(members, key=lambda user: _longest(members[user].examples))
        self._aboard: dict[str, Trainee] = {}

    @property
    def sails(self) -> bool:
        """Whether somebody waits or is aboard."""
        return bool(self._waiting or self._aboard)

    def step(self) -> None:
        """One joint step of as many users as there is room for."""
        while self._waiting and len(self._aboard) < self._size.users:
            self._board(self._waiting.pop())
        running = list(self._aboard)[: self._size.users]
        if not running:
            return
        started = time.perf_counter()
        error = self._try_backward(running)
        if error is not None:
            self._shrink(running, error)
            return
        for user in running:
            self._advance(user, started)

    def _board(self, user: str) -> None:
        member = self._members[user]
        try:
            self._aboard[user] = Trainee.begin(
                self._model, member.examples, member.hyper, member.start
            )
        except Exception as error:
            self.outcomes[user] = error

    def _try_backward(self, users: Sequence[str]) -> Exception | None:
        """Compute all users' gradients, or none, and give back why not."""
        trainees = [self._aboard[user] for user in users]
        try:
            fleet_backward(self._model, trainees, self._size.micro_batch)
        except Exception as error:
            # The frames hold the pass's activations.
            traceback.clear_frames(error.__traceback__)
            for trainee in trainees:
                trainee.run.abandon()
            torch.cuda.empty_cache()
            return error
        return None

    def _shrink(self, running: Sequence[str], error: Exception) -> None:
        """Take less at once; what failed with nothing to take less of is that user's error."""
        size = self._size
        if len(running) > 1:
            self._size = FleetSize(len(running) // 2, size.micro_batch)
            return
        (user,) = running
        examples = len(self._aboard[user].run.batch)
        taken = min(size.micro_batch or examples, examples)
        if isinstance(error, torch.OutOfMemoryError) and taken > 1:
            self._size = FleetSize(1, taken // 2)
        else:
            self._leave(user, error)

    def _advance(self, user: str, started: float) -> None:
        """Take one user's step; write the adapter if it was the last one."""
        trainee, member = self._aboard[user], self._members[user]
        try:
            step = trainee.run.update(started)
            if self._on_step is not None:
                self._on_step(user, step)
            if trainee.run.done:
                write_adapter(trainee.adapter.config, trainee.adapter.state, member.folder)
                self._leave(user, trainee.run.result)
        except Exception as error:
            self._leave(user, error)

    def _leave(self, user: str, outcome: Outcome) -> None:
        self.outcomes[user] = outcome
        del self._aboard[user]
        # Perhaps it was this user who needed the room.
        self._size = FleetSize(min(2 * self._size.users, self._most.users), self._most.micro_batch)


def _longest(examples: Sequence[Example]) -> int:
    return max((example.length for example in examples), default=0)
