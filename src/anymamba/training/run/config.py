"""What the user chose: the flags of ``anymamba train`` over a TOML file over the defaults. One table makes all three.

A value of 0 (or "auto") means: derived from --size, the data and the machine (``derive.py``), and printed with the reason.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.generation.widths import WIDTHS
from anymamba.language import N_, _
from anymamba.models import families
from anymamba.models.lora_options import DEFAULT_RANK, LoraOptions
from anymamba.nearest import nearest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib


MAY_CHANGE = frozenset(
    ("steps", "epochs", "batch_tokens", "micro_batch", "lr", "schedule", "warmup", "decay_share", "floor", "weight_decay", "beta1")
    + ("beta2", "clip", "precision", "checkpointing")
)
"""What may change when a run goes on, and changes its numbers from there on, which is said (``continuing``)."""


Choices = tuple[str, ...] | Callable[[], list[str]]


def _option(default: Any, text: str, choices: Choices = (), flag: str = "", same_run: bool = True, bare: Any = None) -> Any:
    """choices: or what lists them. same_run: False for what may change between the parts of one run without changing its numbers.
    bare: the value of a flag without a value, for flags that may stand so."""
    about = {"help": text, "choices": choices, "flag": flag, "same_run": same_run, "bare": bare}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass
class TrainConfig:
    """One training run. The help texts below are the documentation of the fields, and of the flags of the same names."""

    data: list[str] = _option(
        [],
        N_("text, JSON, CSV, Parquet files (also .gz), folders, hf:OWNER/NAME"),
    )
    out: str = _option("", N_("run folder (default: runs/NAME-SIZE)"), same_run=False)
    instruct: bool = _option(
        False,
        N_(
            "stage 2: tune on questions and answers (JSON, CSV or Parquet; prompt/response, messages, Alpaca, ShareGPT)"
        ),
    )
    start: str = _option("", N_("checkpoint to start from"), flag="--from")
    lora: int = _option(
        -1,
        N_("with --from: freeze the model and train adapters of this rank beside its linear layers [rank 16]; PEFT's format"),
        bare=DEFAULT_RANK,
    )
    lora_alpha: float = _option(0.0, N_("LoRA: the change is alpha / rank * B A (default: twice the rank)"))
    lora_dropout: float = _option(0.0, N_("LoRA: share of an adapter's input that is dropped in training"))
    lora_targets: str = _option(
        "",
        N_(
            "LoRA: layers by name, with commas, or all, attention, mlp (default: those that act in plain transformers with "
            "PEFT, too)"
        ),
    )
    dora: bool = _option(False, N_("LoRA: train the norms of the rows apart from their direction (DoRA)"))
    quantize: str = _option(
        "none", N_("with --lora: keep the frozen weights in eight or four bits (QLoRA)"), choices=("none", *WIDTHS)
    )
    size: str = _option("tiny", N_("the dial: tiny, small, 130m, ..."))
    model: str = _option("mamba", N_("model family"), choices=families.names)
    a_activation: str = _option(
        "auto",
        N_(
            "Mamba-3: activation of A; auto: as the checkpoint says (tried on a short text if it does not), heavy_tail for a new model"
        ),
        choices=("auto", "softplus", "heavy_tail"),
        same_run=False,
    )
    tokenizer: str = _option("bytes", N_("bytes, a tokenizer.json, a folder or a hub name"))
    train_tokenizer: int = _option(0, N_("train a BPE tokenizer with N tokens on the data"))
    text_field: str = _option("text", N_("field of JSONL and Parquet records that holds the text"))
    encoding: str = _option("utf-8", N_("encoding of text files"))
    bad_records: str = _option(
        "",
        N_("write every record left out to this file, with its line and the reason"),
        same_run=False,
    )
    length: int = _option(0, N_("tokens in a row"))
    batch_tokens: int = _option(0, N_("tokens in a step, over all processes"))
    micro_batch: int = _option(0, N_("rows at once in a process (default: what fits memory)"))
    steps: int = _option(0, N_("optimiser steps"))
    epochs: float = _option(0.0, N_("passes over the data, instead of --steps"))
    max_minutes: float = _option(0.0, N_("finish within this time: fewer steps, full schedule"), same_run=False)
    lr: float = _option(0.0, N_("peak learning rate"))
    schedule: str = _option("cosine", N_("after the warm-up: cosine, or stable and decay"), choices=("cosine", "wsd"))
    warmup: int = _option(0, N_("warm-up steps"))
    decay_share: float = _option(0.2, N_("wsd: share of the steps that decay"))
    floor: float = _option(0.1, N_("last learning rate over the peak"))
    weight_decay: float = _option(0.1, N_("of the matrices; norms, biases, A_log, D have none"))
    beta1: float = _option(0.9, N_("AdamW: decay of the mean of the gradient"))
    beta2: float = _option(0.95, N_("AdamW: decay of the mean of its square"))
    clip: float = _option(1.0, N_("largest norm of the gradient; 0: no limit"))
    precision: str = _option("auto", N_("bf16 autocast or fp32"), choices=("auto", "bf16", "fp32"))
    checkpointing: str = _option(
        "auto",
        N_("recompute activations in the backward pass to save memory"),
        choices=("auto", "on", "off"),
    )
    validation: float = _option(0.05, N_("share of the data held out"))
    val: list[str] = _option([], N_("validation file, folder or data set of your own, instead of --validation"))
    eval_every: int = _option(0, N_("steps between validations"), same_run=False)
    eval_tokens: int = _option(
        -1,
        N_(
            "at most this many held-out tokens a validation; 0: all; -1: 5% of the time in all, at most 200000 tokens each"
        ),
        same_run=False,
    )
    patience: int = _option(0, N_("stop after so many validations without a better one"), same_run=False)
    sample_every: int = _option(0, N_("steps between samples; -1: none"), same_run=False)
    sample_prompt: str = _option("", N_("what the samples continue"), same_run=False)
    save_every: int = _option(0, N_("steps between checkpoints"), same_run=False)
    keep: int = _option(2, N_("checkpoints kept; 0: all"), same_run=False)
    seed: int = _option(0, N_("of the weights and of the order of the data"))
    deterministic: bool = _option(
        False,
        N_("the same loss curve and weights, bit for bit, on every run of the same backend and number of threads"),
    )
    device: str = _option("auto", N_("cpu, cuda, xpu, mps"), same_run=False)
    threads: int = _option(0, N_("CPU threads"), same_run=False)
    backend: str = _option("", N_("backend of the kernels (see `anymamba backends`)"), same_run=False)
    shard: bool = _option(False, N_("FSDP2 instead of DDP under torchrun"), same_run=False)
    report_to: list[str] = _option([], N_("tensorboard, trackio, wandb"), same_run=False)

    @property
    def lora_options(self) -> LoraOptions | None:
        """None: all weights are trained."""
        if self.lora < 0:
            return None
        return LoraOptions(self.lora, self.lora_alpha, self.lora_dropout, self.lora_targets, self.dora)

    def differences(self, other: TrainConfig) -> list[str]:
        """``--flag: this value -> that`` for every field in which the two cannot be parts of one run."""
        return [
            f"{flag_of(one)}: {getattr(other, one.name)!r} -> {getattr(self, one.name)!r}"
            for one in dataclasses.fields(self)
            if one.metadata["same_run"] and one.name not in MAY_CHANGE and getattr(self, one.name) != getattr(other, one.name)
        ]

    def changes(self, other: TrainConfig) -> list[tuple[str, str, Any, Any]]:
        """(field, flag, value there, value here) for what may change when a run goes on, and differs."""
        return [
            (one.name, flag_of(one), getattr(other, one.name), getattr(self, one.name))
            for one in dataclasses.fields(self)
            if one.name in MAY_CHANGE and getattr(self, one.name) != getattr(other, one.name)
        ]


def _default(one: dataclasses.Field[Any]) -> Any:
    if isinstance(one.default_factory, dataclasses._MISSING_TYPE):
        return one.default
    return one.default_factory()


def _choices(one: dataclasses.Field[Any]) -> Sequence[str]:
    choices = one.metadata["choices"]
    return choices() if callable(choices) else choices


def flag_of(one: dataclasses.Field[Any]) -> str:
    """The command-line flag of a field."""
    return one.metadata["flag"] or "--" + one.name.replace("_", "-")


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag for every field; flags that are not given leave no trace, so that they do not hide the file's values."""
    for one in dataclasses.fields(TrainConfig):
        about = one.metadata
        text = _(about["help"])
        default = _default(one)
        if one.name == "data":
            parser.add_argument("data", nargs="*", default=argparse.SUPPRESS, metavar="DATA", help=text)
            continue
        kwargs: dict[str, Any] = {"dest": one.name, "default": argparse.SUPPRESS}
        if isinstance(default, bool):
            kwargs["action"] = argparse.BooleanOptionalAction
        elif isinstance(default, list):
            kwargs.update(action="append", metavar="NAME")
        else:
            kwargs["type"] = type(default)
            if about["bare"] is not None:
                kwargs.update(nargs="?", const=about["bare"])
            kwargs["metavar"] = {int: "N", float: "X", str: "TEXT"}[type(default)]
            if about["choices"]:
                kwargs["choices"] = _choices(one)
                del kwargs["metavar"]
            if default not in (0, 0.0, "", "auto", -1):
                text += f" [{default}]"
        parser.add_argument(flag_of(one), help=text.replace("%", "%%"), **kwargs)


