"""A file scored by a model, as `anymamba eval` reports it."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from anymamba.language import _


def scored(arguments: argparse.Namespace, model: Any, tokenizer: Any, path: str) -> dict[str, Any]:
    """A file's entry of the JSON document; what was left out of it is said on stderr."""
    from anymamba.evaluation.perplexity import score_file
    from anymamba.training.data.skips import Skips

    start, skips = time.perf_counter(), Skips()
    score = score_file(
        model, tokenizer, path, arguments.mode, arguments.window, arguments.stride, _Line(path, start),
        encoding=arguments.encoding, text_field=arguments.text_field, skips=skips,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    if skips.count:
        print(skips.summary(), file=sys.stderr)
    return {
        "file": path,
        "bits_per_byte": score.bits_per_byte,
        "perplexity": score.perplexity,
        "tokens": score.tokens,
        "bytes": score.bytes,
        "tokens_per_second": score.tokens / seconds,
        "documents": skips.total - skips.count,
        "skipped": skips.count,
    }


class _Line:
    """How far it is, on stderr, once a second where a person watches."""

    def __init__(self, path: str, start: float) -> None:
        self.path, self.start, self.said = path, start, start

    def __call__(self, score: Any) -> None:
        now = time.perf_counter()
        if sys.stderr.isatty() and now - self.said > 1:
            self.said = now
            rate = score.tokens / (now - self.start)
            print(
                _("{path}: {tokens} tokens, {rate:.0f} tokens/s, {bits_per_byte:.4f} bits per byte so far").format(
                    path=self.path, tokens=score.tokens, rate=rate, bits_per_byte=score.bits_per_byte
                ),
                file=sys.stderr,
            )
