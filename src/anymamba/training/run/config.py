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
from anymamba.language import say
from anymamba.models import families
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


def _option(default: Any, en: str, zh: str, choices: Choices = (), flag: str = "", same_run: bool = True) -> Any:
    """choices: or what lists them. same_run: False for what may change between the parts of one run without changing its numbers."""
    about = {"help": (en, zh), "choices": choices, "flag": flag, "same_run": same_run}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=about)
    return field(default=default, metadata=about)


@dataclass
class TrainConfig:
    """One training run. The help texts below are the documentation of the fields, and of the flags of the same names."""

    data: list[str] = _option(
        [],
        "text, JSON, CSV, Parquet files (also .gz), folders, hf:OWNER/NAME",
        "文本、JSON、CSV、Parquet 文件（可为 .gz）、目录或 hf:所有者/名称",
    )
    out: str = _option("", "run folder (default: runs/NAME-SIZE)", "运行目录（默认 runs/名称-规模）", same_run=False)
    instruct: bool = _option(
        False,
        "stage 2: tune on questions and answers (JSON, CSV or Parquet; prompt/response, messages, Alpaca, ShareGPT)",
        "第二阶段：用问答微调（JSON、CSV 或 Parquet；prompt/response、messages、Alpaca、ShareGPT）",
    )
    start: str = _option("", "checkpoint to start from", "起始检查点", flag="--from")
    size: str = _option("tiny", "the dial: tiny, small, 130m, ...", "规模旋钮：tiny、small、130m 等")
    model: str = _option("mamba", "model family", "模型系列", choices=families.names)
    a_activation: str = _option(
        "auto",
        "Mamba-3: activation of A; auto: as the checkpoint says (tried on a short text if it does not), heavy_tail for a new model",
        "Mamba-3：A 的激活函数；auto：以检查点为准（未说明则用短文试出），新模型用 heavy_tail",
        choices=("auto", "softplus", "heavy_tail"),
        same_run=False,
    )
    tokenizer: str = _option("bytes", "bytes, a tokenizer.json, a folder or a hub name", "bytes、tokenizer.json、目录或 hub 名称")
    train_tokenizer: int = _option(0, "train a BPE tokenizer with N tokens on the data", "用数据训练 N 个词元的 BPE 分词器")
    text_field: str = _option("text", "field of JSONL and Parquet records that holds the text", "JSONL 与 Parquet 记录中存放文本的字段")
    encoding: str = _option("utf-8", "encoding of text files", "文本文件的编码")
    bad_records: str = _option(
        "",
        "write every record left out to this file, with its line and the reason",
        "将所有被跳过的记录及其行号与原因写入该文件",
        same_run=False,
    )
    length: int = _option(0, "tokens in a row", "每行的词元数")
    batch_tokens: int = _option(0, "tokens in a step, over all processes", "每步的词元数（所有进程合计）")
    micro_batch: int = _option(0, "rows at once in a process (default: what fits memory)", "每个进程一次处理的行数（默认按内存决定）")
    steps: int = _option(0, "optimiser steps", "优化步数")
    epochs: float = _option(0.0, "passes over the data, instead of --steps", "遍历数据的次数，可代替 --steps")
    max_minutes: float = _option(
        0.0, "finish within this time: fewer steps, full schedule", "限时完成：减少步数，学习率走完全程", same_run=False
    )
    lr: float = _option(0.0, "peak learning rate", "学习率峰值")
    schedule: str = _option(
        "cosine", "after the warm-up: cosine, or stable and decay", "预热之后：余弦，或恒定再衰减", choices=("cosine", "wsd")
    )
    warmup: int = _option(0, "warm-up steps", "预热步数")
    decay_share: float = _option(0.2, "wsd: share of the steps that decay", "wsd：衰减阶段所占比例")
    floor: float = _option(0.1, "last learning rate over the peak", "末尾学习率与峰值之比")
    weight_decay: float = _option(0.1, "of the matrices; norms, biases, A_log, D have none", "仅用于矩阵；norm、偏置、A_log、D 不衰减")
    beta1: float = _option(0.9, "AdamW: decay of the mean of the gradient", "AdamW：梯度均值的衰减系数")
    beta2: float = _option(0.95, "AdamW: decay of the mean of its square", "AdamW：梯度平方均值的衰减系数")
    clip: float = _option(1.0, "largest norm of the gradient; 0: no limit", "梯度范数上限；0 表示不限")
    precision: str = _option("auto", "bf16 autocast or fp32", "bf16 自动混合精度或 fp32", choices=("auto", "bf16", "fp32"))
    checkpointing: str = _option(
        "auto",
        "recompute activations in the backward pass to save memory",
        "反向传播时重新计算激活以节省内存",
        choices=("auto", "on", "off"),
    )
    validation: float = _option(0.05, "share of the data held out", "留作验证的数据比例")
    val: list[str] = _option(
        [], "validation file, folder or data set of your own, instead of --validation", "自备的验证文件、目录或数据集，代替 --validation"
    )
    eval_every: int = _option(0, "steps between validations", "两次验证之间的步数", same_run=False)
    eval_tokens: int = _option(
        -1,
        "at most this many held-out tokens a validation; 0: all; -1: 5% of the time in all, at most 200000 tokens each",
        "每次验证最多使用的词元数；0 表示全部；-1 表示共占 5% 的时间，每次至多 200000 词元",
        same_run=False,
    )
    patience: int = _option(
        0, "stop after so many validations without a better one", "连续多少次验证没有改善后停止", same_run=False
    )
    sample_every: int = _option(0, "steps between samples; -1: none", "两次采样之间的步数；-1 表示不采样", same_run=False)
    sample_prompt: str = _option("", "what the samples continue", "采样时续写的提示", same_run=False)
    save_every: int = _option(0, "steps between checkpoints", "两次保存检查点之间的步数", same_run=False)
    keep: int = _option(2, "checkpoints kept; 0: all", "保留的检查点个数；0 表示全部", same_run=False)
    seed: int = _option(0, "of the weights and of the order of the data", "权重与数据顺序的随机种子")
    deterministic: bool = _option(
        False,
        "the same loss curve and weights, bit for bit, on every run of the same backend and number of threads",
        "在同一后端与线程数下，每次运行的损失曲线与权重逐位相同",
    )
    device: str = _option("auto", "cpu, cuda, xpu, mps", "cpu、cuda、xpu、mps", same_run=False)
    threads: int = _option(0, "CPU threads", "CPU 线程数", same_run=False)
    backend: str = _option("", "backend of the kernels (see `anymamba backends`)", "内核后端（见 `anymamba backends`）", same_run=False)
    shard: bool = _option(False, "FSDP2 instead of DDP under torchrun", "在 torchrun 下用 FSDP2 代替 DDP", same_run=False)
    report_to: list[str] = _option([], "tensorboard, trackio, wandb", "tensorboard、trackio、wandb", same_run=False)

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
        text = say(*about["help"])
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
            kwargs["metavar"] = {int: "N", float: "X", str: "TEXT"}[type(default)]
            if about["choices"]:
                kwargs["choices"] = _choices(one)
                del kwargs["metavar"]
            if default not in (0, 0.0, "", "auto"):
                text += f" [{default}]"
        parser.add_argument(flag_of(one), help=text.replace("%", "%%"), **kwargs)


