"""anymamba generate MODEL -p TEXT: continues a prompt, streaming, in constant memory."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymamba.cli import uncollected
from anymamba.cli.model_options import add_model_arguments, add_sampling_arguments, load_model, sampling_of
from anymamba.cli.options import whole
from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.printable import one_json_line, shown

if TYPE_CHECKING:
    from anymamba.generation.engine import Reader, Timing
    from anymamba.generation.sampling import Sampling
    from anymamba.generation.text import Piece
    from anymamba.models.cache import Cache
    from anymamba.models.lm import LanguageModel
    from anymamba.models.tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "-p",
        "--prompt",
        default="",
        help=_("the text to continue; - reads stdin"),
    )
    parser.add_argument("--prompts", metavar="FILE", help=_("one prompt a line, continued as one batch"))
    add_sampling_arguments(parser, max_tokens=200)
    parser.add_argument(
        "--save-state",
        metavar="FILE",
        help=_("keep what was read, to continue later"),
    )
    parser.add_argument("--load-state", metavar="FILE", help=_("continue from a saved state"))
    parser.add_argument(
        "--confidence",
        action="store_true",
        help=_("mark improbable tokens and report entropy: where a text may be made up"),
    )
    parser.add_argument(
        "--logprobs", type=whole(0), default=0, metavar="N",
        help=_("with --json: log-probabilities of each token and of the N likeliest in its place"),
    )  # fmt: skip
    group = parser.add_argument_group(_("rounding in long texts (see `anymamba verify`)"))
    group.add_argument(
        "--residual", choices=("float32", "dtype"),
        help=_("residual stream in float32 or in the weights' dtype; default: the checkpoint's"),
    )  # fmt: skip
    group.add_argument(
        "--resync", type=whole(0), default=0, metavar="N",
        help=_("every N tokens read them again in one parallel pass (0: never)"),
    )  # fmt: skip
    parser.add_argument(
        "--plan", action="store_true",
        help=_("say what it takes (memory, speed at most) and stop"),
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help=_("one JSON document on stdout"))
    parser.add_argument("-q", "--quiet", action="store_true", help=_("no figures on stderr"))


def run(arguments: argparse.Namespace) -> int:
    if arguments.plan:
        from anymamba.cli import generate_plan

        return generate_plan.run(arguments)
    if arguments.prompts and (arguments.save_state or arguments.load_state or arguments.confidence):
        raise AnymambaError(
            "usage",
            _("--prompts goes neither with --save-state, --load-state nor --confidence"),
        )
    if arguments.logprobs and not arguments.json:
        raise AnymambaError("usage", _("--logprobs needs --json: text has no place for them"))
    with uncollected():  # torch, and all of ours that generating needs
        importlib.import_module("anymamba.generation.model")
        from anymamba.determinism import deterministic

    sampling = sampling_of(arguments)
    with deterministic(arguments.deterministic):
        model, tokenizer = load_model(arguments, _passes(arguments), mapped=True)
        if arguments.residual:
            from anymamba.generation.mitigation import keep_residual_in_float32

            keep_residual_in_float32(model, arguments.residual == "float32")
        if arguments.prompts:
            return _batch(arguments, model, tokenizer, sampling)
        return _one(arguments, model, tokenizer, sampling)


def _passes(arguments: argparse.Namespace) -> bool:
    """Whether the prompt will be read in parallel passes, as far as that can be told before it is in tokens: of three bytes at least."""
    from anymamba.generation.engine import FIRST_BYTES_BY_STEPS

    if arguments.prompts or arguments.resync or arguments.prompt == "-":
        return True
    folder = Path(arguments.model).expanduser()
    weights = sum(file.stat().st_size for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern)) if folder.is_dir() else 0
    return len(arguments.prompt.encode()) // 3 * weights > FIRST_BYTES_BY_STEPS


def _reader(arguments: argparse.Namespace, model: LanguageModel, rows: int = 1, cache: Cache | None = None) -> Reader:
    from anymamba.generation.engine import Reader
    from anymamba.generation.mitigation import ResynchronisedReader

    if arguments.resync:
        return ResynchronisedReader(model, rows, cache, arguments.resync)
    return Reader(model, rows, cache, alone=True, first=True)


def _one(arguments: argparse.Namespace, model: LanguageModel, tokenizer: Tokenizer, sampling: Sampling) -> int:
    import torch

    from anymamba.cli.terminal.confidence import Marker
    from anymamba.cli.terminal.standard_input import read_all
    from anymamba.generation import saved_state
    from anymamba.generation.text import encode_prompt, end_tokens, pieces

    prompt = read_all() if arguments.prompt == "-" else arguments.prompt
    cache, pending = saved_state.load(arguments.load_state, model) if arguments.load_state else (None, [])
    ids = pending + (tokenizer.encode(prompt) if pending else encode_prompt(tokenizer, prompt))
    reader = _reader(arguments, model, cache=cache)
    if arguments.max_tokens == 0:
        return _only_read(arguments, reader, ids)
    reader.read(torch.tensor([ids]).to(model.device))
    marker = Marker(sys.stdout, marking=arguments.confidence)
    text, chosen, finish = "", [], None
    for piece in pieces(
        reader,
        tokenizer,
        ids,
        arguments.max_tokens,
        sampling,
        arguments.stop,
        end_tokens(model, tokenizer),
        arguments.confidence,
        arguments.logprobs,
        0 if arguments.save_state else reader.ahead,
    ):
        text += piece.text
        finish = piece.finish
        if piece.token is not None:
            chosen.append(piece)
            pending = [piece.token]
        if not arguments.json:
            marker.write(piece)
    if arguments.save_state:
        # the token chosen last is still unread, except the end token, which does not belong to the text
        saved_state.save(arguments.save_state, reader, [] if finish == "end" else pending)
    if arguments.json:
        _print_json([_result(arguments, tokenizer, prompt, len(ids), text, chosen, finish)], reader.timing)
        return 0
    marker.finish()
    if not arguments.quiet:
        _print_timing(reader.timing)
    return 0


def _result(
    arguments: argparse.Namespace, tokenizer: Tokenizer, prompt: str, read: int, text: str, chosen: list[Piece], finish: str | None
) -> dict[str, Any]:
    """One text as an entry of the JSON document. read: tokens of the prompt. chosen: one piece a new token, the end token left out."""
    result: dict[str, Any] = {
        "prompt": prompt, "text": text, "prompt_tokens": read, "new_tokens": len(chosen), "finish": finish,
    }  # fmt: skip
    if arguments.confidence or arguments.logprobs:
        result["tokens"] = [_token(tokenizer, piece, bool(arguments.logprobs)) for piece in chosen]
    return result


def _token(tokenizer: Tokenizer, piece: Piece, alternatives: bool) -> dict[str, Any]:
    assert piece.token is not None
    entry: dict[str, Any] = {
        "id": piece.token, "text": tokenizer.decode([piece.token]),
        "probability": piece.probability, "log_probability": piece.log_probability, "entropy_bits": piece.entropy,
    }  # fmt: skip
    if alternatives:
        entry["alternatives"] = [
            {"id": token, "text": tokenizer.decode([token]), "log_probability": value} for token, value in piece.alternatives or []
        ]
    return entry


def _only_read(arguments: argparse.Namespace, reader: Any, ids: list[int]) -> int:
    """--max-tokens 0: reads the prompt for --save-state; the last token stays unread, so that its logits come at the next start."""
    import torch

    from anymamba.generation import saved_state

    if len(ids) > 1:
        reader.read(torch.tensor([ids[:-1]]).to(reader.model.device))
    if arguments.save_state:
        saved_state.save(arguments.save_state, reader, ids[-1:])
    if not arguments.quiet:
        _print_timing(reader.timing)
    return 0


def _batch(arguments: argparse.Namespace, model: LanguageModel, tokenizer: Tokenizer, sampling: Sampling) -> int:
    from anymamba.generation.text import encode_prompt, end_tokens, generate_batch

    path = Path(arguments.prompts)
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnymambaError("data", _("cannot read {path}").format(path=path), why=str(error)) from error
    prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise AnymambaError("data", _("{path} has no prompt").format(path=path))
    reader = _reader(arguments, model, len(prompts))
    continuations = generate_batch(
        reader,
        tokenizer,
        [encode_prompt(tokenizer, prompt) for prompt in prompts],
        arguments.max_tokens,
        sampling,
        arguments.stop,
        end_tokens(model, tokenizer),
        arguments.logprobs,
    )
    if arguments.json:
        results = [
            _result(arguments, tokenizer, prompt, one.prompt_tokens, one.text, one.pieces, one.finish)
            for prompt, one in zip(prompts, continuations)
        ]
        _print_json(results, reader.timing)
    else:
        for prompt, one in zip(prompts, continuations):
            print(shown(f"== {prompt}\n{one.text}\n", sys.stdout))
        if not arguments.quiet:
            _print_timing(reader.timing)
    return 0


def _print_json(results: list[dict[str, Any]], timing: Timing) -> None:
    figures = {
        "prompt_tokens": timing.prompt_tokens,
        "prompt_seconds": timing.prompt_seconds,
        "new_tokens": timing.new_tokens,
        "new_seconds": timing.new_seconds,
        "tokens_per_second": timing.tokens_per_second,
        "stepper": timing.stepper,
        "why": timing.why,
    }
    print(one_json_line({"results": results, "timing": figures, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}))


def _print_timing(timing: Timing) -> None:
    rate = timing.prompt_tokens / timing.prompt_seconds if timing.prompt_seconds else 0.0
    print(
        _("prompt: {prompt_tokens} tokens, {rate:.0f}/s; new: {new_tokens} tokens, {tokens_per_second:.1f}/s").format(
            prompt_tokens=timing.prompt_tokens,
            rate=rate,
            new_tokens=timing.new_tokens,
            tokens_per_second=timing.tokens_per_second,
        )
        + (f" ({timing.stepper}: {timing.why})" if timing.stepper else ""),
        file=sys.stderr,
    )
