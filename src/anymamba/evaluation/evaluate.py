"""``anymamba.evaluate``: the score of a model on a text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anymamba.errors import AnymambaError
from anymamba.evaluation.perplexity import Progress, Score, score_file, score_text
from anymamba.language import _
from anymamba.models.tokenizer import Tokenizer

if TYPE_CHECKING:
    from anymamba.generation.model import Model


def evaluate(
    model: Model | str | Path,
    file: str | Path | None = None,
    *,
    text: str | None = None,
    mode: str = "recurrent",
    window: int = 2048,
    stride: int | None = None,
    progress: Progress | None = None,
) -> Score:
    """Perplexity and bits per byte of a UTF-8 file, or of ``text``.

    model: of ``anymamba.load``, or what it would load. mode, window, stride: see ``perplexity.score_text``. progress: called
    with the score so far. Raises AnymambaError when neither or both of file and text are there, or the text cannot be read.
    """
    if (file is None) == (text is None):
        raise AnymambaError("usage", _("give a file or text=, one of the two"))
    if isinstance(model, (str, Path)):
        from anymamba.generation.model import load

        model = load(model)
    tokenizer = _tokenizer(model)
    if text is not None:
        return score_text(model, tokenizer, text, mode, window, stride, progress)
    assert file is not None
    return score_file(model, tokenizer, file, mode, window, stride, progress)


def _tokenizer(model: Model) -> Tokenizer:
    if model.tokenizer is None:
        raise AnymambaError(
            "usage",
            _("the model was loaded without a tokenizer"),
            fix=_('anymamba.load(path, tokenizer="FILE|FOLDER|NAME")'),
        )
    return model.tokenizer
