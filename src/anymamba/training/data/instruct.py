"""Stage 2: instruction records to token files in which only the answers are trained.

``conversation`` has the forms that a record may have.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext
from anymamba.models.hub import files
from anymamba.models.tokenizer import CHAT_TEMPLATE, CHAT_TOKENS, END_OF_TEXT, PAD, Message, Tokenizer
from anymamba.training.data.conversation import BadRecordError, messages_of
from anymamba.training.data.readers import records, sources
from anymamba.training.data.reading import Reading
from anymamba.training.data.recordfiles import Seen
from anymamba.training.data.skips import Skips
from anymamba.training.data.tokenfile import TokenWriter


def make_ready(tokenizer: Tokenizer) -> bool:
    """Gives a tokenizer without a chat template ours, and the tokens that it needs; whether the vocabulary grew."""
    before = tokenizer.vocab_size
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
        tokenizer.add_special_tokens(CHAT_TOKENS)
    if tokenizer.eos is None:
        tokenizer.eos = END_OF_TEXT
        tokenizer.add_special_tokens([END_OF_TEXT])
    if tokenizer.pad_id is None:
        tokenizer.pad = PAD
        tokenizer.add_special_tokens([PAD])
    return tokenizer.vocab_size > before


def conversations(names: list[str], skips: Skips, seen: Seen | None = None) -> Iterator[tuple[str, list[Message]]]:
    """(where, messages) of every usable record of JSON, CSV and Parquet files, folders and data sets."""
    for source, is_explicit in sources(names, records_only=True):
        for where, record in records(source, is_explicit, skips, seen):
            try:
                yield where, messages_of(record)
            except BadRecordError as error:
                skips.skip(where, error.kind, error.detail)


def encode(tokenizer: Tokenizer, messages: list[Message]) -> tuple[list[int], list[bool]]:
    """(ids, which of them are trained): the answers and the token that ends each.

    The template is asked for the conversation up to each answer, with and without it: what it adds is the answer, whatever
    the template looks like. A begin-of-text token is put in front when the tokenizer has one and the template writes none.
    """
    ids: list[int] = []
    learn: list[bool] = []
    done = ""
    for turn, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = tokenizer.render_chat(messages[:turn], add_generation_prompt=True)
        answered = tokenizer.render_chat(messages[: turn + 1], add_generation_prompt=False)
        if not prompt.startswith(done) or not answered.startswith(prompt):
            raise AnymambaError(
                "tokenizer",
                _("the chat template rewrites earlier turns, so the answers cannot be told apart"),
                fix=_("start from a model with a plain template"),
            )
        for text, trained in ((prompt[len(done) :], False), (answered[len(prompt) :], True)):
            part = tokenizer.encode(text, special=True)
            ids += part
            learn += [trained] * len(part)
        done = answered
    first = tokenizer.bos_id if tokenizer.bos_id is not None else tokenizer.eos_id
    if first is not None and ids[:1] != [first]:
        ids, learn = [first, *ids], [False, *learn]
    return ids, learn


def prepare(
    names: list[str],
    tokenizer: Tokenizer,
    folder: Path,
    share: float,
    seed: int,
    skips: Skips,
    longest: int,
    reading: Reading | None = None,
) -> None:
    """Writes the token files of stage 2 into ``folder``, whole or not at all; see ``corpus.open_corpus``.

    longest: examples with more tokens are counted skips. Raises AnymambaError when no example can be used.
    """
    with files.whole_folder(folder) as temporary:
        examples = 0
        rows: list[tuple[list[int], list[bool], int]] = []
        for where, messages in conversations(names, skips, reading.seen if reading is not None else None):
            ids, learn = encode(tokenizer, messages)
            if len(ids) > longest + 1:
                too_long = _("more than {longest} tokens (--length)").format(longest=longest)
                skips.skip(
                    where, too_long, ngettext("{count} token", "{count} tokens", len(ids)).format(count=len(ids))
                )
                continue
            rows.append((ids, learn, sum(len(message["content"].encode("utf-8", "replace")) for message in messages)))
            examples += 1
        if reading is not None:
            reading.finish()
        if not examples:
            raise skips.nothing_left(", ".join(names))
        held_out = set(random.Random(seed).sample(range(examples), min(int(examples * share + 0.5), examples - 1)))
        for name, wants in (("train", False), ("held_out", True)):
            writer = TokenWriter(temporary, name, tokenizer.vocab_size, masked=True)
            for index, (ids, learn, size) in enumerate(rows):
                if (index in held_out) == wants:
                    writer.begin_document()
                    writer.write(ids, size, learn)
            writer.close()
        tokenizer.save(temporary)
        notes = [
            ngettext(
                "{count} of {examples} examples is held out", "{count} of {examples} examples are held out", len(held_out)
            ).format(count=len(held_out), examples=examples)
        ]
        files.write_json(temporary / "notes.json", notes + ([skips.summary()] if skips.count else []))
