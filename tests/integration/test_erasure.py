"""Erasing a user: what goes at once, and what races with it; on SQLite and PostgreSQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi import BackgroundTasks
from population_versions import PopulationVersions
from simultaneous import at_once

from adapt.claims import Claims
from server import erasure, pointer, population, refreshes
from server.auth import Principal
from server.errors import ConflictError, UnprocessableError
from server.routes.pir import feedback
from server.schemas import FeedbackRequest
from server.services import Services
from server.settings import Settings
from server.store import memory
from server.store.database import Database
from server.store.tables.adapters import Adapter
from server.store.tables.people import Interaction, User
from server.store.tables.refreshes import Refresh
from server.store.users import lock_user


@pytest.fixture
def made(database: Database, tmp_path: Path) -> PopulationVersions:
    return PopulationVersions(database, tmp_path / "adapters")


def test_who_is_erased_loses_texts_versions_and_refresh_in_one_transaction(
    database: Database, made: PopulationVersions
) -> None:
    mina, wilf = made.person("mina"), made.person("wilf")
    shared = made.shared(mina, wilf)
    own, derived = made.publish(mina), made.publish(wilf, shared)
    with database.write() as session:
        opened = refreshes.open_refresh(session, mina, "perce")
    for texts in (10, 0):  # an erasure that was interrupted is begun again
        with database.write() as session:
            counts, refresh_ids = erasure.begin(session, mina)
        assert (counts["texts"], refresh_ids) == (texts, [opened.id])
    person = made.read("mina")
    assert (person.consent, person.shares, person.text_count, person.new_texts) == (
        False,
        False,
        0,
        0,
    )
    with database.read() as session:
        assert session.get_one(Refresh, opened.id).status == "cancelled"
        left = {one.id for one in erasure.remaining(session, mina)}
    assert left == {own.id, shared.id, derived.id}
    with database.write() as session, pytest.raises(UnprocessableError, match="consent"):
        refreshes.open_refresh(session, person, "perce")


def test_erasures_and_activations_at_once_leave_nothing_that_answers(
    database: Database, made: PopulationVersions
) -> None:
    for number in range(5):
        user = made.person(f"user{number}", shares=False)
        candidate = made.candidate(user)
        with database.write() as session:
            opened = refreshes.open_refresh(session, user, "perce")
            refreshes.advance(session, opened.id, status="running", stage="warm", worker="w")

        def activate(adapter: Adapter = candidate, refresh_id: str = opened.id) -> None:
            """As a refresh does it."""
            with database.write() as session:
                population.turn(session)
                Claims(database, "w").enter(session, refresh_id, "activate")
                pointer.promote(session, adapter.id)

        def erase(person: User = user) -> None:
            with database.write() as session:
                erasure.begin(session, person)

        at_once([activate, erase])
        assert made.states(user) == ["withdrawn"]


def feed_back(database: Database, user: User, home: Path) -> None:
    parts = cast(Services, SimpleNamespace(database=database, settings=Settings(home=home)))
    request = FeedbackRequest(id="reply", feedback="up")
    feedback(request, parts, Principal("user", user.name), BackgroundTasks())


def forget_a_fact(database: Database, user: User, _home: Path) -> None:
    with database.read() as session:
        (fact,) = memory.facts(session, user)
    with database.write() as session:
        memory.remove_fact(session, user, fact.id)


@pytest.mark.parametrize("change", [feed_back, forget_a_fact])
def test_who_changes_what_an_erasure_deletes_waits_for_it_and_is_refused(
    database: Database,
    made: PopulationVersions,
    tmp_path: Path,
    change: Callable[[Database, User, Path], None],
) -> None:
    user = made.person("mina")
    with database.write() as session:
        memory.add_fact(session, user, "I bake.")
        session.add(
            Interaction(
                id="reply", user_id=user.id, messages=[], reply="r",
                prompt_token_ids=[], token_ids=[], logprobs=[], context=[],
            )
        )  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        with database.write() as session:
            lock_user(session, user.id)
            changing = pool.submit(change, database, user, tmp_path)
            # By then it has locked whatever it locks first.
            wait([changing], timeout=0.5)
            erasure.begin(session, user)
        with pytest.raises(ConflictError, match="is being erased"):
            changing.result()
