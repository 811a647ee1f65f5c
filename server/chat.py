"""A chat turn: persona context → prompt pair → adapter → engine → log → PIR.

Streamed and whole replies take the same way; nothing of the store stays open while the
engine generates.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from perce.template_inputs import TemplateInputs
from perce.tokens import ChatTokenizer
from server import population
from server.context import shown
from server.errors import BadRequestError, PromptMismatchError, ReplyMismatchError
from server.explain import Explainer
from server.reply import Reply, strip
from server.schemas import ENGINES_OWN, ChatRequest, message_texts, plain_messages
from server.servings import Serving, Servings, check_contrast
from server.settings import Settings
from server.store import counters
from server.store.database import Database
from server.store.tables.people import Interaction, User
from server.store.users import ERASED, lock_user
from server.text_check import check_text

# The papers' sampling: at most 512 new tokens.
DEFAULT_MAX_TOKENS = 512
_PATH = "/v1/chat/completions"
_NOT_PASSED_ON = {*ENGINES_OWN, "personalization", "user", "store"}


class Chat:
    """Answers chat requests as the user's own model."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        servings: Servings,
        tokenizer: ChatTokenizer,
        explainer: Explainer,
    ) -> None:
        self._settings = settings
        self._database = database
        self._servings = servings
        self._tokenizer = tokenizer
        self._explainer = explainer

    async def complete(self, user: User, request: ChatRequest) -> dict[str, Any]:
        """Answer with a whole reply, in OpenAI's shape with our extension.

        Raises:
            AttuneError: The request cannot be answered; see `server.errors`.
        """
        # Whatever takes the longer, the longer the prompt, runs in a thread: the event loop is
        # everybody's.
        messages, inputs = await run_in_threadpool(self._read, request)
        async with self._servings.choose(user, messages, request.personalization) as serving:
            prompt, body = await run_in_threadpool(self._engine_request, request, serving, inputs)
            response = await serving.post(_PATH, body)
            reply = Reply()
            reply.add(response)
            await run_in_threadpool(self._log, user, request, messages, serving, reply)
            extension = await self._extension(request, serving, inputs, prompt, reply)
        response["model"] = request.model or serving.base.name
        response["personalization"] = extension
        return strip(response, request.logprobs)

    async def stream(self, user: User, request: ChatRequest) -> AsyncGenerator[dict[str, Any]]:
        """Answer chunk by chunk; the last chunk carries our extension.

        Raises:
            AttuneError: The request cannot be answered; see `server.errors`.
        """
        messages, inputs = await run_in_threadpool(self._read, request)
        async with self._servings.choose(user, messages, request.personalization) as serving:
            prompt, body = await run_in_threadpool(self._engine_request, request, serving, inputs)
            reply, held = Reply(), list[dict[str, Any]]()
            async with aclosing(serving.stream(_PATH, body)) as chunks:
                async for chunk in chunks:
                    reply.add(chunk)
                    chunk["model"] = request.model or serving.base.name
                    strip(chunk, request.logprobs)
                    if held or reply.complete:
                        # What comes after the text waits for the PIR, which goes with the last
                        # chunk.
                        held.append(chunk)
                    else:
                        yield chunk
            await run_in_threadpool(self._log, user, request, messages, serving, reply)
            extension = await self._extension(request, serving, inputs, prompt, reply)
        if held:
            held[-1]["personalization"] = extension
        for chunk in held:
            yield chunk

    def _read(self, request: ChatRequest) -> tuple[list[dict[str, Any]], TemplateInputs]:
        """Return the messages, and what else the template is given, if they are not too long."""
        most = self._settings.max_message_chars
        check_text("The messages have", message_texts(request.messages), most)
        options = request.template_options()
        check_text("Tools and template options have", [request.tools, options], most)
        others = list((request.model_extra or {}).values())
        check_text("The request's other fields have", others, most)
        inputs = self._tokenizer.template_inputs(request.tools, options)
        return plain_messages(request.messages), inputs

    def _engine_request(
        self, request: ChatRequest, serving: Serving, inputs: TemplateInputs
    ) -> tuple[list[int], dict[str, Any]]:
        """Return the prompt, and the engine's request: ours removed, ids and logprobs asked for."""
        most = serving.base.max_length
        if request.personalization.pir:
            check_contrast(
                request.personalization.contrast, request.personalization, serving.adapter
            )
            most -= 1  # PIR has prompt and reply scored, and the engine generates a token behind
        prompt = self._tokenizer.prompt_ids(serving.prompts.with_persona, inputs)
        room = most - len(prompt)
        if room < 1:
            raise BadRequestError(
                f"The prompt has {len(prompt):,} tokens and the model takes "
                f"{most:,}, reply included: shorten the conversation."
            )
        body = request.model_dump(exclude_unset=True, exclude=_NOT_PASSED_ON)
        return prompt, {
            **body,
            **_limits(request, room),
            "model": serving.model,
            "messages": list(serving.prompts.with_persona),
            **({} if inputs.tools is None else {"tools": inputs.tools}),
            "chat_template_kwargs": inputs.options,
            "stream": request.stream,
            "logprobs": True,
            "return_token_ids": True,
            "cache_salt": serving.cache_salt,
        }

    async def _extension(
        self,
        request: ChatRequest,
        serving: Serving,
        inputs: TemplateInputs,
        prompt: list[int],
        reply: Reply,
    ) -> dict[str, Any]:
        wish = request.personalization
        extension: dict[str, Any] = {
            "user": serving.user.name,
            "adapter": serving.label,
            "context": shown(serving.context),
            "contrast": wish.contrast,
            "pir": None,
            "words": None,
        }
        if serving.passed_over is not None:
            extension["damaged"] = population.label_for(serving.user, serving.passed_over)
        if wish.pir:
            ids, logprobs = await run_in_threadpool(self._explainable, prompt, reply)
            explanation = await self._explainer.explain(
                serving, ids, wish.contrast, logprobs, inputs
            )
            extension |= await run_in_threadpool(explanation.to_json)
        return extension

    def _explainable(self, prompt: list[int], reply: Reply) -> tuple[list[int], list[float]]:
        """Return ids and logprobs of the tokens that show in a reply.

        Raises:
            PromptMismatchError: The engine read another prompt than PIR takes the persona from.
            ReplyMismatchError: The tokens are not those of the reply's text.
        """
        if prompt != reply.prompt_token_ids:
            raise PromptMismatchError
        if not reply.begins(self._tokenizer.decode(reply.token_ids)):
            raise ReplyMismatchError
        return reply.shown(self._tokenizer.spans(reply.token_ids))

    def _log(
        self,
        user: User,
        request: ChatRequest,
        messages: list[dict[str, Any]],
        serving: Serving,
        reply: Reply,
    ) -> None:
        """Note the turn; what was said in it is kept unless the request says not to."""
        with self._database.write() as session:
            if not _still_there(session, user):
                return
            counters.message_answered(session, user.id)
            if request.store:
                session.add(
                    Interaction(
                        id=reply.id,
                        user_id=user.id,
                        messages=messages,
                        reply=reply.text,
                        prompt_token_ids=reply.prompt_token_ids,
                        token_ids=reply.token_ids,
                        logprobs=reply.logprobs,
                        adapter=serving.adapter.name if serving.adapter else None,
                        context=[candidate.id for candidate in serving.context],
                    )
                )


def _limits(request: ChatRequest, room: int) -> dict[str, int]:
    """Return the fields that tell the engine how many tokens a reply may have."""
    fields = {
        "max_tokens": request.max_tokens,
        "max_completion_tokens": request.max_completion_tokens,
    }
    asked = {name: most for name, most in fields.items() if most is not None}
    if request.personalization.pir:
        asked = {name: min(most, room) for name, most in asked.items()}
    return asked or {"max_tokens": min(DEFAULT_MAX_TOKENS, room)}


def _still_there(session: Session, user: User) -> bool:
    """A user whose erasure began while the reply was generated leaves no trace."""
    return lock_user(session, user.id) not in (None, ERASED)
