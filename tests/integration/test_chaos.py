"""Chaos: worker, gateway and engine die at random points of refreshes while people chat.

Real services, ended by SIGKILL and started again by the supervisor of `attune up`. The seed
chooses who dies and when; it is printed, so that a run can be repeated as far as that goes.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from chaos import Chaos
from chat_clients import ChatClients, Turn
from noisy_adapter import save_noisy_adapters
from private_stack import private_stack
from publisher import Publisher
from running_stack import ServiceName, Stack
from sqlalchemy import select

from server import adapter_store
from server.store.tables.adapters import Adapter
from server.store.tables.people import Interaction, User
from server.store.tables.refreshes import Refresh

VICTIMS: tuple[ServiceName, ...] = ("worker", "gateway", "engine")
CLIENTS = 4
# Clients that never wait would leave two cores no time to refresh anybody.
PAUSE_S = 0.5
# A short context makes refreshes quick, so that a death may hit any step of many of them.
QUICK = {"ATTUNE_CONTEXT_TOKENS": "64", "ATTUNE_CONTEXT_TEXTS": "1", "ATTUNE_MAX_LENGTH": "256"}
KEPT = 2
QUICK |= {"ATTUNE_KEEP_VERSIONS": str(KEPT)}

Report = Callable[[str], None]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return save_noisy_adapters(tmp_path_factory.mktemp("weights"), count=2, scale=0.1)


@pytest.fixture
def seed() -> int:
    """Another one each time; `CHAOS_SEED` repeats one."""
    return int(os.environ.get("CHAOS_SEED") or random.SystemRandom().randrange(10**6))


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with private_stack(tmp_path_factory.mktemp("chaos"), QUICK) as stack:
        yield stack


def test_nothing_is_lost_when_services_die(
    stack: Stack, weights: list[Path], seed: int, report: Report
) -> None:
    """One death of each service."""
    stack.wait_ready()
    keep = stack.settings().keep_versions
    survive(stack, weights, seed, users=2, deaths=3, keep=keep, report=report)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_nothing_is_lost_in_fifty_deaths(
    own_stack: Stack, weights: list[Path], seed: int, report: Report
) -> None:
    survive(own_stack, weights, seed, users=12, deaths=50, keep=KEPT, report=report)


def survive(
    stack: Stack,
    weights: Sequence[Path],
    seed: int,
    users: int,
    deaths: int,
    keep: int,
    report: Report,
) -> None:
    report(f"CHAOS_SEED={seed}")
    rng = random.Random(seed)
    victims = [VICTIMS[number % len(VICTIMS)] for number in range(deaths)]
    rng.shuffle(victims)
    chaos = Chaos(stack, [f"chaos-{seed}-{number}" for number in range(users)], rng, keep)
    publisher = Publisher.of(stack, weights)
    for user in chaos.users:
        publisher.publish(user)
    publisher.close()
    clients = ChatClients(
        stack.gateway_url, stack.admin_key, chaos.users, CLIENTS, _message, pause_s=PAUSE_S
    )
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool, clients:
        for victim in victims:
            # At the same time, so that a service may die while a refresh is being asked for.
            asking = pool.submit(chaos.refresh_idle_users)
            chaos.strike(victim)
            report(f"{len(chaos.deaths)} of {deaths}: {chaos.deaths[-1]}")
            asking.result()
        chaos.refresh_idle_users()
        chaos.wait_until_all_ended()
    report(_summary(chaos, clients, time.monotonic() - started))
    assert_whole(chaos, clients)
    chaos.close()


def assert_whole(chaos: Chaos, clients: ChatClients) -> None:
    with chaos.database.read() as session:
        for user in session.scalars(select(User).where(User.name.in_(chaos.users))):
            versions = session.scalars(select(Adapter).where(Adapter.user_id == user.id)).all()
            refreshes = session.scalars(select(Refresh).where(Refresh.user_id == user.id)).all()
            _assert_refreshed(user, refreshes)
            _assert_one_active(user, versions)
            _assert_published_once(user, versions, refreshes)
            rows = session.scalars(select(Interaction).where(Interaction.user_id == user.id)).all()
            _assert_logged(user, rows, [turn for turn in clients.turns if turn.user == user.name])


def _assert_refreshed(user: User, refreshes: Sequence[Refresh]) -> None:
    bad = [(r.id, r.status, r.stage, r.error) for r in refreshes if r.status != "succeeded"]
    assert not bad, f"{user.name}: {len(bad)} of {len(refreshes)} refreshes did not end well: {bad}"
    assert user.new_texts == 0, f"{user.name} has {user.new_texts} texts that no version has seen"


def _assert_one_active(user: User, versions: Sequence[Adapter]) -> None:
    states = {version.label: version.state for version in versions}
    active = [version for version in versions if version.state == "active"]
    assert len(active) == 1, f"{user.name} has {len(active)} active versions: {states}"
    adapter_store.verify(active[0])
    for version in versions:
        if version.state == "retired":
            adapter_store.verify(version)
        elif version.state in ("erased", "rejected"):
            assert not Path(version.folder).exists(), f"{version.name} is {version.state}"
        else:
            assert version.state == "active", f"{version.name} is still {version.state}"


def _assert_published_once(
    user: User, versions: Sequence[Adapter], refreshes: Sequence[Refresh]
) -> None:
    made = Counter(refresh.adapter_id for refresh in refreshes if refresh.adapter_id)
    expected = Counter(version.id for version in versions)
    assert made == expected, f"{user.name}: versions by refreshes {made}, in all {expected}"
    numbers = sorted(version.version for version in versions)
    assert numbers == list(range(1, len(numbers) + 1)), f"{user.name}: versions {numbers}"


def _assert_logged(user: User, rows: Sequence[Interaction], turns: Sequence[Turn]) -> None:
    """A turn that the client saw end is stored once, as seen; any other one at most once."""
    stored = Counter(row.messages[-1]["content"] for row in rows)
    sent = {turn.message for turn in turns}
    assert set(stored) <= sent, f"{user.name}: stored but never sent: {set(stored) - sent}"
    doubled = {message: count for message, count in stored.items() if count > 1}
    assert not doubled, f"{user.name}: stored twice: {doubled}"
    by_id = {row.id: row for row in rows}
    for turn in turns:
        if turn.error is None:
            row = by_id.get(turn.identity)
            assert row is not None, f"{user.name}: lost {turn}"
            adapter = row.adapter.split("@")[1] if row.adapter else None
            assert (row.reply, adapter) == (turn.reply, turn.adapter), f"{user.name}: {turn}"


def _message(client: int, number: int) -> str:
    """Another one each time, so that what is stored twice shows."""
    return f"Note {client}-{number}: write a post about your weekend."


def _summary(chaos: Chaos, clients: ChatClients, seconds: float) -> str:
    killed = Counter(death.victim for death in chaos.deaths)
    hits = Counter(stage for death in chaos.deaths for stage in death.hit if stage != "queued")
    with chaos.database.read() as session:
        ended = Counter(
            session.scalars(
                select(Refresh.verdict)
                .join(User, User.id == Refresh.user_id)
                .where(User.name.in_(chaos.users))
            )
        )
    return (
        f"{len(chaos.deaths)} deaths ({dict(killed)}) in {seconds:.0f} s while refreshes were at "
        f"{dict(hits)}; refreshes by verdict {dict(ended)}; {len(clients.turns)} turns, "
        f"{len(clients.failures())} of them not answered"
    )
