"""The registry's states: which ways there are, and that no version becomes active by mistake."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shelf import Shelf

from server import pointer, registry
from server.errors import ConflictError, NotFoundError
from server.registry import IllegalTransitionError, State
from server.store.tables.adapters import Adapter
from server.store.users import erase_user

WAYS = {
    ("candidate", "active"),
    ("candidate", "rejected"),
    ("candidate", "erased"),
    ("active", "retired"),
    ("retired", "active"),
    ("retired", "erased"),
    *((state, "withdrawn") for state in ("candidate", "active", "retired")),
}


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path)
    yield made
    made.database.close()


@pytest.mark.parametrize(("before", "after"), list(product(get_args(State), repeat=2)))
def test_states_change_along_the_known_ways_alone(before: State, after: State) -> None:
    adapter = Adapter(user_id=1, version=2, state=before)
    if (before, after) in WAYS:
        registry.move(adapter, after)
        assert adapter.state == after
    else:
        with pytest.raises(IllegalTransitionError, match=rf"u1@v2 is {before} and cannot become"):
            registry.move(adapter, after)
        assert adapter.state == before


def test_provenance_is_kept_whole(shelf: Shelf) -> None:
    user = shelf.user()
    provenance = registry.Provenance(
        base_model="sha256:base",
        method="ce",
        parent_id=None,
        data_fingerprint="d" * 64,
        settings={"rank": 8, "learning_rate": 1e-3},
        code_version="0.2.0",
    )
    with shelf.database.write() as session:
        adapter = registry.add_candidate(session, user, provenance, {"loss": 2.5}, shelf.home)
    placed = shelf.candidate(user)
    stored = shelf.read(adapter)
    assert (stored.base_model, stored.method) == ("sha256:base", "ce")
    assert (stored.data_fingerprint, stored.code_version) == ("d" * 64, "0.2.0")
    assert stored.settings == {"rank": 8, "learning_rate": 1e-3}
    assert stored.metrics == {"loss": 2.5}
    assert set(placed.checksums) == {"adapter_config.json", "adapter_model.safetensors"}
    assert placed.size_bytes == len(b"weights") + len("{}")


def test_a_version_without_files_never_becomes_active(shelf: Shelf) -> None:
    user = shelf.user()
    provenance = registry.Provenance("sha256:base", "perce", None)
    with shelf.database.write() as session:
        adapter = registry.add_candidate(session, user, provenance, {}, shelf.adapters_dir)
    with pytest.raises(ConflictError, match="no files yet"), shelf.database.write() as session:
        pointer.promote(session, adapter.id)
    assert shelf.states(user) == ["candidate"]


def test_a_repeated_promotion_does_not_undo_a_rollback(shelf: Shelf) -> None:
    user = shelf.user()
    first, second = shelf.publish(user), shelf.publish(user)
    with shelf.database.write() as session:
        assert pointer.promote(session, second.id) is False
        pointer.rollback(session, user, first, seen=second)
    with shelf.database.write() as session:
        assert pointer.promote(session, second.id) is False
    assert shelf.states(user) == ["active", "retired"]


def test_rejected_and_erased_versions_stay_so(shelf: Shelf) -> None:
    user = shelf.user()
    rejected, erased = shelf.candidate(user), shelf.candidate(user)
    with shelf.database.write() as session:
        registry.reject(session, rejected, "worse")
        registry.reject(session, rejected, "worse than the base")
        registry.move(session.get_one(Adapter, erased.id), "erased")
    assert shelf.read(rejected).reason == "worse than the base"
    for adapter in (rejected, erased):
        with pytest.raises(IllegalTransitionError), shelf.database.write() as session:
            pointer.activate(session, adapter)
        with pytest.raises(NotFoundError), shelf.database.read() as session:
            registry.find(session, user, adapter.label)


def test_a_stale_copy_does_not_bring_an_erased_version_back(shelf: Shelf) -> None:
    user = shelf.user()
    first = shelf.publish(user)
    shelf.publish(user)
    stale = shelf.read(first)
    assert stale.state == "retired"
    with shelf.database.write() as session:
        registry.move(session.get_one(Adapter, first.id), "erased")
    with pytest.raises(IllegalTransitionError), shelf.database.write() as session:
        pointer.rollback(session, user, stale, seen=None)
    assert shelf.states(user) == ["erased", "active"]


def test_a_rollback_without_target_goes_back_step_by_step_to_the_base(shelf: Shelf) -> None:
    user = shelf.user()
    for _ in range(3):
        shelf.publish(user)
    for expected in ("v2", "v1", None):
        with shelf.database.write() as session:
            seen, target = registry.active(session, user), pointer.previous(session, user)
            assert (target.label if target else None) == expected
            pointer.rollback(session, user, target, seen)
    with pytest.raises(ConflictError, match="nothing to roll back"), shelf.database.read() as s:
        pointer.previous(s, user)
    assert shelf.states(user) == ["retired"] * 3


def test_the_same_rollback_sent_twice_goes_back_once(shelf: Shelf) -> None:
    user = shelf.user()
    shelf.publish(user)
    with shelf.database.read() as session:
        seen = registry.active(session, user)
    with shelf.database.write() as session:
        assert pointer.rollback(session, user, None, seen) is not None
    with shelf.database.write() as session:
        assert pointer.rollback(session, user, None, seen) is None


def test_a_rollback_that_a_refresh_overtook_is_refused(shelf: Shelf) -> None:
    user = shelf.user()
    first, second = shelf.publish(user), shelf.publish(user)
    shelf.publish(user)
    with pytest.raises(ConflictError, match="u1@v3 became active"), shelf.database.write() as s:
        pointer.rollback(s, user, first, seen=second)
    assert shelf.states(user) == ["retired", "retired", "active"]


def test_files_of_a_user_who_was_erased_meanwhile_are_refused(shelf: Shelf) -> None:
    user = shelf.user()
    adapter = shelf.candidate(user)
    with shelf.database.write() as session:
        erase_user(session, user)
        assert registry.attach_files(session, adapter.id, {}, 0) is False


def test_the_lineage_starts_at_the_active_version_and_goes_back(shelf: Shelf) -> None:
    user = shelf.user()
    for _ in range(3):
        shelf.publish(user)
    shelf.candidate(user)
    with shelf.database.write() as session:
        assert [a.label for a in registry.lineage(session, user)] == ["v3", "v2", "v1"]
        pointer.rollback(session, user, registry.find(session, user, "v2"), None)
        assert [a.label for a in registry.lineage(session, user)] == ["v2", "v1"]
        pointer.deactivate(session, user)
        assert registry.lineage(session, user) == ()


@settings(
    max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.sampled_from(["candidate", "promote", "back", "base", "v1", "reject"]), max_size=8)
)
def test_whatever_happens_at_most_one_version_is_active(shelf: Shelf, acts: list[str]) -> None:
    shelf.made += 1
    user = shelf.user(f"user{shelf.made}")
    candidates = [shelf.candidate(user)]
    for act in acts:
        if act == "candidate":
            candidates.append(shelf.candidate(user))
            continue
        try:
            with shelf.database.write() as session:
                if act == "promote":
                    pointer.promote(session, candidates[-1].id)
                elif act == "reject":
                    registry.reject(session, candidates[-1], "worse")
                else:
                    to = pointer.previous(session, user) if act == "back" else None
                    to = registry.find(session, user, "v1") if act == "v1" else to
                    pointer.rollback(session, user, to, None)
        except (ConflictError, NotFoundError):
            continue
        states = shelf.states(user)
        assert states.count("active") <= 1
        assert set(states) <= {"candidate", "active", "retired", "rejected"}
