"""A whole model as one graph: torch.compile without a break, and torch.export."""

from __future__ import annotations

import pytest
import torch
from tests.models import attached
from tests.models.test_attached import IDS, gradients, mask_of, relative

from anymamba import errors

DOCUMENTS = torch.tensor([[0] * 5 + [1] * 7, [0] * 12])
CALLS = {
    "logits": {},
    "loss": {"labels": IDS},
    "mask": {"labels": IDS, "attention_mask": mask_of("left")},
    "documents": {"labels": IDS, "seq_idx": DOCUMENTS},
}
QUICK = [("mamba2", "loss")]
ALL = [(family, call) for family in attached.FAMILIES for call in CALLS]
CASES = [pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow]) for case in ALL]


@pytest.mark.parametrize(("family", "call"), CASES)
def test_one_graph(family: str, call: str) -> None:
    model = attached.build(family, "plain", training=True)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found = []
    for function in (compiled, model):
        output = function(IDS, **CALLS[call])
        result = output.logits if call == "logits" else output.loss
        model.zero_grad()
        result.sum().backward()
        found.append((result.detach(), gradients(model)))
    (got, got_gradients), (wanted, wanted_gradients) = found
    assert relative(got, wanted) <= 1e-5
    assert got_gradients.keys() == wanted_gradients.keys()
    for name, gradient in wanted_gradients.items():
        assert relative(got_gradients[name], gradient) <= 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("family", attached.FAMILIES)
def test_lengths_as_symbols(family: str) -> None:
    model = attached.build(family, "plain")
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for length in (12, 7, 5):
        assert relative(compiled(IDS[:, :length], labels=IDS[:, :length]).loss, model(IDS[:, :length], labels=IDS[:, :length]).loss) <= 1e-5


@pytest.mark.parametrize("family", [pytest.param(f, marks=[] if f == "mamba2" else [pytest.mark.slow]) for f in attached.FAMILIES])
def test_export(family: str) -> None:
    model = attached.build(family, "plain")
    for name in ("logits", "loss"):
        exported = torch.export.export(model, (IDS,), CALLS[name]).module()(IDS, **CALLS[name])
        assert relative(getattr(exported, name), getattr(model(IDS, **CALLS[name]), name)) <= 1e-5


def test_what_cannot_be_in_a_graph_is_still_refused_outside() -> None:
    model = attached.build("mamba", "plain")
    with pytest.raises(ValueError, match="61"):
        model(torch.tensor([[1, 61]]))


def test_a_head_that_has_to_run_speaks_in_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said once in eager mode, and was not said yet, would break the graph."""
    monkeypatch.setattr(errors, "_said", set())
    model = attached.build("mamba2", "hook: lm_head", training=True)
    torch._dynamo.reset()
    ids = torch.randint(0, 61, (2, 9))
    loss = torch.compile(model, backend="aot_eager", fullgraph=True)(ids, labels=ids).loss
    torch.testing.assert_close(loss, model(ids, labels=ids).loss, rtol=1e-4, atol=1e-5)
