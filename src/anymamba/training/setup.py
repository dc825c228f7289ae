"""What stands before the first step: tokenizer, token files, model. Each is made once and found again by a resumed run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import nn

from anymamba.language import say
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size
from anymamba.models.tokenizer import Tokenizer, load_tokenizer
from anymamba.training import corpus, instruct, readers
from anymamba.training.config import TrainConfig
from anymamba.training.parallel import Processes
from anymamba.training.readers import documents
from anymamba.training.reading import Reading
from anymamba.training.report import Reporter, count
from anymamba.training.runfolder import RunFolder
from anymamba.training.skips import Skips, open_list

LONGEST_EXAMPLE = 4096
"""Tokens of a stage 2 example, unless --length says otherwise."""


def tokenizer_and_data(
    config: TrainConfig, run: RunFolder, processes: Processes, reporter: Reporter
) -> tuple[Tokenizer, corpus.Corpus]:
    """The run's tokenizer and token files; made by the main process where they are not there yet."""
    with processes.main_first() as main:
        if main and not run.data.is_dir():
            _prepare(config, run.data, reporter)
    return load_tokenizer(run.data), corpus.open_corpus(run.data)


def _prepare(config: TrainConfig, folder: Path, reporter: Reporter) -> None:
    size = readers.check(config.data, config.encoding, config.instruct)
    what = ", ".join(config.data[:3]) + (say(" and more", " 等") if len(config.data) > 3 else "")
    reporter.note(say(f"reading {what} ({count(size)}B)", f"读取 {what}（{count(size)}B）") if size else say("reading ", "读取 ") + what)
    corpus.require_room(config.data, folder)
    tokenizer = _tokenizer(config, reporter, size)
    bad_records = open_list(config.bad_records)
    skips = Skips(list_file=bad_records)
    reading = Reading(reporter, say("tokenising", "分词"), size)
    with bad_records or contextlib.nullcontext():
        if config.instruct:
            instruct.make_ready(tokenizer)
            longest = config.length or LONGEST_EXAMPLE
            instruct.prepare(config.data, tokenizer, folder, config.validation, config.seed, skips, longest, reading)
        else:
            pieces = documents(config.data, skips, config.text_field, config.encoding, reading.seen, with_sources=True)
            name = ", ".join(config.data)
            corpus.prepare(pieces, tokenizer, folder, config.validation, config.seed, skips, name, reading)


def _tokenizer(config: TrainConfig, reporter: Reporter, size: int) -> Tokenizer:
    if config.start:
        # a model understands only the tokenizer that it was trained with
        return load_tokenizer(config.tokenizer if config.tokenizer != "bytes" else hub.find(config.start))
    if config.train_tokenizer:
        reading = Reading(reporter, say("reading for the tokenizer", "为分词器读取文本"), size)
        pieces = documents(config.data, Skips(), config.text_field, config.encoding, reading.seen)
        return corpus.train_bpe(pieces, config.train_tokenizer, reading)
    return load_tokenizer(config.tokenizer)


def make_model(config: TrainConfig, run: RunFolder, tokenizer: Tokenizer) -> LanguageModel:
    """On the CPU, in float32: the resumed checkpoint's, the one of --from, or fresh from --size and the seed."""
    if run.resumed is not None:
        return hub.load(run.resumed.folder, dtype=torch.float32)
    torch.manual_seed(config.seed)
    if config.start:
        model = hub.load(config.start, dtype=torch.float32)
        if config.instruct and tokenizer.vocab_size > model.config.vocab_size:
            grow_vocabulary(model, tokenizer.vocab_size)
        hub.check_vocabulary(model.config, tokenizer)
        return model
    ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    return LanguageModel(config_of_size(config.size, config.model, tokenizer.vocab_size, **ids))


@torch.no_grad()
def grow_vocabulary(model: LanguageModel, size: int) -> None:
    """Adds rows to the embedding and the head for new tokens; they begin as the mean of the others, which changes no answer much."""
    size = -(-size // 16) * 16
    table = model.backbone.embeddings.weight
    tied = model.config.tie_word_embeddings
    for module in (model.backbone.embeddings,) if tied else (model.backbone.embeddings, model.lm_head):
        old = module.weight
        module.weight = nn.Parameter(torch.cat([old, old.mean(0, keepdim=True).expand(size - len(old), -1)]))
    if tied:
        model.lm_head.weight = model.backbone.embeddings.weight
    model.backbone.embeddings.num_embeddings = model.lm_head.out_features = size
    model.config.vocab_size = size
    assert model.backbone.embeddings.weight is not table
