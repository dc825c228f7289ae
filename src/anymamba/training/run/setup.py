"""What stands before the first step: tokenizer, token files, model. Each is made once and found again by a resumed run."""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import nn

from anymamba.generation.quantize import quantize
from anymamba.language import _
from anymamba.models import hub, lora
from anymamba.models.hub import adapter_files
from anymamba.models.lm import LanguageModel
from anymamba.models.lora import LoraOptions
from anymamba.models.sizes import config_of_size
from anymamba.models.tokenizer import Tokenizer, load_tokenizer
from anymamba.training.data import corpus, instruct, readers
from anymamba.training.data.readers import documents
from anymamba.training.data.reading import Reading
from anymamba.training.data.skips import Skips, open_list
from anymamba.training.machine.parallel import Processes
from anymamba.training.run.config import TrainConfig
from anymamba.training.run.runfolder import RunFolder
from anymamba.training.show.report import Reporter, count

LONGEST_EXAMPLE = 4096
"""Tokens of a stage 2 example, unless --length says otherwise."""


def tokenizer_and_data(
    config: TrainConfig, run: RunFolder, processes: Processes, reporter: Reporter
) -> tuple[Tokenizer, corpus.Corpus]:
    """The run's tokenizer and token files; made by the main process where they are not there yet."""
    with processes.main_first() as main:
        if main and not run.data.is_dir():
            _prepare(config, run, reporter)
    whole = corpus.open_corpus(run.data)
    if config.val:
        own = corpus.open_corpus(run.val)
        notes = [*whole.notes[1:], *own.notes[1:]]  # the first of each says how it was split
        sentence = _("validated on ") + ", ".join(config.val)
        whole = corpus.Corpus(whole.train, own.train, [sentence, *notes])
    return load_tokenizer(run.data), whole


def first_question(data: corpus.Corpus) -> list[int]:
    """The ids of an example up to its first answer: of the held-out ones where there are any. For samples of stage 2."""
    for tokens in (data.held_out, data.train):
        if tokens.learn is not None and len(tokens.tokens):
            end = int(tokens.learn.argmax())
            return tokens.tokens[:end].tolist()
    return []


def _prepare(config: TrainConfig, run: RunFolder, reporter: Reporter) -> None:
    size = readers.check(config.data, config.encoding, config.instruct)
    what = ", ".join(config.data[:3]) + (_(" and more") if len(config.data) > 3 else "")
    reporter.note(_("reading {what} ({size}B)").format(what=what, size=count(size)) if size else _("reading ") + what)
    corpus.require_room(config.data, run.data)
    tokenizer = _tokenizer(config, reporter, size)
    if config.instruct:
        instruct.make_ready(tokenizer)
    bad_records = open_list(config.bad_records)
    with bad_records or contextlib.nullcontext():
        if config.val:
            corpus.require_room(config.val, run.val)
            reading = Reading(
                reporter, _("tokenising --val"), readers.check(config.val, config.encoding, config.instruct)
            )
            _tokenise(config, config.val, tokenizer, run.val, 0.0, Skips(list_file=bad_records), reading)
        # last: a run folder with data is ready
        reading = Reading(reporter, _("tokenising"), size)
        share = 0.0 if config.val else config.validation
        _tokenise(config, config.data, tokenizer, run.data, share, Skips(list_file=bad_records), reading)


def _tokenise(
    config: TrainConfig, names: list[str], tokenizer: Tokenizer, folder: Path, share: float, skips: Skips, reading: Reading
) -> None:
    """Writes the token files of these sources; share: held out."""
    if config.instruct:
        instruct.prepare(names, tokenizer, folder, share, config.seed, skips, config.length or LONGEST_EXAMPLE, reading)
    else:
        pieces = documents(names, skips, config.text_field, config.encoding, reading.seen, with_sources=True)
        corpus.prepare(pieces, tokenizer, folder, share, config.seed, skips, ", ".join(names), reading)


def _tokenizer(config: TrainConfig, reporter: Reporter, size: int) -> Tokenizer:
    if config.start:
        # a model understands only the tokenizer that it was trained with
        return load_tokenizer(config.tokenizer if config.tokenizer != "bytes" else hub.find(config.start))
    if config.train_tokenizer:
        reading = Reading(reporter, _("reading for the tokenizer"), size)
        pieces = documents(config.data, Skips(), config.text_field, config.encoding, reading.seen)
        return corpus.train_bpe(pieces, config.train_tokenizer, reading)
    return load_tokenizer(config.tokenizer)


def make_model(config: TrainConfig, run: RunFolder, tokenizer: Tokenizer) -> LanguageModel:
    """On the CPU, in float32: the resumed checkpoint's, the one of --from, or fresh from --size and the seed."""
    activation = None if config.a_activation == "auto" else config.a_activation
    if config.lora_options is not None:
        return _adapted_model(config, config.lora_options, run, tokenizer, activation)
    if run.resumed is not None:
        return hub.load(run.resumed.folder, dtype=torch.float32, tokenizer=tokenizer, a_activation=activation)
    torch.manual_seed(config.seed)
    if config.start:
        model = hub.load(config.start, dtype=torch.float32, tokenizer=tokenizer, a_activation=activation)
        if config.instruct and tokenizer.vocab_size > model.config.vocab_size:
            grow_vocabulary(model, tokenizer.vocab_size)
        hub.check_vocabulary(model.config, tokenizer)
        return model
    ids = {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    sizes = config_of_size(config.size, config.model, tokenizer.vocab_size, **ids)
    if activation is not None:
        sizes.choose_activation(activation)
    return LanguageModel(sizes)


def _adapted_model(
    config: TrainConfig, options: LoraOptions, run: RunFolder, tokenizer: Tokenizer, activation: str | None
) -> LanguageModel:
    """The model of --from, frozen, with adapters: fresh ones by the seed, or the resumed checkpoint's."""
    model = hub.load(config.start, dtype=torch.float32, tokenizer=tokenizer, a_activation=activation)
    hub.check_vocabulary(model.config, tokenizer)
    if config.quantize != "none":
        quantize(model, config.quantize)
    torch.manual_seed(config.seed)
    lora.attach(model, options)
    if run.resumed is not None:
        adapter_files.fill(model, run.resumed.folder)
    return model


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
