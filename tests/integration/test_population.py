"""The population's adapter from the first text to the last, with real training on one home."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from scripted_engine import ScriptedEngine
from training_workshop import TrainingWorkshop, refreshed, served_by

from perce.tokens import ChatTokenizer
from server import due, population
from server.due import DueRule
from server.store.tables.base import now
from server.store.users import find_user

DEMO = Path(__file__).parents[2] / "demo"
AT_ONCE = DueRule(quiet_minutes=0, min_gap_hours=0)


def demo_lines(persona: str, first: int, last: int) -> list[str]:
    return (DEMO / persona / "history.jsonl").read_text().splitlines()[first:last]


SHARING = {
    "wilf-a": demo_lines("wilf", 0, 10),
    "anders": demo_lines("anders", 0, 10),
    "harriet": demo_lines("harriet", 0, 10),
    "wilf-b": demo_lines("wilf", 10, 20),
}
"""The last one is held out, and writes like the first."""


def texts(lines: list[str]) -> list[str]:
    return [json.loads(line)["text"] for line in lines]


@pytest.fixture
def workshop(
    tmp_path: Path, reference_tokenizer: ChatTokenizer, scripted_engine: ScriptedEngine
) -> Iterator[TrainingWorkshop]:
    threads = torch.get_num_threads()
    # Small batches gain nothing from more, and on busy cores the threads wait for each other.
    torch.set_num_threads(1)
    yield TrainingWorkshop(tmp_path, reference_tokenizer, scripted_engine)
    torch.set_num_threads(threads)


def test_the_population_serves_newcomers_and_forgets_who_leaves(
    workshop: TrainingWorkshop,
) -> None:
    engine, trainer = workshop.engine, workshop.watched
    with workshop.worker(), workshop.gateway() as gateway:
        everybody = {**SHARING, "mina": demo_lines("mina", 0, 28)}
        for name, lines in everybody.items():
            body = {"name": name, "shares": name in SHARING}
            gateway.post("/v1/users", json=body).raise_for_status()
            imported = gateway.post(f"/v1/users/{name}/history", content="\n".join(lines))
            assert imported.json()["imported"] == len(lines)

        # Those who share are learnt from, and judged by the one who is held out.
        ended = refreshed(gateway, population.NAME)
        assert (ended["status"], ended["verdict"]) == ("succeeded", "publish"), ended
        assert all(text in trainer.judged for text in texts(SHARING["wilf-b"]))
        learnt = [name for name, lines in SHARING.items() if texts(lines)[5] in trainer.learnt]
        assert learnt == ["wilf-a", "anders", "harriet"]
        # Nobody's newest fifth, nor anything of who does not share.
        for lines in SHARING.values():
            assert not any(text in trainer.learnt for text in texts(lines)[-3:])
        assert not any(text in trainer.learnt for text in texts(everybody["mina"]))
        with workshop.database.read() as session:
            mina, anders = find_user(session, "mina"), find_user(session, "anders")
            common = population.active(session)
            assert common is not None
            assert anders.id in workshop.members(common)

        # A newcomer is answered by it, and goes on from it.
        assert served_by(gateway, engine, "mina") == ("population@v1", common.name)
        ended = refreshed(gateway, "mina")
        assert ended["verdict"] == "publish", ended
        (own,) = workshop.adapters(mina)
        assert (own.parent_id, trainer.starts) == (common.id, [None, Path(common.folder)])
        assert ended["held_out_loss"]["incumbent"] is not None
        assert served_by(gateway, engine, "mina") == ("v1", own.name)
        assert served_by(gateway, engine, "anders") == ("population@v1", common.name)

        # With a member goes all that learnt from the member, whoever owns it.
        gateway.delete("/v1/users/anders").raise_for_status()
        (own,) = workshop.adapters(mina)
        (common,) = workshop.adapters(workshop.population())
        for adapter in (own, common):
            assert (adapter.state, adapter.erased_at is None) == ("withdrawn", False)
            assert not Path(adapter.folder).exists()
        assert engine.loaded == {}
        assert served_by(gateway, engine, "mina") == (None, "scripted")
        with workshop.database.read() as session:
            waiting = {one.id: one.new_texts for one in due.due_users(session, AT_ONCE, now())}
        assert waiting[mina.id] == len(everybody["mina"])

        # The next version knows nothing of who has gone.
        ended = refreshed(gateway, population.NAME)
        assert ended["status"] == "succeeded", ended
        assert (trainer.starts[-1], ended["held_out_loss"]["incumbent"]) == (None, None)
        assert not any(text in trainer.learnt + trainer.judged for text in texts(SHARING["anders"]))
        assert texts(SHARING["harriet"])[5] in trainer.learnt
        assert ended["verdict"] == "publish", ended
        (_, second) = workshop.adapters(workshop.population())
        assert anders.id not in workshop.members(second)
        assert served_by(gateway, engine, "mina") == ("population@v2", second.name)
    assert list((workshop.home / "work").iterdir()) == []
