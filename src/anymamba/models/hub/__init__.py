"""Checkpoints: Hugging Face folders and the original forms in, Hugging Face folders out.

loading.py saving.py   whole models            weights.py      the files of tensors
names.py stacks.py     keys of tensors         original.py     the forms from before transformers had Mamba
files.py               folders, JSON, downloads
adapter_files.py       LoRA in PEFT's format, adapter_options.py which options of it
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from anymamba.lazy import lazy_names

if TYPE_CHECKING:
    from anymamba.models.hub.loading import check_vocabulary as check_vocabulary
    from anymamba.models.hub.loading import family_named as family_named
    from anymamba.models.hub.loading import find as find
    from anymamba.models.hub.loading import load as load
    from anymamba.models.hub.loading import load_as as load_as
    from anymamba.models.hub.loading import load_config as load_config
    from anymamba.models.hub.saving import save as save
    from anymamba.models.hub.saving import saved_tensors as saved_tensors
    from anymamba.models.hub.saving import write as write

_LOADING = ("check_vocabulary", "family_named", "find", "load", "load_as", "load_config")
_SAVING = ("save", "saved_tensors", "write")
_WHERE = dict.fromkeys(_LOADING, "anymamba.models.hub.loading") | dict.fromkeys(_SAVING, "anymamba.models.hub.saving")

_lazy, __dir__ = lazy_names(__name__, _WHERE)
if not TYPE_CHECKING:
    __getattr__ = _lazy
