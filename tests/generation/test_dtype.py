"""dtype="auto" never rounds what was saved, and says what it knows of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import anymamba
from anymamba.backends import matrix_units
from anymamba.generation.dtype import fastest
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig

CPU = torch.device("cpu")


def test_by_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest(torch.float32, CPU)[0] == torch.float32
    monkeypatch.setattr(matrix_units, "cpu_unit", lambda dtype: "")
    chosen, why = fastest(torch.bfloat16, CPU)
    assert chosen == torch.bfloat16 and "neither" in why and "float32" in why
    monkeypatch.setattr(matrix_units, "cpu_unit", lambda dtype: "AMX")
    chosen, why = fastest(torch.bfloat16, CPU)
    assert chosen == torch.bfloat16 and "AMX" in why and "float32" not in why
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    chosen, why = fastest(torch.bfloat16, torch.device("cuda"))
    assert chosen == torch.float32 and "7.5" in why
    assert fastest(torch.float16, torch.device("cuda"))[0] == torch.float16


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_load_keeps_what_was_saved(dtype: torch.dtype, tmp_path: Path) -> None:
    from anymamba.models import hub

    model = LanguageModel(MambaConfig(vocab_size=16, hidden_size=16, num_hidden_layers=1)).to(dtype)
    hub.save(model, tmp_path)
    assert anymamba.load(tmp_path, device="cpu", dtype="auto").dtype == dtype
