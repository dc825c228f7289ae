"""What generate and chat share: which model, on which device, how sampled."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from anymamba import announce
from anymamba.cli.adapter_option import adapters_of, add_adapter
from anymamba.cli.beforehand import prepare_triton
from anymamba.cli.options import add_activation, add_device, add_threads, device_of, seed, whole
from anymamba.errors import AnymambaError
from anymamba.language import _

if TYPE_CHECKING:
    from anymamba.generation.model import Model
    from anymamba.generation.sampling import Sampling
    from anymamba.models.tokenizer import Tokenizer


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=_("checkpoint folder, GGUF file or Hugging Face name"))
    parser.add_argument(
        "--tokenizer",
        metavar="FILE|NAME",
        help=_("default: the one saved with the model"),
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        help=_("of the weights; default: as saved; auto: what is fast here, and why"),
    )
    parser.add_argument(
        "--quantize",
        choices=("int8", "int4"),
        help=_("round the weights alone: int8 takes half the memory of bf16 and is faster on CPUs, int4 half of that"),
    )
    add_adapter(parser)
    add_activation(parser)
    add_device(parser)
    parser.add_argument(
        "--backend",
        help=_("backend of every op (default: the fastest that is correct)"),
    )
    add_threads(parser)


def add_sampling_arguments(parser: argparse.ArgumentParser, max_tokens: int) -> None:
    group = parser.add_argument_group(_("sampling (greedy by default)"))
    group.add_argument(
        "-m", "--max-tokens", type=int, default=max_tokens, metavar="N",
        help=_("new tokens (default {max_tokens}; -1: no limit, until the text ends)").format(max_tokens=max_tokens),
    )  # fmt: skip
    group.add_argument("--temp", "--temperature", dest="temperature", type=float, default=0.0, help=_("0: greedy"))
    group.add_argument("--top-k", type=whole(0), default=0, help=_("keep the k likeliest (0: all)"))
    group.add_argument(
        "--top-p",
        type=float,
        default=1.0,
        help=_("keep the smallest set with this probability"),
    )
    group.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        help=_("drop tokens below this share of the likeliest"),
    )
    group.add_argument("--repetition-penalty", type=float, default=1.0, help=_("above 1: against repetition"))
    group.add_argument(
        "--no-repeat-ngram",
        type=whole(0),
        default=0,
        metavar="N",
        help=_("never repeat N tokens in a row"),
    )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help=_("end at this text; may be repeated"),
    )
    group.add_argument("--seed", type=seed, metavar="N", help=_("the same tokens on every run"))
    group.add_argument(
        "--deterministic",
        action="store_true",
        help=_("fixed seed and deterministic kernels only"),
    )


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    from anymamba.generation.sampling import Sampling

    if arguments.max_tokens < -1:
        raise AnymambaError(
            "usage",
            _(
                "-m {tokens}: must be a number of tokens, or -1 to go on until the text ends, however long it gets"
            ).format(tokens=arguments.max_tokens),
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


def load_model(arguments: argparse.Namespace, passes: bool = True, mapped: bool = False) -> tuple[Model, Tokenizer]:
    """The model, ready to generate, and its tokenizer. passes: whether prompts will be read in parallel passes, on a GPU by Triton's
    kernels; mapped: as of ``generation.load``. Raises AnymambaError when their vocabularies do not fit."""
    import torch

    from anymamba.backends.dispatch import set_backend
    from anymamba.cli import generate_plan
    from anymamba.determinism import switch_on
    from anymamba.generation.dtype import fastest
    from anymamba.generation.model import load

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    if arguments.deterministic:
        switch_on()
    if arguments.backend:
        set_backend(arguments.backend)
    # before the first kernel is asked for: Triton, which takes a second to import, is told to announce what it compiles as it comes
    announce.listen(None if getattr(arguments, "quiet", False) else _tell)
    device = device_of(arguments.device)
    if passes and device.type == "cuda":
        prepare_triton()
    generate_plan.check_memory(arguments, mapped and device.type == "cpu")
    model = load(
        arguments.model, device, arguments.dtype, arguments.quantize, tokenizer=arguments.tokenizer,
        a_activation=arguments.a_activation, mapped=mapped, adapter=adapters_of(arguments.adapter),
    )  # fmt: skip
    if arguments.dtype == "auto":
        name, why = str(model.dtype).removeprefix("torch."), fastest(model.dtype, model.device)[1]
        print(_("dtype {name}: {why}").format(name=name, why=why), file=sys.stderr)
    if model.tokenizer is None:
        model.tokenizer = no_tokenizer(arguments.model)
    return model, model.tokenizer


def no_tokenizer(model: str) -> Tokenizer:
    """Raises AnymambaError saying what the model has instead of a tokenizer."""
    from anymamba.models.gguf.file import is_gguf
    from anymamba.models.hub.loading import find
    from anymamba.models.tokenizer import load_tokenizer

    if is_gguf(Path(model).expanduser()):
        raise AnymambaError(
            "tokenizer", _("{path} has no tokenizer").format(path=model), fix=_("name the model's own tokenizer with --tokenizer")
        )
    return load_tokenizer(find(model))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
