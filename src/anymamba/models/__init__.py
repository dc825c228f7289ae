"""Mamba language models as plain modules over ``anymamba.ops``: one file per ``model_type`` of config.json.

mamba.py mamba2.py mamba3.py falcon_mamba.py   configuration, mixer, initialisation
lm.py                                the trunk and head that they share
cache.py                             the recurrent state between calls
loss.py                              cross-entropy without the logits of the whole sequence
hub.py                               load and save, every checkpoint form
sizes.py                             tiny ... 2.8b -> configuration
tokenizer.py                         text to ids and back
"""

from __future__ import annotations

MODEL_TYPES: dict[str, str] = {
    "mamba": "anymamba.models.mamba",
    "mamba2": "anymamba.models.mamba2",
    "mamba3": "anymamba.models.mamba3",
    "falcon_mamba": "anymamba.models.falcon_mamba",
}
"""model_type -> module with ``Config`` and ``Mixer``. To add a family: its file and a line here."""
