"""Mamba language models as plain modules over ``anymamba.ops``: one file per ``model_type`` of config.json.

mamba.py mamba2.py mamba3.py falcon_mamba.py   the families: configuration, mixer, initialisation, FAMILY
family.py  families.py               what a family is; which there are
lm.py                                the trunk and head that they share
cache.py                             the recurrent state between calls
trunk/                               the parts that they are made of
hub/                                 load and save, every checkpoint form
sizes.py                             tiny ... 2.8b -> configuration
tokenizer.py                         text to ids and back
"""

from __future__ import annotations

FAMILIES: dict[str, str] = {
    "mamba": "anymamba.models.mamba",
    "mamba2": "anymamba.models.mamba2",
    "mamba3": "anymamba.models.mamba3",
    "falcon_mamba": "anymamba.models.falcon_mamba",
    "granitemoehybrid": "anymamba.models.granitemoehybrid",
    "bamba": "anymamba.models.bamba",
    "falcon_h1": "anymamba.models.falcon_h1",
    "nemotron_h": "anymamba.models.nemotron_h",
    "zamba2": "anymamba.models.zamba2",
    "jamba": "anymamba.models.jamba",
}
"""model_type -> its file, which ends in ``FAMILY``. To add a family: its file and a line here."""