def given_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields for which a flag was given."""
    names = {one.name for one in dataclasses.fields(TrainConfig)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    if not given.get("data", True):
        del given["data"]
    return given


def read_toml(path: str) -> dict[str, Any]:
    """The fields in a TOML file; keys as the flags (``batch-tokens``) or with underscores. Raises AnymambaError, naming file and key."""
    try:
        document = tomllib.loads(Path(path).expanduser().read_text("utf-8"))
    except OSError as error:
        raise AnymambaError("usage", say(f"{path} cannot be read", f"无法读取 {path}"), why=str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AnymambaError("usage", say(f"{path} is not TOML", f"{path} 不是有效的 TOML"), why=str(error)) from error
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
    what = say(f"{where}: there is no option {key!r}", f"{where}：没有选项 {key!r}")
    if isinstance(value, dict):
        return AnymambaError(
            "usage",
            what,
            fix=say(f"options stand at the top of the file, in no section [{key}]", f"选项写在文件顶层，不放在 [{key}] 小节中"),
        )
    # in Python an option is written with underscores, in a file as on the command line
    near = nearest(key, list(names) if where == PYTHON else [name.replace("_", "-") for name in names])
    known = say("`anymamba train --help` lists all of them", "`anymamba train --help` 列出全部选项")
    return AnymambaError("usage", what, fix=say(f"the nearest is {near!r}", f"最接近的是 {near!r}") if near else known)


def _typed(value: Any, one: dataclasses.Field[Any], where: str) -> Any:
    default = _default(one)
    wanted = type(default)
    if wanted is float and type(value) is int:
        value = float(value)
    if wanted is list and isinstance(value, str):
        value = [value]
    if type(value) is not wanted or (wanted is list and not all(isinstance(item, str) for item in value)):
        raise AnymambaError(
            "usage",
            say(f"{where} must be {wanted.__name__}, not {value!r}", f"{where} 应为 {wanted.__name__}，而不是 {value!r}"),
        )
    choices = _choices(one)
    if choices and value not in choices:
        raise AnymambaError("usage", say(f"{where} must be one of ", f"{where} 应为下列之一：") + ", ".join(choices))
    return value


def checked_ranges(config: TrainConfig) -> TrainConfig:
    """The same configuration. Raises AnymambaError for a number that makes no sense."""
    whole = {"length", "batch_tokens", "micro_batch", "steps", "warmup", "eval_every", "save_every", "keep", "threads"}
    whole |= {"seed", "patience", "epochs", "max_minutes", "lr", "weight_decay", "clip", "train_tokenizer"}
    for one in dataclasses.fields(config):
        value = getattr(config, one.name)
        if one.name in whole and value < 0:
            raise _out_of_range(one, value, say("must not be negative", "不能为负"))
        if one.name in ("validation", "beta1", "beta2") and not 0 <= value < 1:
            raise _out_of_range(one, value, say("must be at least 0 and below 1", "应在 0（含）与 1 之间"))
        if one.name in ("floor", "decay_share") and not 0 <= value <= 1:
            raise _out_of_range(one, value, say("must be from 0 to 1", "应在 0 与 1 之间（含两端）"))
        if one.name == "eval_tokens" and value < -1:
            raise _out_of_range(one, value, say("-1 for the default, 0 for all, or tokens", "-1 表示默认，0 表示全部，或给出词元数"))
        if one.name == "sample_every" and value < -1:
            raise _out_of_range(one, value, say("-1 for none, 0 for the default, or steps", "-1 表示不采样，0 表示默认，或给出步数"))
    if config.steps and config.epochs:
        raise AnymambaError("usage", say("give --steps or --epochs, not both", "--steps 与 --epochs 只能给一个"))
    fresh = TrainConfig()
    refuse_ignored({one.name: getattr(config, one.name) for one in dataclasses.fields(config) if _differs(config, fresh, one.name)})
    if config.deterministic and config.max_minutes:
        raise AnymambaError(
            "usage",
            say("--max-minutes makes the number of steps depend on the clock", "--max-minutes 使步数取决于时钟"),
            why=say("--deterministic asks for the same run every time", "--deterministic 要求每次运行相同"),
            fix=say("give --steps or --epochs instead", "请改用 --steps 或 --epochs"),
        )
    return config


def _differs(config: TrainConfig, other: TrainConfig, name: str) -> bool:
    return getattr(config, name) != getattr(other, name)


def refuse_ignored(values: dict[str, Any]) -> None:
    """Raises AnymambaError for an option that the user named and another one makes void. values: by field, only those named."""
    names = {one.name: flag_of(one) for one in dataclasses.fields(TrainConfig)}
    for name, void, en, zh in (
        ("start", "size", "the model has a size already", "模型的规模已定"),
        ("start", "model", "the model is of a family already", "模型的系列已定"),
        ("val", "validation", "with a file of its own nothing is held out of the data", "自备验证文件时，不再从数据中留出"),
    ):
        if values.get(name) and values.get(void):
            raise AnymambaError(
                "usage",
                say(f"{names[name]} and {names[void]} cannot both be given", f"{names[name]} 与 {names[void]} 不能同时给出"),
                why=say(en, zh),
                fix=say(f"leave {names[void]} out", f"请去掉 {names[void]}"),
            )


def _out_of_range(one: dataclasses.Field[Any], value: Any, text: str) -> AnymambaError:
    return AnymambaError("usage", f"{flag_of(one)} {value}: {text}")
