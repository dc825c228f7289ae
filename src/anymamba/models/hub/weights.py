"""The tensors of a checkpoint folder, read one at a time from whichever files hold them, and written as safetensors."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.hub import files

SINGLE = "model.safetensors", "consolidated.safetensors", "pytorch_model.bin"
INDEXED = "model.safetensors.index.json", "pytorch_model.bin.index.json"
PATTERNS = "model*.safetensors*", "consolidated*.safetensors", "pytorch_model*.bin*"
"""Every name under which weights lie in a folder."""


def read(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor on the CPU) of every tensor, one file in memory at a time.

    Raises AnymambaError when there are no weights, a shard is missing, or a file is cut short or something else.
    """
    for file in weight_files(folder):
        yield from _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)


def weight_files(folder: Path) -> list[Path]:
    for name in SINGLE[:2]:
        if (folder / name).is_file():
            return [folder / name]
    for name in INDEXED:
        if (folder / name).is_file():
            return _shards(folder, name)
    if (folder / SINGLE[2]).is_file():
        return [folder / SINGLE[2]]
    raise AnymambaError(
        "checkpoint",
        _("no weights in {folder}").format(folder=folder),
        why=_("it has: ") + files.listing(folder),
        fix=_("expected one of: ") + ", ".join(SINGLE + INDEXED),
    )


def write(tensors: Mapping[str, Tensor], folder: Path, largest: int) -> None:
    """model.safetensors, or shards of at most ``largest`` bytes with an index when all together are larger."""
    shards: list[dict[str, Tensor]] = [{}]
    room = largest
    total = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        total += size
        if size > room and shards[-1]:
            shards.append({})
            room = largest
        shards[-1][name] = tensor
        room -= size
    if len(shards) == 1:
        save_file(shards[0], folder / "model.safetensors", {"format": "pt"})
        return
    index: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        index.update(dict.fromkeys(shard, name))
    files.write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))},
    )


def _shards(folder: Path, index: str) -> list[Path]:
    names = sorted(set(files.read_json(folder / index).get("weight_map", {}).values()))
    missing = [name for name in names if not (folder / name).is_file()]
    if missing or not names:
        raise AnymambaError(
            "checkpoint",
            _("{index} names files that are missing").format(index=folder / index),
            why=_("missing: ") + ", ".join(missing or [_("all")]),
            fix=_("copy or download the whole folder"),
        )
    return [folder / name for name in names]


def _read_safetensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        with safetensors.safe_open(file, "pt") as content:
            for name in content.keys():  # noqa: SIM118 - not a dict
                yield name, content.get_tensor(name)
    except safetensors.SafetensorError as error:
        raise _broken(file, error) from error


def _read_pickle(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise AnymambaError(
            "checkpoint",
            _("{file} holds more than tensors, and is not opened").format(file=file),
            why=_("opening such a file can run any program that its author put in")
            + f" ({str(error).splitlines()[0]})",
            fix=_("use the model's safetensors files"),
        ) from error
    except Exception as error:
        raise _broken(file, error) from error
    if not isinstance(content, Mapping) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise AnymambaError("checkpoint", _("{file} is no table of tensors").format(file=file))
    yield from content.items()


def _broken(file: Path, error: Exception) -> AnymambaError:
    return AnymambaError(
        "checkpoint",
        _("{file} ({size} bytes) is cut short or not a weights file").format(file=file, size=file.stat().st_size),
        why=str(error).splitlines()[0] if str(error) else type(error).__name__,
        fix=_("copy or download it again"),
    )
