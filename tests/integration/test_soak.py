"""Soak: clients chat while versions are published and rolled back, and nobody notices.

Real engine, gateway and store; the versions are made without training and go through the
registry and the swap that a refresh uses. Quiet and swapping windows take turns, so that
the wait for the first token is compared between windows that lie next to each other.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import median

import pytest
from chat_clients import ChatClients, Turn
from noisy_adapter import save_noisy_adapters
from publisher import Activation, Publisher
from running_stack import Stack

USERS = ("soak-0", "soak-1", "soak-2", "soak-3")
CLIENTS = 16
MOST_SLOWDOWN = 1.5
# What the first token's logprob may differ by between two runs of the same weights on the same
# prompt, which are batched with other requests each time.
SAME_WEIGHTS_NATS = 0.01

Report = Callable[[str], None]
Pair = tuple[float, float]
"""The median wait for the first token in a quiet and in the neighbouring swapping window, s."""


@dataclass(frozen=True)
class Soak:
    """What the clients saw.

    Attributes:
        windows: Start and end of each quiet window and of its neighbour with swaps.
    """

    turns: Sequence[Turn]
    windows: Sequence[tuple[tuple[float, float], tuple[float, float]]]
    publisher: Publisher

    def failures(self) -> list[Turn]:
        return [turn for turn in self.turns if turn.error is not None]

    def stale(self) -> list[Turn]:
        """Replies of a version that was active at no time between sending and answering."""
        return [
            turn
            for turn in self.turns
            if turn.error is None
            and not self.publisher.may_have_answered(
                turn.user, turn.adapter, turn.sent, turn.answered
            )
        ]

    def first_logprobs(self) -> dict[str, dict[Path | None, list[float]]]:
        """First tokens' logprobs by prompt and weights: equal, unless other weights answered."""
        found: dict[str, dict[Path | None, list[float]]] = {}
        for turn in self.turns:
            if turn.error is None:
                weights = self.publisher.weights.get((turn.user, turn.adapter or ""))
                found.setdefault(turn.message, {}).setdefault(weights, []).append(turn.logprob)
        return found

    def pairs(self) -> list[Pair]:
        return [
            (self._first_token_s(quiet), self._first_token_s(swap)) for quiet, swap in self.windows
        ]

    def slowdown(self) -> float:
        """The median over pairs of windows of swapping time by quiet time."""
        return median(swapping / quiet for quiet, swapping in self.pairs())

    def _first_token_s(self, window: tuple[float, float]) -> float:
        start, end = window
        waits = [
            turn.first_token_s
            for turn in self.turns
            if turn.error is None and start <= turn.sent and turn.answered <= end
        ]
        assert waits, f"no turn lies within a window of {end - start:.1f} s"
        return median(waits)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_noisy_adapters(tmp_path_factory.mktemp("weights"), count=5, scale=0.5)


@pytest.fixture
def publisher(stack: Stack, weights: list[Path]) -> Iterator[Publisher]:
    with stack.client() as client:
        for user in USERS:
            client.post("/v1/users", json={"name": user}).raise_for_status()
    publisher = Publisher.of(stack, weights)
    yield publisher
    publisher.close()
    with stack.client() as client:
        for user in USERS:
            client.delete(f"/v1/users/{user}").raise_for_status()


def test_chats_go_on_while_versions_come_and_go(
    stack: Stack, publisher: Publisher, report: Report
) -> None:
    soak = soaked(stack, publisher, pairs=2, publishes=4, rollbacks=1)
    describe(soak, report)
    assert_nobody_noticed(soak)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_soak(stack: Stack, publisher: Publisher, report: Report) -> None:
    """100 publishes and 20 rollbacks. The slowdown holds on a machine that does nothing else."""
    soak = soaked(stack, publisher, pairs=20, publishes=5, rollbacks=1)
    describe(soak, report)
    assert_nobody_noticed(soak)
    assert soak.slowdown() <= MOST_SLOWDOWN, f"slowdowns: {_slowdowns(soak)}"


