"""Token ids on disk, memory-mapped: the corpus may be larger than memory, and a resumed run reads exactly what it read before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anymamba.errors import AnymambaError
from anymamba.language import _
from anymamba.models.hub import files
from anymamba.training.machine import disk


@dataclass(frozen=True)
class TokenFile:
    """tokens: (number of tokens,) unsigned integers. starts: (documents,) int64, where each document begins.

    learn: (number of tokens,) bool, the tokens whose prediction is trained; None: all. text_bytes: UTF-8 bytes of the text that
    the tokens stand for, which makes bits per byte comparable between tokenizers.
    """

    tokens: np.ndarray[Any, Any]
    starts: np.ndarray[Any, Any]
    text_bytes: int
    learn: np.ndarray[Any, Any] | None = None

    @property
    def bytes_per_token(self) -> float:
        return self.text_bytes / max(1, len(self.tokens))


def id_type(vocab_size: int) -> np.dtype[Any]:
    """The narrowest unsigned integer for these ids."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


class TokenWriter:
    """Appends documents to ``<name>.bin`` (and ``<name>.learn``); ``close`` writes ``<name>.starts.npy`` and ``<name>.json``."""

    def __init__(self, folder: Path, name: str, vocab_size: int, masked: bool = False) -> None:
        self.folder, self.name, self.kind = folder, name, id_type(vocab_size)
        self.starts: list[int] = []
        self.document_bytes: list[int] = []
        self.tokens = 0
        self._ids = open(folder / f"{name}.bin", "wb")  # noqa: SIM115 - closed by close()
        self._learn = open(folder / f"{name}.learn", "wb") if masked else None  # noqa: SIM115

    def begin_document(self) -> None:
        """What follows belongs to a new document."""
        self.starts.append(self.tokens)
        self.document_bytes.append(0)

    def write(self, ids: Sequence[int] | np.ndarray[Any, Any], text_bytes: int, learn: Sequence[bool] | None = None) -> None:
        """Appends to the current document."""
        array = np.asarray(ids, dtype=self.kind)
        with disk.full_disk_is_named(self.folder):
            array.tofile(self._ids)
            if self._learn is not None:
                np.asarray(learn, dtype=np.bool_).tofile(self._learn)
        self.tokens += len(array)
        self.document_bytes[-1] += text_bytes

    def close(self) -> None:
        with disk.full_disk_is_named(self.folder):
            self._ids.close()
            if self._learn is not None:
                self._learn.close()
            np.save(self.folder / f"{self.name}.starts.npy", np.asarray(self.starts, dtype=np.int64))
            files.write_json(
                self.folder / f"{self.name}.json",
                {"tokens": self.tokens, "text_bytes": sum(self.document_bytes), "dtype": self.kind.name, "documents": len(self.starts)},
            )


def open_tokens(folder: Path, name: str) -> TokenFile:
    """What ``TokenWriter`` wrote. Raises AnymambaError when it is not whole."""
    about = files.read_json(folder / f"{name}.json")
    path = folder / f"{name}.bin"
    if about is None or not path.is_file() or path.stat().st_size != about["tokens"] * np.dtype(about["dtype"]).itemsize:
        raise AnymambaError(
            "data",
            _("the token file {path} is damaged or missing").format(path=path),
            fix=_("start the run again in another folder (--out)"),
        )
    learn = folder / f"{name}.learn"
    return TokenFile(
        _map(path, about["dtype"], about["tokens"]),
        np.load(folder / f"{name}.starts.npy"),
        about["text_bytes"],
        _map(learn, "bool", about["tokens"]) if learn.exists() else None,
    )


def _map(path: Path, kind: str, size: int) -> np.ndarray[Any, Any]:
    # an empty file cannot be mapped
    return np.memmap(path, dtype=kind, mode="r", shape=(size,)) if size else np.empty(0, dtype=kind)