def given_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields for which a flag was given."""
    names = {one.name for one in dataclasses.fields(TrainConfig)}
    flags = {name: value for name, value in vars(arguments).items() if name in names}
    if not flags.get("data", True):
        del flags["data"]
    return flags


def read_toml(path: str) -> dict[str, Any]:
    """The fields in a TOML file; keys as the flags (``batch-tokens``) or with underscores. Raises AnymambaError, naming file and key."""
    try:
        document = tomllib.loads(Path(path).expanduser().read_text("utf-8"))
    except OSError as error:
        raise AnymambaError("usage", _("{path} cannot be read").format(path=path), why=str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AnymambaError("usage", _("{path} is not TOML").format(path=path), why=str(error)) from error
    return checked(document, path)


PYTHON = "anymamba.train"
"""Where options are arguments of a function."""


def checked(document: dict[str, Any], where: str) -> dict[str, Any]:
    """The same values under the fields' names and in their types. Raises AnymambaError for an unknown key or a wrong type."""
    fields = {one.name: one for one in dataclasses.fields(TrainConfig)}
    names = {flag_of(one)[2:].replace("-", "_"): name for name, one in fields.items()} | {name: name for name in fields}
    values: dict[str, Any] = {}
    for key, value in document.items():
        name = names.get(key.replace("-", "_"))
        if name is None:
            raise _unknown_key(key, value, names, where)
        values[name] = _typed(value, fields[name], f"{where}: {key}")
    return values