def soaked(stack: Stack, publisher: Publisher, pairs: int, publishes: int, rollbacks: int) -> Soak:
    """Chat with all clients through pairs of a quiet and a swapping window of the same length."""
    for user in USERS:
        publisher.publish(user)
        publisher.publish(user)  # so that there is one to roll back to
    windows = []
    clients = ChatClients(stack.gateway_url, stack.admin_key, USERS, CLIENTS, _message)
    with clients:
        # The first replies fill the caches.
        first = _timed(lambda: _swap(stack, publisher, publishes=4, rollbacks=0))
        length = first[1] - first[0]
        for pair in range(pairs):
            # Which one comes first takes turns, so that a drift of the machine cancels out.
            if pair % 2:
                quiet = _timed(partial(time.sleep, length))
            swapping = _timed(lambda: _swap(stack, publisher, publishes, rollbacks))
            length = swapping[1] - swapping[0]
            if not pair % 2:
                quiet = _timed(partial(time.sleep, length))
            windows.append((quiet, swapping))
    return Soak(clients.turns, windows, publisher)


def assert_nobody_noticed(soak: Soak) -> None:
    failures, stale = soak.failures(), soak.stale()
    assert not failures, f"{len(failures)} of {len(soak.turns)} turns failed: {failures[:5]}"
    assert not stale, f"{len(stale)} of {len(soak.turns)} turns were stale: {stale[:5]}"
    assert_weights_answered(soak)


def assert_weights_answered(soak: Soak) -> None:
    """Check that equal weights answered alike, and that most other weights would have shown."""
    differences = []
    for prompt, by_weights in soak.first_logprobs().items():
        for weights, logprobs in by_weights.items():
            spread = max(logprobs) - min(logprobs)
            assert spread <= SAME_WEIGHTS_NATS, f"{prompt}: not {weights} alone, {logprobs}"
        middles = [median(logprobs) for logprobs in by_weights.values()]
        differences += [abs(a - b) for a, b in combinations(middles, 2)]
    told_apart = sum(difference > 5 * SAME_WEIGHTS_NATS for difference in differences)
    assert told_apart >= 0.8 * len(differences) > 0, f"weights look alike: {differences}"


def describe(soak: Soak, report: Report) -> None:
    quiet, swapping = zip(*soak.pairs(), strict=True)
    versions = len(soak.publisher.weights)
    report(
        f"{len(soak.turns)} turns of {CLIENTS} clients, {versions} publishes, "
        f"{len(soak.publisher.activations) - versions} rollbacks, {len(soak.failures())} failed, "
        f"{len(soak.stale())} stale"
    )
    report(
        f"time to first token, medians: quiet {1000 * median(quiet):.0f} ms, swapping "
        f"{1000 * median(swapping):.0f} ms, slowdown {soak.slowdown():.2f} ({_slowdowns(soak)})"
    )


def test_a_version_that_was_not_active_is_told_from_one_that_was(tmp_path: Path) -> None:
    publisher = Publisher.__new__(Publisher)
    publisher.activations = [
        Activation("a", "v1", after=10.0, before=10.5),
        Activation("b", "v9", after=11.0, before=11.5),
        Activation("a", "v2", after=20.0, before=20.5),
    ]
    may = publisher.may_have_answered
    assert may("a", None, 9.0, 9.5) and may("a", None, 10.2, 10.3)
    assert not may("a", None, 10.6, 10.7)
    assert may("a", "v1", 10.1, 10.2) and may("a", "v1", 20.4, 21.0)
    assert not may("a", "v1", 9.0, 9.9) and not may("a", "v1", 20.6, 21.0)
    assert may("a", "v2", 19.0, 20.1) and not may("a", "v2", 19.0, 19.9)
    assert not may("a", "v9", 12.0, 13.0)


def _swap(stack: Stack, publisher: Publisher, publishes: int, rollbacks: int) -> None:
    for _ in range(publishes):
        publisher.publish(USERS[len(publisher.weights) % len(USERS)])
    for _ in range(rollbacks):
        done = len(publisher.activations) - len(publisher.weights)
        publisher.rollback(stack, USERS[done % len(USERS)])


def _timed(action: Callable[[], None]) -> tuple[float, float]:
    start = time.monotonic()
    action()
    return start, time.monotonic()


def _message(client: int, _turn: int) -> str:
    """One prompt a client, so that its replies can be compared."""
    return f"Client {client} asks: write a post about your weekend."


def _slowdowns(soak: Soak) -> str:
    return ", ".join(f"{swapping / quiet:.2f}" for quiet, swapping in soak.pairs())
