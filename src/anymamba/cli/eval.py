"""anymamba eval MODEL FILE...: perplexity and bits per byte; --tasks: benchmark tasks through lm-eval."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from anymamba import announce
from anymamba.cli.adapter_option import adapters_of, add_adapter
from anymamba.cli.eval_score import scored
from anymamba.cli.model_options import no_tokenizer
from anymamba.cli.options import add_activation, add_device, device_of, whole
from anymamba.errors import AnymambaError
from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=_("checkpoint folder, GGUF file or Hugging Face name"))
    parser.add_argument("files", nargs="*", metavar="FILE", help=_("text, JSON, CSV or Parquet files; folders"))
    parser.add_argument(
        "--tokenizer",
        metavar="FILE|NAME",
        help=_("default: the one saved with the model"),
    )
    parser.add_argument("--encoding", default="utf-8", metavar="NAME", help=_("of text and CSV files [utf-8]"))
    parser.add_argument(
        "--text-field", default="text", metavar="NAME",
        help=_("field of a record that holds its text [text]"),
    )  # fmt: skip
    parser.add_argument(
        "--mode",
        choices=("recurrent", "sliding"),
        default="recurrent",
        help=_("recurrent: every token sees all text before it; sliding: at most --window tokens (default: recurrent)"),
    )
    parser.add_argument(
        "--window",
        type=whole(2),
        default=2048,
        help=_("tokens read at once (default 2048)"),
    )
    parser.add_argument(
        "--stride",
        type=whole(1),
        help=_("sliding: new tokens a window (default half)"),
    )
    parser.add_argument(
        "--tasks",
        metavar="A,B",
        help=_("lm-eval tasks (needs the extra `eval`)"),
    )
    parser.add_argument("--limit", type=whole(1), help=_("examples a task, for a quick look"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help=_("default: as saved"))
    parser.add_argument("--quantize", choices=("int8", "int4"), help=_("round the weights alone, as in generate"))
    parser.add_argument(
        "--compare-widths", action="store_true",
        help=_("the same file in every width side by side: float32, bfloat16, int8, int4"),
    )  # fmt: skip
    add_adapter(parser)
    add_activation(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help=_("one JSON document on stdout"))


def run(arguments: argparse.Namespace) -> int:
    if not arguments.files and not arguments.tasks:
        raise AnymambaError(
            "usage",
            _("nothing to evaluate on"),
            fix=_("name text files, or --tasks"),
        )
    if arguments.compare_widths and arguments.adapter:
        raise AnymambaError("usage", _("--compare-widths and {flag} do not go together").format(flag="--adapter"))
    if arguments.compare_widths and (not arguments.files or arguments.tasks or arguments.quantize or arguments.dtype):
        raise AnymambaError(
            "usage", _("--compare-widths reads files, and chooses the widths itself: leave --quantize, --dtype and --tasks away")
        )
    import torch

    from anymamba.generation.model import load
    from anymamba.training.data import readers

    device = device_of(arguments.device)
    dtype = getattr(torch, arguments.dtype) if arguments.dtype else None
    readers.check_encoding(arguments.encoding)
    if arguments.files:
        readers.check(arguments.files, arguments.encoding)  # a wrong name must not cost the reading of a model first
    announce.listen(lambda text: print(text, file=sys.stderr, flush=True))
    if arguments.compare_widths:
        from anymamba.cli import eval_widths

        return eval_widths.run(arguments, device)
    model = load(
        arguments.model, device, dtype, arguments.quantize, tokenizer=arguments.tokenizer, a_activation=arguments.a_activation,
        adapter=adapters_of(arguments.adapter),
    )  # fmt: skip
    tokenizer = model.tokenizer or no_tokenizer(arguments.model)
    report: dict[str, Any] = {
        "model": str(arguments.model),
        "device": str(device),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    if arguments.quantize:
        report["quantize"] = arguments.quantize
    if arguments.files:
        report.update(mode=arguments.mode, files=[])
    for path in arguments.files:
        entry = scored(arguments, model, tokenizer, path)
        report["files"].append(entry)
        if not arguments.json:
            print(_sentence(entry), flush=True)
    if arguments.tasks:
        report["tasks"] = _tasks(arguments, model, tokenizer)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    return 0


def _tasks(arguments: argparse.Namespace, model: Any, tokenizer: Any) -> dict[str, Any]:
    from anymamba.evaluation.harness import evaluate_tasks

    results = evaluate_tasks(model, tokenizer, arguments.tasks.split(","), arguments.limit)
    if not arguments.json:
        for task, metrics in results.items():
            numbers = [f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, float)]
            print(f"{task}: " + ", ".join(numbers), flush=True)
    return results


def _sentence(entry: dict[str, Any]) -> str:
    documents = entry["documents"]
    number = _("{documents} documents, ").format(documents=documents) if documents > 1 else ""
    return _(
        "{file}: {bits_per_byte:.4f} bits per byte, perplexity {perplexity:.3f} ({number}{tokens} tokens, {bytes} "
        "bytes, {tokens_per_second:.0f} tokens/s)"
    ).format(number=number, **entry)
