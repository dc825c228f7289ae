"""Mamba on any machine. Importing this package imports neither torch nor a kernel library: names load when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anymamba.lazy import lazy_names
from anymamba.version import __version__ as __version__

if TYPE_CHECKING:
    from anymamba import backends as backends
    from anymamba import dropin as dropin
    from anymamba import evaluation as evaluation
    from anymamba import generation as generation
    from anymamba import models as models
    from anymamba import numerics as numerics
    from anymamba import ops as ops
    from anymamba import reference as reference
    from anymamba import training as training
    from anymamba.backends.dispatch import choose as choose
    from anymamba.backends.dispatch import set_backend as set_backend
    from anymamba.backends.dispatch import use_backend as use_backend
    from anymamba.errors import AnymambaError as AnymambaError
    from anymamba.evaluation.evaluate import evaluate as evaluate
    from anymamba.generation.model import Model as Model
    from anymamba.generation.model import load as load
    from anymamba.training.run.runs import Run as Run
    from anymamba.training.run.runs import train as train

    from_pretrained = load

_SUBPACKAGES = (
    "backends", "dropin", "evaluation", "generation", "models", "numerics", "ops", "reference", "training",
)  # fmt: skip
_WHERE = {
    "load": "anymamba.generation.model",
    "Model": "anymamba.generation.model",
    "train": "anymamba.training.run.runs",
    "Run": "anymamba.training.run.runs",
    "evaluate": "anymamba.evaluation.evaluate",
    "use_backend": "anymamba.backends.dispatch",
    "set_backend": "anymamba.backends.dispatch",
    "choose": "anymamba.backends.dispatch",
    "debug_checks": "anymamba.ops.calls.debug",
    "AnymambaError": "anymamba.errors",
}
_WHERE.update({name: "anymamba." + name for name in _SUBPACKAGES})

_lazy, _names = lazy_names(__name__, _WHERE)

if not TYPE_CHECKING:  # a type checker that saw it would take any misspelt name for an attribute

    def __getattr__(name):
        return _lazy("load" if name == "from_pretrained" else name)


def __dir__() -> list:
    return [*_names(), "from_pretrained", "__version__"]


__all__ = ["__version__", "from_pretrained", *_WHERE]  # noqa: PLE0604 - the keys are strings
