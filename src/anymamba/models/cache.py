"""The recurrent state: everything a model remembers of a text, in constant memory, however long the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from anymamba.errors import AnymambaError, warn_once
from anymamba.language import _
from anymamba.models import families, identity
from anymamba.models.config import Config
from anymamba.models.hub import files


class Cache:
    """One State a layer. Pass it to the model's forward: it is read from and updated; more tokens may follow at any time.

    tokens: how many tokens of a row it has read. model: whose state it is; a saved state then names the weights, and one of other
    weights is not loaded.
    """

    def __init__(
        self,
        config: Config,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model: nn.Module | None = None,
    ) -> None:
        self._model = model
        self.tokens = 0
        kinds = families.family_of(config).layers(config)
        self.layers: list[Any] = [kind.mixer.make_state(config, batch, device, dtype or torch.float32) for kind in kinds]

    @property
    def batch(self) -> int:
        return next(iter(self.layers[0].tensors().values())).shape[0]

    @property
    def nbytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for _, tensor in self._tensors())

    def advance(self, tokens: int) -> None:
        """Called by the model after each forward pass."""
        self.tokens += tokens
        for layer in self.layers:
            layer.used = True

    def reset(self) -> None:
        """As new; the tensors keep their addresses."""
        self.tokens = 0
        for layer in self.layers:
            layer.reset()

    def __deepcopy__(self, memo: dict[int, Any]) -> Cache:
        return self.clone()  # the model is not copied with its state

    def clone(self) -> Cache:
        """An independent copy, to branch a text."""
        return self._map(Tensor.clone)

    def select(self, rows: Tensor) -> Cache:
        """A new cache with those rows of the batch, repeated or left out as given."""
        return self._map(lambda tensor: tensor.index_select(0, rows.to(tensor.device)))

    def to(self, device: torch.device | str) -> Cache:
        return self._map(lambda tensor: tensor.to(device))

    def save(self, path: str | Path, **notes: Any) -> None:
        """A safetensors file; notes (JSON values) come back from ``read_notes``. Written whole or not at all.

        It also says which weights made the state, where the cache knows its model (``make_cache``)."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.partial")
        metadata = {"format": "anymamba recurrent state", "tokens": str(self.tokens), "notes": json.dumps(notes)}
        if self._model is not None:
            metadata["weights"] = json.dumps(identity.of(self._model))
        save_file({name: tensor.contiguous() for name, tensor in self._tensors()}, temporary, metadata)
        temporary.replace(path)

    def load(self, path: str | Path) -> dict[str, Any]:
        """Takes over a saved state, in place, and returns its notes. A state saved for one row may be spread over many.

        Raises AnymambaError when the file is not a state, or is that of another model; nothing is then taken over. A file of an earlier
        version does not name its weights: that is said once, and only the shapes are compared.
        """
        saved, metadata = _read(Path(path))
        layers = [{name: saved.get(f"layers.{index}.{name}") for name in layer.tensors()} for index, layer in enumerate(self.layers)]
        parts = [{name: tensor for name, tensor in layer.items() if tensor is not None} for layer in layers]
        for index, (layer, part) in enumerate(zip(self.layers, parts)):
            reason = layer.misfit(part)
            if reason:
                raise AnymambaError(
                    "state",
                    _("{path} is the state of another model").format(path=path),
                    why=_("layer {index}: ").format(index=index) + reason,
                    fix=_("load it with the model that saved it"),
                )
        others = saved.keys() - {name for name, _ in self._tensors()}
        if others:
            count = len({name.rpartition(".")[0] for name in saved})
            raise AnymambaError(
                "state",
                _("{path} has the state of {count} layers, this model {model_layers}").format(
                    path=path, count=count, model_layers=len(self.layers)
                ),
                why=_("it has, and this model has not: ") + ", ".join(sorted(others)[:3]),
            )
        self._check_weights(path, metadata.get("weights"))
        self.tokens = int(metadata.get("tokens", 0))
        for layer, part in zip(self.layers, parts):
            layer.load(part)
            layer.used = self.tokens > 0
        return json.loads(metadata.get("notes", "{}"))

    def _check_weights(self, path: str | Path, description: str | None) -> None:
        if self._model is None:
            return
        if description is None:
            warn_once(
                f"state without weights {path}",
                _(
                    "{path} does not say which weights made it (an earlier version saved it): only its shapes were "
                    "compared. Save it again with the model that made it"
                ).format(path=path),
            )
            return
        ok, reason = identity.check(self._model, json.loads(description))
        if not ok:
            raise AnymambaError(
                "state",
                _("{path} is the state of another model").format(path=path),
                why=reason,
                fix=_("load it with the model that saved it"),
            )

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        for index, layer in enumerate(self.layers):
            for name, tensor in layer.tensors().items():
                yield f"layers.{index}.{name}", tensor

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}  # nor is it written with it

    def _map(self, function: Any) -> Cache:
        other = Cache.__new__(Cache)
        other.tokens, other._model = self.tokens, self._model
        other.layers = [layer.map(function) for layer in self.layers]
        return other


def read_notes(path: str | Path) -> dict[str, Any]:
    """The notes of a saved state, without loading it."""
    return json.loads(_read(Path(path))[1].get("notes", "{}"))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        raise AnymambaError(
            "state",
            _("there is no file {path}").format(path=path),
            why=_("the folder has: ") + files.listing(path.parent),
        )
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:
        raise AnymambaError(
            "state",
            _("{path} is no safetensors file, or was cut short").format(path=path),
            why=str(error),
        ) from error
    if metadata.get("format") != "anymamba recurrent state":
        raise AnymambaError("state", _("{path} holds no recurrent state").format(path=path))
    return tensors, metadata
