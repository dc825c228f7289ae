"""Documents to token files: every document begins with the end-of-text token, so that the state starts afresh there.

The token before a border is trained to predict that token: this is how a model learns to stop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.hub import files
from anymamba.models.tokenizer import CHAT_TEMPLATE, CHAT_TOKENS, END_OF_TEXT, PAD, Tokenizer
from anymamba.training.data.filekinds import PACKED_ENDINGS
from anymamba.training.data.readers import Source, sources
from anymamba.training.data.reading import Reading
from anymamba.training.data.skips import Skips
from anymamba.training.data.split import Span, split
from anymamba.training.data.tokenfile import TokenFile, TokenWriter, open_tokens
from anymamba.training.machine import disk

BATCH_CHARACTERS = 1 << 22
"""Text that is tokenised in one call, on all cores."""

SPECIAL_TOKENS = [END_OF_TEXT, PAD, *CHAT_TOKENS]
MOST_TOKENS = 1_000_000

UNPACKED = 4
"""Bytes of text in a byte of a compressed file, about."""


@dataclass(frozen=True)
class Part:
    """A piece of a document. ids: its tokens, after the border where the document begins; size: UTF-8 bytes; source: which file."""

    begins: bool
    ids: np.ndarray[Any, Any]
    size: int
    source: int


@dataclass(frozen=True)
class Corpus:
    """What a run trains on and is measured on; notes: what the user should know of it (skipped records, how it was split)."""

    train: TokenFile
    held_out: TokenFile
    notes: list[str]


def prepare(
    pieces: Iterator[str | Source | None],
    tokenizer: Tokenizer,
    folder: Path,
    share: float,
    seed: int,
    skips: Skips,
    source: str,
    reading: Reading | None = None,
) -> None:
    """Tokenises the documents (``readers.documents``, with or without sources) and writes ``folder``, whole or not at all.

    share: of the tokens of every file, held out (``split``). Raises AnymambaError when nothing can be used, or for a full disk.
    """
    with files.whole_folder(folder) as temporary:
        writer = TokenWriter(temporary, "all", tokenizer.vocab_size)
        sources: list[int] = []
        for documents in _encoded(pieces, tokenizer):
            for part in documents:
                if part.begins:
                    writer.begin_document()
                    sources.append(part.source)
                writer.write(part.ids, part.size)
            if reading is not None:
                reading.made(writer.tokens)
        writer.close()
        if reading is not None:
            reading.finish()
        everything = open_tokens(temporary, "all")
        if everything.text_bytes < 2:
            raise skips.nothing_left(source)
        ends = np.append(everything.starts[1:], len(everything.tokens))
        spans, how = split(everything.starts, ends, sources, share, seed)
        _write_parts(everything, spans, writer.document_bytes, temporary, tokenizer.vocab_size)
        for left_over in temporary.glob("all.*"):
            left_over.unlink()
        tokenizer.save(temporary)
        notes = [how] + ([skips.summary()] if skips.count else [])
        files.write_json(temporary / "notes.json", notes)


def open_corpus(folder: Path) -> Corpus:
    """What ``prepare`` (here or in ``instruct``) wrote."""
    return Corpus(
        open_tokens(folder, "train"), open_tokens(folder, "held_out"), files.read_json(folder / "notes.json", missing=[])
    )


def require_room(names: list[str], folder: Path) -> None:
    """Raises AnymambaError when the token files of these sources may not fit on the disk of ``folder``."""
    size = 0
    for name, __ in sources(names):
        if not name.startswith("hf:"):
            packed = name.lower().endswith(PACKED_ENDINGS)
            size += Path(name).stat().st_size * (UNPACKED if packed else 1)
    # two bytes a token, at most a token a byte, and once more while the split is made
    disk.require(folder, 4 * size, _("the token files"))


def check_bpe_size(size: int) -> None:
    """Raises AnymambaError for a vocabulary without room for every byte, or beyond what any corpus fills."""
    least = 256 + len(SPECIAL_TOKENS)
    if not least <= size <= MOST_TOKENS:
        raise AnymambaError(
            "usage",
            _("--train-tokenizer {size}: must be from {least} (every byte and the special tokens) to {most}").format(
                size=size, least=least, most=MOST_TOKENS
            ),
        )


def train_bpe(pieces: Iterator[str | None], size: int, reading: Reading | None = None) -> Tokenizer:
    """A byte-level BPE of ``size`` tokens, special tokens included, learnt from the documents."""
    check_bpe_size(size)
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(pieces, size, reading), trainer)
    return Tokenizer(backend, eos=END_OF_TEXT, bos=END_OF_TEXT, pad=PAD, chat_template=CHAT_TEMPLATE)


def _texts(pieces: Iterator[str | None], size: int, reading: Reading | None) -> Iterator[str]:
    for piece in pieces:
        if piece:
            yield piece
    if reading is not None:
        # the library learns only after the last piece, and says nothing while it does
        reading.finish()
        reading.reporter.note(_("learning a tokenizer of {size} tokens ...").format(size=size))


def _encoded(pieces: Iterator[str | Source | None], tokenizer: Tokenizer) -> Iterator[list[Part]]:
    """Batches of the pieces, tokenised."""
    border = np.asarray([] if tokenizer.eos_id is None else [tokenizer.eos_id], dtype=np.uint32)
    texts: list[str] = []
    begins: list[tuple[bool, int]] = []
    size, source, fresh = 0, 0, True

    def flush() -> list[Part]:
        return [
            Part(first, np.concatenate([border, ids]) if first else ids, len(text.encode("utf-8")), file)
            for text, (first, file), ids in zip(texts, begins, tokenizer.encode_arrays(texts))
        ]

    for piece in pieces:
        if piece is None:
            fresh = True
            continue
        if isinstance(piece, Source):
            source += 1
            continue
        if not piece or (fresh and not piece.strip()):
            continue
        texts.append(_valid(piece))
        begins.append((fresh, source))
        fresh = False
        size += len(piece)
        if size >= BATCH_CHARACTERS:
            yield flush()
            texts, begins, size = [], [], 0
    if texts:
        yield flush()


def _valid(text: str) -> str:
    # JSON may hold half a surrogate pair, which no UTF-8 can express
    return text.encode("utf-8", "replace").decode("utf-8")


def _write_parts(everything: TokenFile, spans: list[Span], sizes: list[int], folder: Path, vocab_size: int) -> None:
    """The token files train and held_out. sizes: UTF-8 bytes of every document."""
    lengths = np.append(everything.starts[1:], len(everything.tokens)) - everything.starts
    for name, wants in (("train", False), ("held_out", True)):
        writer = TokenWriter(folder, name, vocab_size)
        for span in spans:
            if span.held_out == wants:
                writer.begin_document()
                share = (span.end - span.start) / int(lengths[span.document])
                writer.write(everything.tokens[span.start : span.end], round(sizes[span.document] * share))
        writer.close()
