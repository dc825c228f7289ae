"""Gradients in unusual ways: torch.func, a second backward pass, second derivatives, tensors that are shapes alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.models import attached
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, grad, vmap

import anymamba
from anymamba.errors import BackendError
from anymamba.models.lm import LanguageModel

IDS = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(0))
FAMILIES = ["mamba", "mamba2", "mamba3"]

pytestmark = pytest.mark.filterwarnings("ignore::anymamba.errors.AnymambaWarning")


def gradients(model: LanguageModel, ids: Tensor = IDS) -> dict[str, Tensor]:
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_equal(got: dict[str, Tensor], wanted: dict[str, Tensor], most: float = 1e-5) -> None:
    whole = max(tensor.norm() for tensor in wanted.values())
    for name, tensor in wanted.items():
        assert (got[name] - tensor).norm() <= most * (tensor.norm() + 1e-2 * whole), name


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_each_row_by_vmap(family: str) -> None:
    model = attached.build(family, "plain", training=True)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        result = functional_call(model, parameters, (row[None],), {"labels": row[None]}).loss
        assert isinstance(result, Tensor)
        return result

    by_row = vmap(grad(loss), in_dims=(None, 0))(parameters, IDS)
    for row in range(2):
        assert_equal({name: tensor[row] for name, tensor in by_row.items()}, gradients(model, IDS[row : row + 1]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_backward_pass_and_a_part_of_the_gradients_first(family: str) -> None:
    model = attached.build(family, "plain", training=True)
    once = gradients(model)
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    (part,) = torch.autograd.grad(loss, [model.backbone.norm_f.weight], retain_graph=True)
    loss.backward(retain_graph=True)
    loss.backward()
    assert_equal({"norm": part}, {"norm": once["backbone.norm_f.weight"]})
    assert_equal({name: parameter.grad for name, parameter in model.named_parameters()}, {name: 2 * g for name, g in once.items()})
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("family", FAMILIES)
def test_second_derivatives_of_the_loss(family: str) -> None:
    """By the torch backend, against the logits' loss by the reference; with kernels, an error that says so."""
    found = []
    for backend in ("torch", "reference"):
        model = attached.build(family, "plain", training=True)
        with anymamba.use_backend(backend):
            if backend == "torch":
                loss = model(IDS, labels=IDS).loss
            else:
                loss = F.cross_entropy(model(IDS).logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
            slopes = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        sum(slope.square().sum() for slope in slopes).backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert_equal(*found, most=1e-4)
    slopes = torch.autograd.grad(model(IDS, labels=IDS).loss, list(model.parameters()), create_graph=True)
    with pytest.raises(BackendError, match='use_backend\\("torch"\\)'):
        sum(slope.square().sum() for slope in slopes).backward()


@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_without_values(family: str) -> None:
    """On the meta device and with fake tensors, as estimates of memory and of operations run a model."""
    with torch.device("meta"):
        model, ids = LanguageModel(attached.FAMILIES[family]), torch.zeros_like(IDS, device="meta")
    model(ids, labels=ids).loss.backward()
    assert model(ids).logits.shape == (2, 9, 61)
    with FakeTensorMode():
        model, ids = LanguageModel(attached.FAMILIES[family]), torch.zeros(2, 9, dtype=torch.long)
        model(ids, labels=ids).loss.backward()
        assert model(ids, attention_mask=torch.ones_like(ids)).logits.shape == (2, 9, 61)
