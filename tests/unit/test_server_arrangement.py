from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.arrangement import Capacity, Planned, arrange, urgency
from server.due import DueUser
from server.pace import Pace

NIGHT = datetime(2026, 11, 21, 3, tzinfo=UTC)
# A refresh of n texts takes n seconds.
PACE = Pace(tokens_per_s=1.0, tokens_per_text=1.0, overhead_s=0.0, replay_share=0.0)


def due_user(
    number: int, texts: int = 40, hours: float = 24.0, waiting: datetime | None = None
) -> DueUser:
    return DueUser(number, texts, texts, NIGHT - timedelta(hours=hours), waiting)


users = st.lists(
    st.builds(
        due_user,
        st.integers(1, 10**6),
        st.integers(32, 400),
        st.floats(0, 1000),
        st.none() | st.integers(1, 9).map(lambda days: NIGHT - timedelta(days=days)),
    ),
    unique_by=lambda user: user.id,
    max_size=40,
)
capacities = st.builds(
    Capacity, st.none() | st.floats(1, 3000), st.integers(1, 5), st.integers(1, 3)
)


def naive_plan(due: Sequence[DueUser], capacity: Capacity) -> list[tuple[int, int | None]]:
    """Write down the rule a second time, slowly: pick the next user again and again."""
    left, order = list(due), list[DueUser]()
    while left:
        waiting = [user for user in left if user.waiting_since is not None]
        if waiting:
            longest = min(user.waiting_since for user in waiting if user.waiting_since)
            pool = [user for user in waiting if user.waiting_since == longest]
        else:
            pool = left
        best = max(pool, key=lambda user: (urgency(user, NIGHT), -user.id))
        order.append(best)
        left.remove(best)
    placed: list[tuple[int, int | None]] = []
    for start in range(0, len(order), capacity.fleet_size):
        end = start + capacity.fleet_size
        needed = sum(user.text_count for user in order[:end])
        room = None if capacity.window_s is None else capacity.window_s * capacity.workers
        fits = start == 0 or room is None or needed <= room
        number = start // capacity.fleet_size + 1
        placed += [(user.id, number if fits else None) for user in order[start:end]]
    return placed


@settings(deadline=None)
@given(users, capacities)
def test_the_plan_is_that_of_a_naive_planner(due: list[DueUser], capacity: Capacity) -> None:
    planned = arrange(due, PACE, capacity, NIGHT)
    assert [(one.user_id, one.fleet) for one in planned] == naive_plan(due, capacity)
    texts = {user.id: user.text_count for user in due}
    assert all(one.expected_s == pytest.approx(texts[one.user_id]) for one in planned)


def test_twice_as_many_texts_count_as_much_as_twice_the_wait() -> None:
    assert urgency(due_user(1, texts=20, hours=10), NIGHT) == 200
    assert urgency(due_user(1, texts=10, hours=20), NIGHT) == 200
    assert urgency(due_user(1, hours=-1), NIGHT) == 0


def test_who_was_left_out_before_comes_first_and_the_oldest_of_them_before_all() -> None:
    urgent = due_user(1, texts=400, hours=900)
    since = [NIGHT - timedelta(days=days) for days in (1, 2)]
    waiting = [due_user(2, waiting=since[0]), due_user(3, waiting=since[1])]
    planned = arrange([urgent, *waiting], PACE, Capacity(), NIGHT)
    assert [one.user_id for one in planned] == [3, 2, 1]


def test_nobody_overtakes_by_being_short_and_one_fleet_always_fits() -> None:
    due = [due_user(1, texts=300), due_user(2, texts=200), due_user(3, texts=40)]
    planned = arrange(due, PACE, Capacity(window_s=320.0), NIGHT)
    assert planned == [Planned(1, 1, 300.0), Planned(2, None, 200.0), Planned(3, None, 40.0)]
    (first, *_) = arrange(due, PACE, Capacity(window_s=1.0), NIGHT)
    assert first.fleet == 1


arrivals = st.lists(
    st.lists(st.tuples(st.integers(32, 400), st.floats(1, 500)), max_size=8),
    min_size=1,
    max_size=12,
)


@settings(deadline=None)
@given(arrivals, st.floats(1, 800), st.integers(1, 3))
def test_whatever_the_load_nobody_starves(
    nights: list[list[tuple[int, float]]], window_s: float, fleet_size: int
) -> None:
    """Of n users who are due on one night, each is planned within n nights.

    Every night others become due, with any urgency; after the last of them, nights go on
    until nobody waits.
    """
    capacity = Capacity(window_s, fleet_size)
    waiting: dict[int, DueUser] = {}
    planned_by: dict[int, int] = {}
    deadline: dict[int, int] = {}
    number, night = 0, 0
    while night < len(nights) or waiting:
        at = NIGHT + timedelta(days=night)
        for texts, hours in nights[night] if night < len(nights) else []:
            number += 1
            stale = at - timedelta(hours=hours)
            waiting[number] = DueUser(number, texts, texts, stale, None)
        for user in waiting:
            deadline.setdefault(user, night + len(waiting) - 1)
        for one in arrange(list(waiting.values()), PACE, capacity, at):
            if one.fleet is not None:
                planned_by[one.user_id] = night
                del waiting[one.user_id]
            elif waiting[one.user_id].waiting_since is None:
                waiting[one.user_id] = waiting[one.user_id]._replace(waiting_since=at)
        night += 1
    assert planned_by.keys() == deadline.keys()
    assert all(planned_by[user] <= deadline[user] for user in planned_by)


@pytest.mark.parametrize(
    ("new", "total", "texts"),
    [(100, 100, 100), (10, 20, 20), (10, 500, 32), (40, 500, 80)],
)
def test_a_refresh_is_expected_to_train_on_new_texts_and_a_share_of_old_ones(
    new: int, total: int, texts: int
) -> None:
    pace = Pace(tokens_per_s=500.0, tokens_per_text=1000.0, overhead_s=7.0, replay_share=0.5)
    assert pace.seconds(new, total) == pytest.approx(7 + 2 * texts)
