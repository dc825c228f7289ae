"""The lm-eval model class against plain computations; runs where lm-eval is installed (the extra ``eval``)."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from anymamba.errors import AnymambaError
from anymamba.evaluation.perplexity import score_text
from anymamba.models.lm import LanguageModel
from anymamba.models.mamba import MambaConfig
from anymamba.models.tokenizer import byte_tokenizer

if TYPE_CHECKING:
    from anymamba.evaluation.harness import AnymambaLM

BYTES = byte_tokenizer()
PAIRS = [("hello", " world"), ("a longer context than that", " yes"), ("", " no"), ("x", "y")]


@pytest.fixture(scope="module")
def lm() -> AnymambaLM:
    pytest.importorskip("lm_eval")
    from anymamba.evaluation.harness import AnymambaLM

    torch.manual_seed(0)
    return AnymambaLM(LanguageModel(MambaConfig(264, 32, 8, 2)), BYTES, batch_size=3)


def request(kind: str, *arguments: Any) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)


@torch.no_grad()
def test_loglikelihood(lm: AnymambaLM) -> None:
    answers = lm.loglikelihood([request("loglikelihood", *pair) for pair in PAIRS])
    for (context, continuation), (value, greedy) in zip(PAIRS, answers):
        wanted = torch.tensor(BYTES.encode(continuation))
        ids = (BYTES.encode(context) or [256]) + BYTES.encode(continuation)
        rows = torch.log_softmax(lm.model(torch.tensor([ids[:-1]])).logits[0], -1)[-len(wanted) :]
        assert value == pytest.approx(rows.gather(1, wanted[:, None]).sum().item(), abs=1e-3)
        assert greedy == bool((rows.argmax(-1) == wanted).all())


def test_rolling_is_the_score_of_the_text(lm: AnymambaLM) -> None:
    (value,) = lm.loglikelihood_rolling([request("loglikelihood_rolling", "some text")])
    assert value == pytest.approx(-score_text(lm.model, BYTES, "some text").nats)


@torch.no_grad()
def test_generation_stops(lm: AnymambaLM) -> None:
    ids = BYTES.encode("some")
    made = []
    for _ in range(5):
        made.append(int(lm.model(torch.tensor([ids + made])).logits[0, -1].argmax()))
    whole = BYTES.decode(made)
    answer = lm.generate_until([request("generate_until", "some", {"until": [], "max_gen_toks": 5})])
    assert answer == [whole]
    stop = whole[1]
    answer = lm.generate_until([request("generate_until", "some", {"until": [stop], "max_gen_toks": 5})])
    assert answer == [whole.split(stop)[0]]
    with pytest.raises(AnymambaError):
        lm.generate_until([request("generate_until", "some", {"do_sample": True, "temperature": 1.0})])


def test_without_lm_eval_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "anymamba.evaluation.harness", raising=False)
    with pytest.raises(AnymambaError, match=r"anymamba\[eval\]"):
        import anymamba.evaluation.harness  # noqa: F401
