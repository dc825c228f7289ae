"""Documents to token files: every document begins with the end-of-text token, so that the state starts afresh there.

The token before a border is trained to predict that token: this is how a model learns to stop.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers

from anymamba.errors import AnymambaError
from anymamba.language import say
from anymamba.models import files
from anymamba.models.tokenizer import CHAT_TEMPLATE, CHAT_TOKENS, END_OF_TEXT, PAD, Tokenizer
from anymamba.training import disk
from anymamba.training.skips import Skips
from anymamba.training.tokenfile import TokenFile, TokenWriter, open_tokens

BATCH_CHARACTERS = 1 << 24
"""Text that is tokenised in one call, on all cores."""

FEWEST_DOCUMENTS = 20
"""With fewer documents than this, the end of the text is held out rather than whole documents."""


@dataclass(frozen=True)
class Corpus:
    """What a run trains on and is measured on; notes: what the user should know of it (skipped records, how it was split)."""

    train: TokenFile
    held_out: TokenFile
    notes: list[str]


def prepare(
    pieces: Iterator[str | None], tokenizer: Tokenizer, folder: Path, share: float, seed: int, skips: Skips, source: str
) -> None:
    """Tokenises the documents (``readers.documents``) and writes ``folder``, whole or not at all.

    share: of the tokens, held out. Raises AnymambaError when nothing can be used, or for a full disk.
    """
    with files.whole_folder(folder) as temporary:
        writer = TokenWriter(temporary, "all", tokenizer.vocab_size)
        for documents in _encoded(pieces, tokenizer):
            for begins, ids, size in documents:
                if begins:
                    writer.begin_document()
                writer.write(ids, size)
        writer.close()
        everything = open_tokens(temporary, "all")
        if everything.text_bytes < 2:
            raise skips.nothing_left(source)
        split = _split(everything, writer.document_bytes, temporary, tokenizer.vocab_size, share, seed)
        for left_over in temporary.glob("all.*"):
            left_over.unlink()
        tokenizer.save(temporary)
        notes = [split] + ([skips.summary()] if skips.count else [])
        files.write_json(temporary / "notes.json", notes)


def open_corpus(folder: Path) -> Corpus:
    """What ``prepare`` (here or in ``instruct``) wrote."""
    return Corpus(
        open_tokens(folder, "train"), open_tokens(folder, "held_out"), files.read_json(folder / "notes.json", missing=[])
    )


def require_room(names: Iterable[str], folder: Path) -> None:
    """Raises AnymambaError when the token files of these sources may not fit on the disk of ``folder``."""
    size = 0
    for name in names:
        path = Path(name)
        size += path.stat().st_size if path.is_file() else 0
    # two bytes a token, at most a token a byte, and once more while the split is made
    disk.require(folder, 4 * size, say("the token files", "词元文件"))


def train_bpe(pieces: Iterator[str | None], size: int) -> Tokenizer:
    """A byte-level BPE of ``size`` tokens, special tokens included, learnt from the documents."""
    special = [END_OF_TEXT, PAD, *CHAT_TOKENS]
    least = 256 + len(special)
    if size < least:
        raise AnymambaError("usage", say(f"--train-tokenizer {size}: at least {least}", f"--train-tokenizer {size}：至少为 {least}"))
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator((piece for piece in pieces if piece), trainer)
    return Tokenizer(backend, eos=END_OF_TEXT, bos=END_OF_TEXT, pad=PAD, chat_template=CHAT_TEMPLATE)


def _encoded(pieces: Iterator[str | None], tokenizer: Tokenizer) -> Iterator[list[tuple[bool, list[int], int]]]:
    """Batches of (does a document begin here, ids, UTF-8 bytes)."""
    border = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    texts: list[str] = []
    begins: list[bool] = []
    size, fresh = 0, True

    def flush() -> list[tuple[bool, list[int], int]]:
        encoded = tokenizer.encode_batch(texts)
        return [
            (first, (border if first else []) + ids, len(text.encode("utf-8", "surrogatepass")))
            for text, first, ids in zip(texts, begins, encoded)
        ]

    for piece in pieces:
        if piece is None:
            fresh = True
            continue
        if not piece or (fresh and not piece.strip()):
            continue
        texts.append(_valid(piece))
        begins.append(fresh)
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


def _split(everything: TokenFile, sizes: list[int], folder: Path, vocab_size: int, share: float, seed: int) -> str:
    """Writes train and held_out; the sentence that says how. sizes: UTF-8 bytes of every document."""
    total, documents = len(everything.tokens), len(everything.starts)
    ends = np.append(everything.starts[1:], total)
    lengths = ends - everything.starts
    wanted = int(total * share)
    held: set[int] = set()
    if documents >= FEWEST_DOCUMENTS and int(lengths.max()) <= total // 4:
        order = list(range(documents))
        random.Random(seed).shuffle(order)
        taken = 0
        for index in order:
            if taken >= wanted:
                break
            held.add(index)
            taken += int(lengths[index])
        spans = [(i, int(everything.starts[i]), int(ends[i]), i in held) for i in range(documents)]
        said = say(f"{len(held)} of {documents} documents are held out", f"{documents} 篇文档中留出 {len(held)} 篇用于验证")
    else:
        cut = total - wanted
        spans = []
        for index, (start, end) in enumerate(zip(everything.starts.tolist(), ends.tolist())):
            if start < cut:
                spans.append((index, start, min(end, cut), False))
            if end > cut:
                spans.append((index, max(start, cut), end, True))
        said = say(f"the last {share:.0%} of the text is held out", f"留出文本末尾的 {share:.0%} 用于验证")
    for name, wants in (("train", False), ("held_out", True)):
        writer = TokenWriter(folder, name, vocab_size)
        for index, start, end, is_held in spans:
            if is_held == wants:
                writer.begin_document()
                writer.write(everything.tokens[start:end], round(sizes[index] * (end - start) / int(lengths[index])))
        writer.close()
    return said if wanted else say("nothing is held out", "未留出验证文本")