def _unknown_key(key: str, value: Any, names: dict[str, str], where: str) -> AnymambaError:
    what = _("{where}: there is no option {key!r}").format(where=where, key=key)
    if isinstance(value, dict):
        return AnymambaError(
            "usage",
            what,
            fix=_("options stand at the top of the file, in no section [{key}]").format(key=key),
        )
    # in Python an option is written with underscores, in a file as on the command line
    suggestion = nearest(key, list(names) if where == PYTHON else [name.replace("_", "-") for name in names])
    known = _("`anymamba train --help` lists all of them")
    return AnymambaError("usage", what, fix=_("the nearest is {near!r}").format(near=suggestion) if suggestion else known)


def _typed(value: Any, one: dataclasses.Field[Any], where: str) -> Any:
    default = _default(one)
    expected_type = type(default)
    if expected_type is float and type(value) is int:
        value = float(value)
    if expected_type is list and isinstance(value, str):
        value = [value]
    if type(value) is not expected_type or (expected_type is list and not all(isinstance(item, str) for item in value)):
        raise AnymambaError(
            "usage",
            _("{where} must be {kind}, not {value!r}").format(where=where, kind=expected_type.__name__, value=value),
        )
    choices = _choices(one)
    if choices and value not in choices:
        raise AnymambaError("usage", _("{where} must be one of ").format(where=where) + ", ".join(choices))
    return value


