"""All parts of the online side, built once from the settings and passed to the routes."""

from dataclasses import dataclass

from perce.retrieval import Encoder
from perce.tokens import ChatTokenizer
from server.chat import Chat
from server.context import ContextSource
from server.damage import Damage, ServedBase
from server.engine import Engine
from server.explain import Explainer
from server.jobs import Jobs
from server.leases import Leases
from server.servings import Servings
from server.settings import Settings
from server.store.database import Database
from server.upkeep import Upkeep


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work with."""

    settings: Settings
    database: Database
    engines: tuple[Engine, ...]
    tokenizer: ChatTokenizer
    encoder: Encoder
    contexts: ContextSource
    servings: Servings
    explainer: Explainer
    chat: Chat
    jobs: Jobs
    leases: Leases
    damage: Damage
    upkeep: Upkeep

    @classmethod
    def build(
        cls,
        settings: Settings,
        engines: tuple[Engine, ...],
        tokenizer: ChatTokenizer,
        encoder: Encoder,
    ) -> "Services":
        """Wire all parts to each other; nothing is connected yet."""
        database = Database(settings.store_url())
        contexts = ContextSource(database, encoder, settings, tokenizer)
        damage = Damage(ServedBase(settings.model))
        leases = Leases(database, damage)
        servings = Servings(database, contexts, engines, leases, tokenizer)
        jobs = Jobs(settings.queue_url())
        explainer = Explainer(tokenizer)
        return cls(
            settings=settings,
            database=database,
            engines=engines,
            tokenizer=tokenizer,
            encoder=encoder,
            contexts=contexts,
            servings=servings,
            explainer=explainer,
            chat=Chat(settings, database, servings, tokenizer, explainer),
            jobs=jobs,
            leases=leases,
            damage=damage,
            upkeep=Upkeep(settings, database, engines, jobs, leases, damage),
        )

    async def close(self) -> None:
        """Give everything back at shutdown."""
        for engine in self.engines:
            await engine.close()
        self.jobs.close()
        self.database.close()
