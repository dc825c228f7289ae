"""How good is a model: perplexity and bits per byte of a text (perplexity.py), benchmark tasks through lm-eval (harness.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anymamba.lazy import lazy_names

if TYPE_CHECKING:
    from anymamba.evaluation.evaluate import evaluate as evaluate
    from anymamba.evaluation.perplexity import Score as Score
    from anymamba.evaluation.perplexity import score_file as score_file
    from anymamba.evaluation.perplexity import score_text as score_text

_WHERE = {
    "evaluate": "anymamba.evaluation.evaluate", "Score": "anymamba.evaluation.perplexity",
    "score_file": "anymamba.evaluation.perplexity", "score_text": "anymamba.evaluation.perplexity",
}  # fmt: skip
__all__ = list(_WHERE)

_lazy, __dir__ = lazy_names(__name__, _WHERE)
if not TYPE_CHECKING:
    __getattr__ = _lazy
