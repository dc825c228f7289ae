"""A Mamba-3 checkpoint that does not say its activation of A: both are tried, the right one wins, and what is said is true."""

from __future__ import annotations

import json
import math
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from torch import Tensor

from anymamba.errors import AnymambaError, AnymambaWarning, ArgumentError, _said
from anymamba.generation.model import load
from anymamba.models import hub
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.mamba3 import Mamba3Config
from anymamba.models.mamba3_activation import LLAMA3_PASSAGES, LLAMA3_TOKENS
from anymamba.models.tokenizer import byte_tokenizer
from anymamba.reference.mamba3_decay import decay_rate

SMALL = {"head_dim": 16, "chunk_size": 16, "intermediate_size": 64, "bos_token_id": 256, "eos_token_id": 256}


def small(activation: str = "heavy_tail", vocabulary: int = 272) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(Mamba3Config(vocabulary, 64, 16, 2, a_activation=activation, **SMALL))  # type: ignore[arg-type]


def train(model: LanguageModel, text: str, steps: int = 60) -> None:
    data = torch.tensor(byte_tokenizer().encode(text))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.95))
    random = torch.Generator().manual_seed(1)
    for _ in range(steps):
        rows = torch.stack([data[i : i + 96] for i in torch.randint(len(data) - 96, (8,), generator=random)])
        loss = model(rows, labels=rows).loss
        assert loss is not None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def save_without_saying(model: LanguageModel, folder: Path, tokenizer: bool = True) -> Path:
    """As anymamba wrote its folders before the field was there."""
    hub.save(model, folder, byte_tokenizer() if tokenizer else None)
    values = json.loads((folder / "config.json").read_text("utf-8"))
    del values["a_activation"]
    (folder / "config.json").write_text(json.dumps(values), "utf-8")
    return folder


@pytest.fixture(autouse=True)
def unsaid() -> None:
    """What was said once in an earlier test may be said again."""
    _said.clear()


@pytest.mark.parametrize("activation", ["softplus", "heavy_tail"])
def test_the_activation_it_was_trained_with_is_found(activation: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = small(activation)
    train(model, "\n".join(topics.values())[:200_000])
    ids = torch.tensor([byte_tokenizer().encode("The value of the expression")])
    with torch.no_grad():
        want = model.eval()(ids).logits
    folder = save_without_saying(model, tmp_path)
    loaded = hub.load(folder)
    assert loaded.config.a_activation == activation  # type: ignore[attr-defined]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and f"activation of A: {activation}" in lines[0] and "--a-activation" in lines[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, want)
    hub.save(loaded, tmp_path / "again", byte_tokenizer())
    assert json.loads((tmp_path / "again" / "config.json").read_text("utf-8"))["a_activation"] == activation
    assert hub.load(tmp_path / "again").config.a_activation == activation  # type: ignore[attr-defined]
    other = "softplus" if activation == "heavy_tail" else "heavy_tail"
    assert load(folder, "cpu", a_activation=other).config.a_activation == other  # type: ignore[attr-defined]
    assert capfd.readouterr().err == ""  # nothing is tried where somebody said it


def test_neither_plausible_loads_with_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    folder = save_without_saying(model, tmp_path)
    with pytest.warns(AnymambaWarning, match=rf"uniform guess \({math.log(272):.2f}") as caught:
        loaded = hub.load(folder)
    assert len(caught) == 1 and loaded.config.a_activation in ("softplus", "heavy_tail")  # type: ignore[attr-defined]


def test_without_a_tokenizer_nothing_can_be_tried(tmp_path: Path) -> None:
    folder = save_without_saying(small(vocabulary=500), tmp_path, tokenizer=False)
    with pytest.warns(AnymambaWarning, match="softplus is presumed"):
        assert hub.load(folder).config.a_activation == "softplus"  # type: ignore[attr-defined]


def test_the_original_form_in_the_tokens_of_llama3(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its folder has no tokenizer; the passages stand in the code. Trained to know them, so that the choice is no chance."""
    vocabulary = max(max(ids) for ids in LLAMA3_PASSAGES) + 1
    assert vocabulary <= LLAMA3_TOKENS[0]
    torch.manual_seed(0)
    config = Mamba3Config(LLAMA3_TOKENS[0], 16, 8, 1, head_dim=16, chunk_size=16, a_activation="heavy_tail")
    model = LanguageModel(config)
    row = torch.tensor([LLAMA3_PASSAGES[0]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(6):
        loss = model(row, labels=row).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    ssm = {"layer": "Mamba3", "d_state": 8, "headdim": 16, "chunk_size": 16}
    values = {"d_model": 16, "n_layer": 1, "vocab_size": LLAMA3_TOKENS[0], "ssm_cfg": ssm, "rms_norm": True, "tie_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
    state = {name.replace("embeddings", "embedding"): tensor for name, tensor in model.state_dict().items()}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert hub.load(tmp_path).config.a_activation == "heavy_tail"  # type: ignore[attr-defined]
    assert "activation of A: heavy_tail" in capfd.readouterr().err
    values["ssm_cfg"] = {**ssm, "a_activation": "softplus"}
    (tmp_path / "config.json").write_text(json.dumps(values), "utf-8")
    assert hub.load(tmp_path).config.a_activation == "softplus"  # type: ignore[attr-defined]


def test_only_mamba3_has_a_choice(tmp_path: Path) -> None:
    hub.save(LanguageModel(MambaConfig(262, 16, 4, 1)), tmp_path)
    with pytest.raises(ArgumentError, match="this model is mamba,"):
        hub.load(tmp_path, a_activation="softplus")


@pytest.mark.parametrize(
    "options, named",
    [({"state_size": 7}, "state_size"), ({"mimo_rank": 0}, "mimo_rank"), ({"a_activation": "relu"}, "softplus, heavy_tail")],
)
def test_bad_configurations_are_named(options: dict, named: str) -> None:
    with pytest.raises(AnymambaError, match=named):
        Mamba3Config(64, 32, **{"head_dim": 16, "state_size": 8, **options})


@pytest.mark.parametrize("activation", ["softplus", "heavy_tail"])
def test_decay_rate_against_its_formula(activation: str) -> None:
    x = torch.tensor([-1e4, -3.0, -1.0, -0.0, 0.0, 0.5, 1.0, 40.0], dtype=torch.float64, requires_grad=True)

    def formula(value: float) -> float:
        if activation == "softplus":
            return max(value, 0) + math.log1p(math.exp(-abs(value)))
        return 1 + value if value >= 0 else 1 / (1 - value)

    want = torch.tensor([-max(formula(value), 1e-3) for value in x.tolist()], dtype=torch.float64)
    rate = decay_rate(x, activation, 1e-3)
    torch.testing.assert_close(rate.detach(), want, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(rate.sum(), x)
    step = 1e-6

    def sides(offset: float) -> Tensor:
        return decay_rate(x.detach() + offset, activation, 1e-3)

    torch.testing.assert_close(gradient, (sides(step) - sides(-step)) / (2 * step), rtol=1e-5, atol=1e-6)
