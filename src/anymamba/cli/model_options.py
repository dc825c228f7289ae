"""What generate and chat share: which model, on which device, how sampled."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from typing import TYPE_CHECKING

from anymamba import announce
from anymamba.cli.options import add_activation, add_device, add_threads, device_of, seed, whole
from anymamba.errors import AnymambaError
from anymamba.language import say

if TYPE_CHECKING:
    from anymamba.generation.model import Model
    from anymamba.generation.sampling import Sampling
    from anymamba.models.tokenizer import Tokenizer


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=say("checkpoint folder or Hugging Face name", "检查点目录或 Hugging Face 名称"))
    parser.add_argument(
        "--tokenizer",
        metavar="FILE|NAME",
        help=say("default: the one saved with the model", "默认使用随模型保存的分词器"),
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help=say(
            "of the weights; default: as saved; auto: what is fast here, and why",
            "权重类型；默认与保存时一致；auto：选本机较快的类型并说明原因",
        ),
    )
    parser.add_argument(
        "--quantize",
        choices=("int8",),
        help=say(
            "weight-only int8: half the memory of bf16, faster on CPUs", "仅权重 int8：内存为 bf16 的一半，CPU 上更快"
        ),
    )
    add_activation(parser)
    add_device(parser)
    parser.add_argument(
        "--backend",
        help=say("backend of every op (default: the fastest that is correct)", "指定后端（默认：正确且最快的）"),
    )
    add_threads(parser)


def add_sampling_arguments(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    group = parser.add_argument_group(say("sampling (greedy by default)", "采样（默认贪心）"))
    group.add_argument(
        "-m", "--max-tokens", type=int, default=max_tokens, metavar="N",
        help=say(
            f"new tokens (default {max_tokens}; -1: no limit, until the text ends)",
            f"新词元数（默认 {max_tokens}；-1 表示不限，直到文本结束）",
        ),
    )  # fmt: skip
    group.add_argument(
        "--temp", "--temperature", dest="temperature", type=float, default=0.0, help=say("0: greedy", "0 表示贪心")
    )
    group.add_argument(
        "--top-k", type=whole(0), default=0, help=say("keep the k likeliest (0: all)", "只保留最可能的 k 个（0：全部）")
    )
    group.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help=say("keep the smallest set with this probability", "保留累计概率达到该值的最小集合"),
    )
    group.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        help=say("drop tokens below this share of the likeliest", "丢弃低于最大概率该比例的词元"),
    )
    group.add_argument(
        "--repetition-penalty", type=float, default=1.0, help=say("above 1: against repetition", "大于 1 抑制重复")
    )
    group.add_argument(
        "--no-repeat-ngram",
        type=whole(0),
        default=0,
        metavar="N",
        help=say("never repeat N tokens in a row", "禁止重复连续 N 个词元"),
    )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help=say("end at this text; may be repeated", "遇到该文本时结束；可重复"),
    )
    group.add_argument("--seed", type=seed, metavar="N", help=say("the same tokens on every run", "每次运行得到相同的词元"))
    group.add_argument(
        "--deterministic",
        action="store_true",
        help=say("fixed seed and deterministic kernels only", "固定随机种子并只用确定性内核"),
    )


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    from anymamba.generation.sampling import Sampling

    if arguments.max_tokens < -1:
        raise AnymambaError(
            "usage",
            say(
                f"-m {arguments.max_tokens}: must be a number of tokens, or -1 to go on until the text ends, however long it gets",
                f"-m {arguments.max_tokens}：应为词元数，或用 -1 表示一直生成到文本结束（不限长度）",
            ),
        )
    if arguments.deterministic and arguments.seed is None:
        arguments.seed = 0
    return Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        repetition_penalty=arguments.repetition_penalty,
        no_repeat_ngram=arguments.no_repeat_ngram,
        seed=arguments.seed,
    )


def load_model(arguments: argparse.Namespace) -> tuple[Model, Tokenizer]:
    """The model, ready to generate, and its tokenizer. Raises AnymambaError when their vocabularies do not fit."""
    import torch

    from anymamba.backends.dispatch import use_backend
    from anymamba.determinism import switch_on
    from anymamba.generation.dtype import fastest
    from anymamba.generation.model import load
    from anymamba.models import hub
    from anymamba.models.tokenizer import load_tokenizer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.deterministic:
        switch_on()
    if arguments.backend:
        use_backend(arguments.backend)
    model = load(
        arguments.model, device_of(arguments.device), arguments.dtype, arguments.quantize, tokenizer=arguments.tokenizer,
        a_activation=arguments.a_activation,
    )  # fmt: skip
    announce.listen(None if getattr(arguments, "quiet", False) else _tell)
    if model.device.type != "cpu" and importlib.util.find_spec("triton") is not None:
        from anymamba.backends.triton.announcing import announce_compilation

        announce_compilation()
    if arguments.dtype == "auto":
        name, why = str(model.dtype).removeprefix("torch."), fastest(model.dtype, model.device)[1]
        print(say(f"dtype {name}: {why}", f"类型 {name}：{why}"), file=sys.stderr)
    if model.tokenizer is None:
        model.tokenizer = load_tokenizer(hub.find(arguments.model))  # raises, saying what the folder has instead
    return model, model.tokenizer


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
