from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from adapt.replay import MIN_HELD_OUT, MIN_TRAINED, Coverage, split_texts


def test_the_first_refresh_learns_all_but_the_newest_fifth() -> None:
    split = split_texts(range(100), None, 0.5, 0)
    assert split.train == tuple(range(80))
    assert split.held_out == tuple(range(80, 100))
    assert split.replayed == frozenset()


def test_a_later_refresh_learns_what_is_new_and_replays_as_much() -> None:
    parent = Coverage(499, tuple(range(400, 500)))
    split = split_texts(range(600), parent, 0.5, 0)
    assert split.held_out == tuple(range(480, 600))
    new = set(split.train) - split.replayed
    assert new == set(range(400, 480))
    assert len(split.replayed) == 80
    assert all(row < 400 for row in split.replayed)


def test_replay_prefers_newer_texts() -> None:
    parent = Coverage(999, ())
    drawn: Counter[bool] = Counter()
    for seed in range(40):
        replayed = split_texts(range(1100), parent, 0.5, seed).replayed
        drawn.update(row >= 500 for row in replayed)
    # Weights rise linearly: of a small sample three quarters come from the newer half.
    assert 0.7 < drawn[True] / drawn.total() < 0.8


def test_the_same_seed_draws_the_same() -> None:
    parent = Coverage(399, ())
    first, again = (split_texts(range(440), parent, 0.5, 3) for _ in range(2))
    assert first == again
    assert first != split_texts(range(440), parent, 0.5, 4)


def test_old_texts_that_come_in_late_are_new() -> None:
    """Judged on what it has learnt, the version before would win: it is judged on the others."""
    parent = Coverage(57, tuple(range(48, 58)))
    archive = range(58, 558)
    ids = [*archive, *range(58)]
    split = split_texts(ids, parent, 0.5, 0)
    held_out = [ids[row] for row in split.held_out]
    assert not any(one in parent for one in held_out)
    assert set(held_out) >= set(range(48, 58))
    new = {ids[row] for row in split.train} - {ids[row] for row in split.replayed}
    assert new == set(archive) - set(held_out)


def test_without_new_texts_a_refresh_replays() -> None:
    parent = Coverage(99, tuple(range(80, 100)))
    split = split_texts(range(100), parent, 0.5, 0)
    assert split.held_out == tuple(range(80, 100))
    assert len(split.train) == len(split.replayed) == MIN_TRAINED


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 300), unique=True, max_size=200),
    st.none() | st.builds(Coverage, st.integers(0, 300), st.lists(st.integers(1, 300)).map(tuple)),
    st.floats(0, 0.95),
)
def test_any_history_is_split_into_past_and_future(
    ids: list[int], parent: Coverage | None, share: float
) -> None:
    split = split_texts(ids, parent, share, 0)
    train, held_out = set(split.train), set(split.held_out)
    assert not train & held_out
    assert split.replayed <= train
    assert list(split.train) == sorted(train)
    wanted = max(MIN_HELD_OUT, round(len(ids) * 0.2))
    assert len(held_out) <= wanted
    assert len(held_out) >= min(MIN_HELD_OUT, len(ids))
    if parent is None:
        assert train | held_out == set(range(len(ids)))
    else:
        new = {row for row, one in enumerate(ids) if one not in parent}
        assert new - held_out == train - split.replayed
        assert max(held_out & new, default=0) == max(new, default=0) or len(new) < MIN_HELD_OUT


def test_coverage_is_read_from_a_versions_metrics() -> None:
    noted = {"examples": {"coverage": {"newest_id": 7, "held_out": [5, 6]}}}
    assert Coverage.of(noted) == Coverage(7, (5, 6))
    assert Coverage.of({}) is None
    assert Coverage.of({"examples": {"train": 3}}) is None
    assert [one in Coverage(7, (5, 6)) for one in (4, 5, 7, 8)] == [True, False, True, False]
