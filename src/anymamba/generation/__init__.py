"""From a prompt to text: prefill, then one token after another from a state of constant size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anymamba.lazy import lazy_names

if TYPE_CHECKING:
    from anymamba.generation.chat import Chat as Chat
    from anymamba.generation.engine import Reader as Reader
    from anymamba.generation.engine import Step as Step
    from anymamba.generation.model import Model as Model
    from anymamba.generation.model import TokenScores as TokenScores
    from anymamba.generation.model import load as load
    from anymamba.generation.sampling import Sampling as Sampling

_WHERE = {
    "load": "anymamba.generation.model", "Model": "anymamba.generation.model", "TokenScores": "anymamba.generation.model",
    "Chat": "anymamba.generation.chat", "Reader": "anymamba.generation.engine", "Step": "anymamba.generation.engine",
    "Sampling": "anymamba.generation.sampling",
}  # fmt: skip
__all__ = list(_WHERE)

_lazy, __dir__ = lazy_names(__name__, _WHERE)
if not TYPE_CHECKING:
    __getattr__ = _lazy
