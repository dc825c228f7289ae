"""llama.cpp on a GGUF file, through the C interface of llama-cpp-python."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest
import torch

lib: Any = pytest.importorskip("llama_cpp")
_silent = lib.llama_log_callback(lambda level, text, data: None)


class LlamaCpp:
    def __init__(self, path: Path) -> None:
        lib.llama_log_set(_silent, ctypes.c_void_p(0))
        lib.llama_backend_init()
        self._model: Any = lib.llama_model_load_from_file(str(path).encode(), lib.llama_model_default_params())
        assert self._model, "llama.cpp does not load the file"
        options = lib.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = 512
        options.n_threads = options.n_threads_batch = 1
        self._context: Any = lib.llama_init_from_model(self._model, options)
        self._vocabulary: Any = lib.llama_model_get_vocab(self._model)

    def read(self, ids: list[int]) -> torch.Tensor:
        """Logits after these tokens, which follow those before."""
        array = (lib.llama_token * len(ids))(*ids)
        assert not lib.llama_decode(self._context, lib.llama_batch_get_one(array, len(ids)))
        return torch.tensor(lib.llama_get_logits_ith(self._context, -1)[: lib.llama_vocab_n_tokens(self._vocabulary)])

    def encode(self, text: str, special: bool) -> list[int]:
        raw = text.encode()
        array = (lib.llama_token * (len(raw) + 8))()
        count = lib.llama_tokenize(self._vocabulary, raw, len(raw), array, len(array), False, special)
        return list(array[:count])

    def greedy(self, ids: list[int], count: int) -> list[int]:
        chosen: list[int] = []
        logits = self.read(ids)
        for _ in range(count):
            chosen.append(int(logits.argmax()))
            logits = self.read(chosen[-1:])
        return chosen
