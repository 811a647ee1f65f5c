"""A workshop whose worker trains and judges for real, on the reference model, and its gateway."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from pydantic import SecretStr
from running_stack import wait_until
from scripted_engine import ScriptedEngine, WordEncoder
from shared_workshop import SharedWorkshop

from adapt import workflow
from adapt.claims import Claims
from adapt.gate import HeldOutLosses, judge
from adapt.refresh import CandidateSteps, Workplace
from adapt.rollout import RolloutSteps
from adapt.trainer import Trainer, TrainingSummary
from adapt.training import TrainingSteps
from adapt.window import EngineWindow
from perce.example import Example
from perce.hyperparameters import Hyperparameters
from perce.tokens import ChatTokenizer
from perce.train import Step
from server.app import create_app
from server.jobs import Jobs
from server.services import Services
from server.settings import REFERENCE_MODEL

ADMIN_KEY = "attune-admin"


class WatchedTrainer(Trainer):
    """The real trainer, and what it was given.

    Attributes:
        starts: The folder that each training went on from.
        learnt: All prompts and replies of the last training, as one text.
        judged: Those of the last judgement.
    """

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        super().__init__(str(REFERENCE_MODEL), tokenizer, "cpu")
        self.starts: list[Path | None] = []
        self.learnt = self.judged = ""

    def train(
        self,
        examples: Sequence[Example],
        hyper: Hyperparameters,
        start: Path | None,
        folder: Path,
        on_step: Callable[[Step], None],
    ) -> TrainingSummary:
        self.starts.append(start)
        self.learnt = self._text(examples)
        return super().train(examples, hyper, start, folder, on_step)

    def held_out_losses(
        self,
        examples: Sequence[Example],
        incumbent: Path | None,
        candidate: Path,
        learnt: Sequence[Example] = (),
    ) -> HeldOutLosses:
        self.judged = self._text(examples)
        return super().held_out_losses(examples, incumbent, candidate, learnt)

    def _text(self, examples: Sequence[Example]) -> str:
        decode = self.tokenizer.decode
        return "\n".join(decode([*one.prompt_ids, *one.reply_ids]) for one in examples)


class TrainingWorkshop(SharedWorkshop):
    """A home with a real trainer, a real gate and a gateway over a scripted engine."""

    def __init__(self, home: Path, tokenizer: ChatTokenizer, engine: ScriptedEngine) -> None:
        super().__init__(home, tokenizer, engine)
        small = {"context_tokens": 96, "context_texts": 1}
        self.settings = self.settings.model_copy(
            update={**small, "admin_key": SecretStr(ADMIN_KEY)}
        )
        self.watched = WatchedTrainer(tokenizer)

    def gateway(self) -> TestClient:
        """The gateway, to be entered and left."""
        services = Services.build(self.settings, self._connect(), self.tokenizer, WordEncoder())
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return TestClient(create_app(services), headers=headers)

    def _steps(self, token: str) -> workflow.Steps:
        claims = Claims(self.database, token)
        window = EngineWindow(self.database, self._connect, token, False, self.watched.release)
        hyper = Hyperparameters(max_length=512)
        candidate = CandidateSteps(
            self.settings,
            self.database,
            WordEncoder(),
            self.watched,
            hyper,
            judge,
            claims,
            window,
        )
        fingerprint = self.watched.base_fingerprint
        rollout = RolloutSteps(
            self.settings, self.database, hyper, fingerprint, claims, window, self._connect
        )
        training = TrainingSteps(
            self.database, self.watched, hyper, claims, window, Workplace(self.home, token)
        )
        jobs = Jobs(self.settings.queue_url())
        return workflow.Steps(claims, candidate, training, rollout, jobs)


def refreshed(gateway: TestClient, owner: str, seconds: float = 900) -> dict[str, Any]:
    """Refresh a user, or the population, through the API, and return how it ended."""
    path = f"/v1/users/{owner}/refreshes"
    identity = gateway.post(path, json={}).raise_for_status().json()["id"]
    show = partial(gateway.get, f"{path}/{identity}")
    wait_until(lambda: show().json()["status"] in ("succeeded", "failed", "cancelled"), seconds)
    ended: dict[str, Any] = show().json()
    return ended


def served_by(gateway: TestClient, engine: ScriptedEngine, user: str) -> tuple[str | None, str]:
    """Chat as a user; return the version that the reply names, and the weights it came from."""
    engine.replies.append("Fine, thanks.")
    body = {"user": user, "messages": [{"role": "user", "content": "How are you?"}]}
    answer = gateway.post("/v1/chat/completions", json=body).raise_for_status().json()
    model: str = engine.bodies("/v1/chat/completions")[-1]["model"]
    return answer["personalization"]["adapter"], model
