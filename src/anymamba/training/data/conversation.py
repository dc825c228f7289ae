"""A record of instructions, in whatever of the usual forms it comes, to a conversation.

{"messages": [{"role": ..., "content": ...}]}                OpenAI, and Hugging Face's data sets
{"conversations": [{"from": "human", "value": ...}]}         ShareGPT
{"instruction": ..., "input": ..., "output": ...}            Alpaca ("context" and "response": Dolly)
{"prompt": ..., "response": ...}                             also "completion", "answer", "question", "query"
A "system" beside any of them is what stands before the conversation.
"""

from __future__ import annotations

from typing import Any

from anymamba.language import _
from anymamba.models.tokenizer import Message
from anymamba.training.data.readers import no_text

ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user", "question": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "bard": "assistant", "bing": "assistant",
    "answer": "assistant",
}  # fmt: skip
"""What data sets call a speaker -> the role in a chat template."""

QUESTIONS = ("prompt", "instruction", "question", "query")
ANSWERS = ("response", "output", "completion", "answer")
CONTEXTS = ("input", "context")
LISTS = ("messages", "conversations", "conversation")


class BadRecordError(ValueError):
    """Why a record cannot be used (kind, the same words for all such records; detail, this one's); becomes a counted skip."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(f"{kind} ({detail})" if detail else kind)
        self.kind, self.detail = kind, detail


def messages_of(record: dict[str, Any]) -> list[Message]:
    """The conversation of one record. Raises BadRecordError for a missing or empty field, an unknown role, or no answer."""
    for name in LISTS:
        if name in record:
            messages = _checked(_listed(record[name], name), name)
            break
    else:
        messages = _single(record)
    system = record.get("system") or record.get("system_prompt")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    return messages


def _single(record: dict[str, Any]) -> list[Message]:
    question_field = next((name for name in QUESTIONS if name in record), QUESTIONS[0])
    answered = next((name for name in ANSWERS if name in record), ANSWERS[0])
    if isinstance(_plain(record.get(question_field)), list) and isinstance(_plain(record.get(answered)), list):
        # both halves as messages, as TRL writes them
        return _checked([*_plain(record[question_field]), *_plain(record[answered])], question_field)
    texts = {}
    for name in (question_field, answered):
        if not isinstance(record.get(name), str):
            raise BadRecordError(*no_text(name, record))
        texts[name] = record[name]
    context = next((record[name] for name in CONTEXTS if isinstance(record.get(name), str) and record[name].strip()), "")
    question = texts[question_field] + "\n\n" + context if context and texts[question_field].strip() else texts[question_field] + context
    if not texts[answered].strip():
        raise BadRecordError(_("the prompt has no answer"))
    if not question.strip():
        raise BadRecordError(_("the prompt is empty"))
    return [*_history(record.get("history")), {"role": "user", "content": question}, {"role": "assistant", "content": texts[answered]}]


def _history(pairs: Any) -> list[Message]:
    """Alpaca's earlier turns: [[question, answer], ...]."""
    messages: list[Message] = []
    for pair in _plain(pairs) or []:
        pair = _plain(pair)
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise BadRecordError(_("'history' is no list of [question, answer]"))
        messages += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return messages


def _plain(value: Any) -> Any:
    # Parquet gives arrays
    return value.tolist() if hasattr(value, "tolist") else value


def _listed(messages: Any, name: str) -> list[Any]:
    messages = _plain(messages)
    if not isinstance(messages, list) or not messages:
        raise BadRecordError(_("{name!r} is not a list of messages").format(name=name))
    return messages


def _checked(messages: list[Any], name: str) -> list[Message]:
    checked: list[Message] = []
    for number, message in enumerate(messages, 1):
        at = _("message {number} of {name!r}").format(number=number, name=name)
        if not isinstance(message, dict):
            raise BadRecordError(_("a message is no JSON object"), at)
        role = next((message[key] for key in ("role", "from", "speaker") if key in message), None)
        if role not in ROLES:
            raise BadRecordError(_("a message has the role {role!r}").format(role=role), at)
        content = _content(next((message[key] for key in ("content", "value", "text") if key in message), None))
        if content is None:
            raise BadRecordError(_("a message has no text 'content' (or 'value')"), at)
        checked.append({"role": ROLES[role], "content": content})
    # a greeting before the first question, or a last question that nobody answered, teaches nothing
    first = next((i for i, message in enumerate(checked) if message["role"] == "user"), len(checked))
    checked = [message for i, message in enumerate(checked) if i >= first or message["role"] == "system"]
    while checked and (checked[-1]["role"] != "assistant" or not checked[-1]["content"].strip()):
        checked.pop()
    if not checked:
        raise BadRecordError(_("the prompt has no answer"))
    return checked


def _content(content: Any) -> str | None:
    """A text, or the texts of a list of parts [{"type": "text", "text": ...}]; None for anything else."""
    if isinstance(content, str):
        return content
    content = _plain(content)
    if isinstance(content, list) and content and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    return None
