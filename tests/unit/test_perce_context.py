from hypothesis import given
from hypothesis import strategies as st

from perce.context import Candidate, select_context
from perce.prompt import INSTRUCTION, ContextItem, prompt_pair

items = st.builds(
    lambda kind, text, query, score, position: (kind, text, query, score, position),
    st.sampled_from(["fact", "text"]),
    st.text("ab ", min_size=1, max_size=30),
    st.text("q", max_size=3),
    st.floats(-1, 1),
    st.integers(0, 1000),
)


def candidates(rows: list[tuple[str, str, str, float, int]]) -> list[Candidate]:
    return [
        Candidate(str(i), ContextItem("fact" if kind == "fact" else "text", text, query), score, at)
        for i, (kind, text, query, score, at) in enumerate(rows)
    ]


@given(st.lists(items, max_size=12), st.integers(0, 80), st.integers(0, 5))
def test_a_selection_keeps_the_budget_and_the_reading_order(
    rows: list[tuple[str, str, str, float, int]], budget: int, most: int
) -> None:
    offered = candidates(rows)
    chosen = select_context(offered, budget, most, len)
    assert sum(len(c.item.text) + len(c.item.query) for c in chosen) <= budget
    kinds = [c.item.kind for c in chosen]
    assert kinds == sorted(kinds)
    assert kinds.count("text") <= most
    for kind in ("fact", "text"):
        positions = [c.position for c in chosen if c.item.kind == kind]
        assert positions == sorted(positions)
    assert len({c.id for c in chosen}) == len(chosen)
    if most >= len(offered):
        cost = {c.id: len(c.item.text) + len(c.item.query) for c in offered}
        spent = sum(cost[c.id] for c in chosen)
        left_out = [c for c in offered if c.id not in {one.id for one in chosen}]
        # Nothing that would still fit was left out.
        assert all(cost[c.id] > budget - spent for c in left_out)


def test_the_nearest_texts_win() -> None:
    rows = [("text", "far", "", 0.1, 3), ("text", "near", "", 0.9, 1), ("text", "mid", "", 0.5, 2)]
    chosen = select_context(candidates(rows), 100, 2, len)
    assert [c.item.text for c in chosen] == ["near", "mid"]


def test_a_long_item_is_passed_over_for_a_smaller_one() -> None:
    rows = [("text", "x" * 50, "", 0.9, 1), ("text", "short", "", 0.1, 2)]
    assert [c.item.text for c in select_context(candidates(rows), 10, 3, len)] == ["short"]


USER = {"role": "user", "content": "hi"}
CONTEXT = [ContextItem("fact", "I bake."), ContextItem("text", "so good", "How was it?")]


def test_the_two_prompts_differ_by_the_persona_block_alone() -> None:
    pair = prompt_pair([USER], CONTEXT)
    assert pair.without_persona == (USER,)
    system, user = pair.with_persona
    assert user == USER
    assert system["content"] == (
        "About the user:\n- I bake.\n\n"
        "Texts the user wrote before:\n\n[How was it?]\nso good\n\n" + INSTRUCTION
    )


def test_the_conversation_s_own_system_message_stays_in_both() -> None:
    parts = [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]
    for own, plain in (("Be brief.", "Be brief."), (parts, "Be brief.\nBe kind.")):
        system = {"role": "system", "content": own}
        pair = prompt_pair([system, USER], CONTEXT)
        assert pair.without_persona == (system, USER)
        assert pair.with_persona[0]["content"].startswith(f"{plain}\n\nAbout the user:")
        assert pair.with_persona[1:] == (USER,)


def test_an_empty_context_leaves_nothing_to_compare() -> None:
    pair = prompt_pair([USER], [])
    assert pair.with_persona == pair.without_persona == (USER,)
