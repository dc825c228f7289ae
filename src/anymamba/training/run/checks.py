"""Every option is looked at before any work: a name or a number that cannot be must not cost a night of reading first."""

from __future__ import annotations

import dataclasses
import math

import torch

from anymamba.backends import dispatch
from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models import hub, lora
from anymamba.models.config import Config
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size, parameters_of
from anymamba.models.tokenizer import load_tokenizer
from anymamba.training.data import corpus, instruct, readers, skips
from anymamba.training.machine import fit
from anymamba.training.machine.precision import choose_precision
from anymamba.training.run.config import TrainConfig, checked_ranges, flag_of
from anymamba.training.show import trackers


def check_options(config: TrainConfig, device: torch.device, share: int = 1, prepared: bool = False) -> int:
    """The bytes of the files named.

    Raises AnymambaError for whatever is wrong with the options by themselves, with the names in them, or with the files named.
    share: processes over which the model is sharded, 1 for none. prepared: the run has its token files already (it is
    resumed), so data and tokenizer are not looked at again.
    """
    checked_ranges(config)
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise _usage(_("{flag} {value}: must be a number").format(flag=flag_of(one), value=value))
    choose_precision(config.precision, device)
    if config.backend:
        with dispatch.use_backend(config.backend):
            pass
    trackers.check_names(config.report_to)
    if not config.start:
        config_of_size(config.size, config.model)
    readers.check_encoding(config.encoding)
    if prepared:
        return 0
    vocabulary = _check_tokenizer(config)
    if not config.data:
        raise _usage(_("no data was named"), _("anymamba train FILE_OR_FOLDER ..."))
    size = readers.check(config.data, config.encoding, records_only=config.instruct)
    readers.check(config.val, config.encoding, records_only=config.instruct)
    bad_records = skips.open_list(config.bad_records)
    if bad_records is not None:
        bad_records.close()
    model = hub.load_config(hub.find(config.start)) if config.start else config_of_size(config.size, config.model, vocabulary)
    if config.a_activation != "auto":
        model.choose_activation(config.a_activation)
    fit.require_model(parameters_of(model) // share, device, _trained(config, model, vocabulary, share), config.quantize)
    return size


def _trained(config: TrainConfig, model: Config, vocabulary: int, share: int) -> int | None:
    """Parameters of the adapters in a process; None: all are trained. Raises AnymambaError for adapters that this model cannot have."""
    options = config.lora_options
    if options is None:
        return None
    names = lora.check(model, options)
    if vocabulary > model.vocab_size:
        raise AnymambaError(
            "vocabulary",
            _("--lora: the chat needs {needed} tokens, the model has {there}").format(needed=vocabulary, there=model.vocab_size),
            why=_("new tokens need new rows in the embedding, which LoRA leaves as it is"),
            fix=_("tune all weights first, which adds the rows: anymamba train --instruct --from {start}").format(start=config.start),
        )
    with torch.device("meta"):
        layers = LanguageModel(model)
    shapes = [tuple(layers.get_submodule(name).weight.shape) for name in names]  # type: ignore[union-attr, arg-type]
    return sum(options.rank * (rows + columns) for rows, columns in shapes) // share


def _check_tokenizer(config: TrainConfig) -> int:
    """Tokens of its vocabulary."""
    if config.train_tokenizer:
        corpus.check_bpe_size(config.train_tokenizer)
        for flag, is_set in (("--instruct", config.instruct), ("--from", config.start), ("--tokenizer", config.tokenizer != "bytes")):
            if is_set:
                raise _usage(
                    _("--train-tokenizer and {flag} do not go together").format(flag=flag),
                    _(
                        "a tokenizer is learnt when a model begins: train on text first, then tune with --instruct "
                        "--from"
                    ),
                )
    if not config.start:
        return config.train_tokenizer or load_tokenizer(config.tokenizer).vocab_size
    # a model understands only the tokenizer that it was trained with
    folder = hub.find(config.start)
    model = hub.load_config(folder)
    tokenizer = load_tokenizer(config.tokenizer if config.tokenizer != "bytes" else folder)
    if config.instruct:
        instruct.make_ready(tokenizer)  # new tokens get new rows
    else:
        hub.check_vocabulary(model, tokenizer)
    return tokenizer.vocab_size


def _usage(what: str, fix: str | None = None) -> AnymambaError:
    return AnymambaError("usage", what, fix=fix)
