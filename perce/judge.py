"""LLM-as-judge: a model is asked which words of a reply are personal.

The baseline of PerContrast's section 2.2. Here are the question put to the judge and the
reading of its answer; sending it is up to the caller, to any chat endpoint.
"""

import json
from collections.abc import Sequence

from perce.identification import Identified, occurrences, word_spans, words_in
from perce.prompt import Message

_JSON = json.JSONDecoder()

_TASK = """\
You are given a person's profile, a question, and the person's answer.
A word of the answer is personal if it could not be predicted from the question alone but \
could be from the profile. Function words, plain yes or no, and what the question already \
implies are not personal.
Reply with one JSON list of the personal words or phrases, each copied exactly from the \
answer, and nothing else. If there are none, reply with []."""


def judge_messages(persona: Sequence[str], question: str, reply: str) -> list[Message]:
    """Write the conversation that asks a judge for the personal words of a reply."""
    facts = "\n".join(f"- {fact}" for fact in persona)
    asked = f"Profile:\n{facts}\n\nQuestion: {question}\nAnswer: {reply}"
    return [{"role": "system", "content": _TASK}, {"role": "user", "content": asked}]


def judged(reply: str, verdict: str) -> Identified:
    """Read a judge's answer; one that holds no list of phrases identifies nothing.

    Args:
        reply: The judged reply.
        verdict: What the judge said.
    """
    spans = [span for phrase in _phrases(verdict) for span in occurrences(reply, phrase)]
    found = words_in(reply, spans)
    words = tuple((word, float(word in found)) for word in word_spans(reply))
    return Identified(tuple(found), words)


def _phrases(verdict: str) -> list[str]:
    """The texts in the verdict's last JSON list; what is before may be thinking aloud."""
    phrases: list[str] = []
    start = verdict.find("[")
    while start >= 0:
        try:
            listed, end = _JSON.raw_decode(verdict, start)
        except RecursionError:
            return []  # brackets alone, thousands of them
        except ValueError:  # not only bad JSON: also numbers without end
            end = start + 1
        else:
            texts = [item for item in listed if isinstance(item, str)]
            if texts or not listed:
                phrases = texts
        start = verdict.find("[", end)
    return phrases