def checked_ranges(config: TrainConfig) -> TrainConfig:
    """The same configuration. Raises AnymambaError for a number that makes no sense."""
    whole = {"length", "batch_tokens", "micro_batch", "steps", "warmup", "eval_every", "save_every", "keep", "threads"}
    whole |= {"seed", "patience", "epochs", "max_minutes", "lr", "weight_decay", "clip", "train_tokenizer", "lora_alpha"}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if one.name in whole and value < 0:
            raise _out_of_range(one, value, _("must not be negative"))
        if one.name in ("validation", "beta1", "beta2", "lora_dropout") and not 0 <= value < 1:
            raise _out_of_range(one, value, _("must be at least 0 and below 1"))
        if one.name in ("floor", "decay_share") and not 0 <= value <= 1:
            raise _out_of_range(one, value, _("must be from 0 to 1"))
        if one.name == "eval_tokens" and value < -1:
            raise _out_of_range(one, value, _("-1 for the default, 0 for all, or tokens"))
        if one.name == "sample_every" and value < -1:
            raise _out_of_range(one, value, _("-1 for none, 0 for the default, or steps"))
    if config.lora == 0 or config.lora < -1:
        raise _out_of_range(_field("lora"), config.lora, _("the rank must be at least 1"))
    _check_lora(config)
    if config.steps and config.epochs:
        raise AnymambaError("usage", _("give --steps or --epochs, not both"))
    fresh = TrainConfig()
    refuse_ignored({one.name: getattr(config, one.name) for one in dataclasses.fields(config) if _differs(config, fresh, one.name)})
    if config.deterministic and config.max_minutes:
        raise AnymambaError(
            "usage",
            _("--max-minutes makes the number of steps depend on the clock"),
            why=_("--deterministic asks for the same run every time"),
            fix=_("give --steps or --epochs instead"),
        )
    return config


def _field(name: str) -> dataclasses.Field[Any]:
    return next(one for one in dataclasses.fields(TrainConfig) if one.name == name)


def _differs(config: TrainConfig, other: TrainConfig, name: str) -> bool:
    return getattr(config, name) != getattr(other, name)


def refuse_ignored(values: dict[str, Any]) -> None:
    """Raises AnymambaError for an option that the user named and another one makes void. values: by field, only those named."""
    names = {one.name: flag_of(one) for one in dataclasses.fields(TrainConfig)}
    for name, void, why in (
        ("start", "size", N_("the model has a size already")),
        ("start", "model", N_("the model is of a family already")),
        ("val", "validation", N_("with a file of its own nothing is held out of the data")),
    ):
        if values.get(name) and values.get(void):
            raise AnymambaError(
                "usage",
                _("{flag} and {other} cannot both be given").format(flag=names[name], other=names[void]),
                why=_(why),
                fix=_("leave {other} out").format(other=names[void]),
            )


def _check_lora(config: TrainConfig) -> None:
    """Raises AnymambaError for options of LoRA that say nothing without another one."""
    if config.lora >= 0:
        if not config.start:
            raise AnymambaError(
                "usage", _("--lora adapts a model, and none was named"), fix=_("name it with --from MODEL")
            )
        return
    for name in ("lora_alpha", "lora_dropout", "lora_targets", "dora"):
        if getattr(config, name):
            raise AnymambaError("usage", _("{flag} says how --lora is done").format(flag=flag_of(_field(name))), fix="--lora RANK")
    if config.quantize != "none":
        raise AnymambaError("usage", _("{flag} says how --lora is done").format(flag="--quantize"), fix="--lora RANK")


def _out_of_range(one: dataclasses.Field[Any], value: Any, text: str) -> AnymambaError:
    return AnymambaError("usage", f"{flag_of(one)} {value}: {text}")
