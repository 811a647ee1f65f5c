"""How a training goes on: to the record for the API, and now and then to the log."""

import time
from collections.abc import Callable

import structlog

from adapt.claims import Claims
from adapt.patience import STORE_AWAY, store_error
from perce.train import Step

log = structlog.get_logger()
_NOTE_EVERY_S = 0.5
"""A row write for each optimizer step would be wasted."""
_LOG_EVERY_S = 30.0


class Progress:
    """Follows one training run, as `on_step` of `perce.train.train_adapter`.

    Args:
        claims: Where progress is written; what it raises ends the training.
        refresh_id: The refresh.
        expect: Told how many seconds the training still takes.
    """

    def __init__(self, claims: Claims, refresh_id: str, expect: Callable[[float], None]) -> None:
        self._claims = claims
        self._refresh_id = refresh_id
        self._expect = expect
        self._tokens = 0
        self._seconds = 0.0
        self._noted = self._logged = time.monotonic()

    def __call__(self, step: Step) -> None:
        """Take note of an optimizer step.

        A note that the store does not take is left out: the next one says more.

        Raises:
            RefreshCancelledError: The refresh was cancelled; see `Claims.note` for the rest.
        """
        self._tokens += step.tokens
        self._seconds += step.seconds
        at = time.monotonic()
        if at - self._noted < _NOTE_EVERY_S and 1 < step.step < step.steps:
            return
        self._noted = at
        rate = self._tokens / self._seconds if self._seconds else None
        left = self._seconds / step.step * (step.steps - step.step)
        try:
            self._claims.note(
                self._refresh_id,
                step=step.step,
                steps=step.steps,
                tokens_per_s=rate,
                seconds_left=left,
            )
            self._expect(left)
        except STORE_AWAY as error:
            log.warning(
                "progress not noted", refresh=self._refresh_id, reason=str(store_error(error))
            )
        if at - self._logged >= _LOG_EVERY_S or step.step == step.steps:
            self._logged = at
            log.info(
                "training",
                refresh=self._refresh_id,
                step=step.step,
                steps=step.steps,
                loss=round(step.loss, 3),
                tokens_per_s=round(rate) if rate else None,
                seconds_left=round(left),
            )
