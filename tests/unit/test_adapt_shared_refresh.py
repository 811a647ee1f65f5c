"""Refreshes of the population, and of those who go on from it, through the real queue."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from types import MethodType

from refresh_workshop import KilledError, ScriptedTrainer
from running_stack import wait_until
from scripted_engine import ScriptedEngine
from shared_workshop import SharedWorkshop, before

from adapt import workflow
from adapt.gate import HeldOutLosses, Verdict
from adapt.membership import LearntLosses
from adapt.refresh import Prepared
from perce.example import Example
from perce.tokens import ChatTokenizer
from server import pointer
from server.store import memory
from server.store.memory import NewText


def test_a_refresh_of_the_population_learns_from_those_who_share(
    workshop: SharedWorkshop,
) -> None:
    workshop.user("mina")
    wilf, anders, harriet = workshop.sharing("wilf", "anders", "harriet")
    shared = workshop.population()
    with workshop.worker():
        ended = workshop.refreshed(shared)
    assert (ended.status, ended.verdict, ended.error) == ("succeeded", "publish", None)
    (adapter,) = workshop.adapters(shared)
    assert (adapter.state, adapter.parent_id) == ("active", None)
    # The one with the highest id is held out.
    assert workshop.members(adapter) == [wilf.id, anders.id]
    examples = ended.report["examples"]
    assert (examples["users"], examples["held_out_users"]) == (2, 1)
    assert (examples["train"], examples["held_out"]) == (26, 16)
    assert list(workshop.engine.loaded) == [adapter.name]
    assert workshop.files() == [str(Path(adapter.folder).relative_to(workshop.home))] * 3
    owner = workshop.read(shared)
    assert (owner.text_count, owner.new_texts, owner.failures) == (0, 0, 0)
    # Nobody's own texts count as learnt.
    assert [workshop.read(one).new_texts for one in (wilf, anders, harriet)] == [16, 16, 16]


def test_each_refresh_of_the_population_starts_afresh(workshop: SharedWorkshop) -> None:
    workshop.sharing("mina", "wilf")
    shared = workshop.population()
    with workshop.worker():
        for _ in range(2):
            workshop.refreshed(shared)
    first, second = workshop.adapters(shared)
    assert workshop.trainer.starts == [None, None]
    assert (second.parent_id, first.state, second.state) == (None, "retired", "active")
    assert workshop.members(first) == workshop.members(second)


def test_without_texts_to_learn_from_the_population_stays_as_it_is(
    workshop: SharedWorkshop,
) -> None:
    for user in workshop.sharing("mina", "wilf", texts=0):
        with workshop.database.write() as session:
            memory.add_texts(session, user, [NewText(f"{i}?", "ok", float(i)) for i in range(9)])
    shared = workshop.population()
    with workshop.worker():
        ended = workshop.refreshed(shared)
    assert (ended.status, ended.verdict) == ("succeeded", "reject")
    assert "attune users share" in (ended.reason or "")
    assert (workshop.adapters(shared), workshop.files()) == ([], [])


def test_a_first_refresh_goes_on_from_the_populations_version(workshop: SharedWorkshop) -> None:
    workshop.sharing("mina", "wilf")
    ada = workshop.user("ada")
    shared = workshop.population()
    with workshop.worker():
        workshop.refreshed(shared)
        first, second = (workshop.refreshed(ada) for _ in range(2))
    (common,) = workshop.adapters(shared)
    own, next_one = workshop.adapters(ada)
    assert workshop.trainer.starts == [None, Path(common.folder), Path(own.folder)]
    assert (own.parent_id, next_one.parent_id) == (common.id, own.id)
    # What the population has learnt is no text of hers: the first one replays nothing.
    assert [one.report["examples"]["replayed"] for one in (first, second)] == [0, 13]
    assert [one.report["held_out_loss"]["incumbent"] for one in (first, second)] == [1.9, 1.9]
    assert workshop.members(own) == []


def test_a_damaged_version_of_the_population_is_no_start(workshop: SharedWorkshop) -> None:
    workshop.sharing("mina", "wilf")
    ada = workshop.user("ada")
    shared = workshop.population()
    with workshop.worker():
        workshop.refreshed(shared)
        (common,) = workshop.adapters(shared)
        (Path(common.folder) / "adapter_model.safetensors").write_text("spoilt")
        ended = workshop.refreshed(ada)
    assert workshop.trainer.starts == [None, None]
    assert ended.report["held_out_loss"]["incumbent"] is None
    assert workshop.adapters(ada)[0].parent_id is None


def test_a_version_of_the_population_that_came_meanwhile_is_not_replaced(
    workshop: SharedWorkshop,
) -> None:
    workshop.sharing("mina", "wilf")
    ada = workshop.user("ada")
    shared = workshop.population()
    with workshop.worker():
        workshop.refreshed(shared)
    with workshop.database.write() as session:
        retired = pointer.deactivate(session, shared)
    assert retired is not None

    def bring_back() -> None:
        with workshop.database.write() as session:
            pointer.activate(session, retired)

    with workshop.worker(fragile=before("rollout", "activate", bring_back)):
        ended = workshop.refreshed(ada)
    assert (ended.status, ended.verdict) == ("succeeded", "reject")
    assert "population@v1 became active" in (ended.reason or "")


def test_a_worker_killed_behind_the_publication_records_members_once(
    workshop: SharedWorkshop,
) -> None:
    users = workshop.sharing("mina", "wilf", "anders")
    shared = workshop.population()
    killed: list[bool] = []

    def fragile(steps: workflow.Steps) -> None:
        publish = steps.rollout.publish

        def step(_rollout: object, *args: object) -> object:
            publish(*args)  # type: ignore[arg-type]  # passed through as they are
            killed.append(True)
            raise KilledError

        setattr(steps.rollout, "publish", MethodType(step, steps.rollout))  # noqa: B010

    with workshop.worker(fragile=fragile):
        (refresh_id,) = workshop.open(shared)
        wait_until(lambda: bool(killed), 120)
    with workshop.worker():
        ended = workshop.ended(refresh_id)
    (adapter,) = workshop.adapters(shared)
    assert (ended.verdict, adapter.state) == ("publish", "active")
    assert workshop.members(adapter) == [user.id for user in users[:2]]


class KnowingTrainer(ScriptedTrainer):
    """Says how well incumbent and candidate know what was learnt, where there is an incumbent."""

    def held_out_losses(
        self,
        examples: Sequence[Example],
        incumbent: Path | None,
        candidate: Path,
        learnt: Sequence[Example] = (),
    ) -> HeldOutLosses:
        known = None if incumbent is None else LearntLosses((), ())
        return HeldOutLosses((), None if incumbent is None else (), (), (), learnt=known)


class JudgingWorkshop(SharedWorkshop):
    """Keeps what its gate was told."""

    def _judge(self, losses: HeldOutLosses) -> Verdict:
        self.told = [*getattr(self, "told", []), losses]
        return super()._judge(losses)


def test_a_version_that_starts_afresh_need_not_know_more_than_the_one_before(
    tmp_path: Path, chat_tokenizer: ChatTokenizer, scripted_engine: ScriptedEngine
) -> None:
    workshop = JudgingWorkshop(tmp_path, chat_tokenizer, scripted_engine)
    workshop.trainer = KnowingTrainer(chat_tokenizer)
    workshop.sharing("mina", "wilf")
    ada, shared = workshop.user("ada"), workshop.population()
    with workshop.worker():
        for one in (shared, shared, ada):
            workshop.refreshed(one)
    assert [losses.incumbent is None for losses in workshop.told] == [True, False, False]
    assert [losses.learnt is None for losses in workshop.told] == [True, True, False]


def test_what_an_older_attune_prepared_is_read() -> None:
    older = Prepared.__new__(Prepared)
    older.__setstate__([{"train": 5}, 3])
    assert older == Prepared({"train": 5}, 3, ())
    assert pickle.loads(pickle.dumps(Prepared({}, None, (1, 2)))) == Prepared({}, None, (1, 2))
