"""The main job without a person: chat, refresh, chat again, and what changed.

It uses one of the demo users of the installation. Where that user has an adapter already, the
job first goes back to the base model, so that every run compares the same two things. Without a
new version, of a rejected candidate or where the job ends early, the user gets that one back. A
refresh that is on the way then is cancelled.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event

from scripts.attune.up.errors import MainJobError, MainJobInterruptedError, NotRestoredError
from scripts.attune.up.report import MainJob
from ui.gateway import ChatRequest, Gateway
from ui.records import Refresh, Reply
from ui.transport import GatewayError

POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked before and after the refresh, and of whom.

    Attributes:
        user: A demo user.
        query: In the manner of that user's history, but not in it.
        max_tokens: Longest reply.
    """

    user: str = "anders"
    query: str = "Write a review of a bicycle pump."
    max_tokens: int = 96


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured before the job began, in seconds, and what the engine computes in."""

    install_s: float
    engine_start_s: float
    exact: bool


def run_main_job(
    gateway: Gateway,
    question: Question,
    measured: Measured,
    on_progress: Callable[[Refresh], None],
    leave: Event,
) -> MainJob:
    """Chat without adapter, refresh, chat on the new version, and score both replies.

    However it ends, the user has the new version then, or the one from before.

    Args:
        gateway: The gateway.
        question: What to ask, and of whom.
        measured: What was measured before.
        on_progress: Told where the refresh stands.
        leave: Once set, the job ends before the refresh does.

    Raises:
        MainJobInterruptedError: It was told to leave.
        NotRestoredError: The user's version from before could not be made active again.
        MainJobError: The refresh failed, so there is no new version to chat with.
        GatewayError: The gateway refused a step, or went away.
    """
    user = question.user
    with _without_version(gateway, user):
        before = _chat(gateway, question, "none")
        if leave.is_set():
            raise MainJobInterruptedError()
        refresh = _finished(gateway, gateway.start_refresh(user), on_progress, leave)
    if refresh.status == "failed":
        raise MainJobError(
            f"The refresh of {user} failed ({refresh.error or 'no reason given'}): "
            "see worker.log in the folder of logs."
        )
    after = _chat(gateway, question, "active")
    messages = [{"role": "user", "content": question.query}]
    token_ids = [token.token_id for token in after.personalization.pir or ()]
    return MainJob(
        user=user,
        query=question.query,
        model=gateway.model(),
        install_s=measured.install_s,
        engine_start_s=measured.engine_start_s,
        refresh=refresh,
        before=before,
        after=after,
        after_adapter=gateway.pir(user, messages, token_ids, contrast="adapter"),
        rescored=gateway.pir(user, messages, token_ids, contrast="persona"),
        exact=measured.exact,
    )


def _chat(gateway: Gateway, question: Question, adapter: str) -> Reply:
    request = ChatRequest(
        user=question.user,
        messages=({"role": "user", "content": question.query},),
        adapter=adapter,
        pir=True,
        max_tokens=question.max_tokens,
        # As in the UI; the seed gives the same reply in every run on a CPU.
        temperature=0.4,
        seed=1,
        store=False,
    )
    reply = gateway.chat(request)
    if not reply.personalization.pir:
        raise MainJobError(
            f"The reply to {question.user} came without PIR: see gateway.log in the folder of logs."
        )
    return reply


def _finished(
    gateway: Gateway, refresh: Refresh, on_progress: Callable[[Refresh], None], leave: Event
) -> Refresh:
    """Follow a refresh to its end, or cancel it where that is not waited for."""
    try:
        while not refresh.finished:
            on_progress(refresh)
            if leave.wait(POLL_S):
                raise MainJobInterruptedError()
            refresh = gateway.refresh(refresh.user, refresh.id)
    except BaseException:
        # The gateway may be gone, and refuses where the version is being published already.
        with suppress(GatewayError):
            gateway.cancel_refresh(refresh.user, refresh.id)
        raise
    on_progress(refresh)
    return refresh


@contextmanager
def _without_version(gateway: Gateway, user: str) -> Iterator[None]:
    """Take the user's active version away; it is active again at the end, unless a newer one is."""
    earlier = gateway.adapters(user).active
    if earlier is None:
        yield
        return
    try:
        gateway.rollback(user, "none")
        yield
    except BaseException as ended:
        _restore(gateway, user, earlier, ended)
        raise
    _restore(gateway, user, earlier)


def _restore(gateway: Gateway, user: str, version: str, ended: BaseException | None = None) -> None:
    try:
        if gateway.adapters(user).active is None:
            gateway.rollback(user, version)
    except GatewayError as error:
        raise NotRestoredError(user, version, ended, error) from error
