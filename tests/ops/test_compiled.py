"""torch.compile and torch.export see an op as one node that computes what the op computes in eager mode."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from anymamba import ops
from anymamba.backends import probes
from anymamba.backends.opspec import SPECS, Arguments

SINGLE = [op for op, spec in SPECS.items() if not spec.composed_of]


def inputs_of(op: str) -> Arguments:
    generator = torch.Generator().manual_seed(0)
    return SPECS[op].build()(lambda *shape: torch.randn(*shape, generator=generator))


@pytest.mark.parametrize("op", SPECS)
def test_compiled_equals_eager(op: str) -> None:
    torch._dynamo.reset()
    spec, inputs = SPECS[op], inputs_of(op)
    function = functools.partial(getattr(ops, op), backend="torch")
    compiled = torch.compile(lambda **given: function(**given), backend="aot_eager", fullgraph=True)
    want = probes.outcome(function, inputs, spec, bool(spec.differentiable))
    got = probes.outcome(compiled, inputs, spec, bool(spec.differentiable))
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("op", SINGLE)
def test_the_graph_has_one_node(op: str) -> None:
    inputs = inputs_of(op)
    options = {name: value for name, value in inputs.items() if not isinstance(value, Tensor)}
    tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

    class Module(torch.nn.Module):
        def forward(self, given: dict[str, Tensor]) -> Any:
            return getattr(ops, op)(**given, **options)

    graph = torch.export.export(Module(), (tensors,), strict=True).graph
    nodes = [str(node.target) for node in graph.nodes if node.op == "call_function" and "getitem" not in str(node.target)]
    assert [name for name in nodes if name.startswith("anymamba.")] == [f"anymamba.{op}.default"]


@pytest.mark.parametrize("op", SINGLE)
def test_the_registration_is_sound(op: str) -> None:
    """Schema, shapes and strides that the graph is promised, autograd: torch's own checks of a custom operator."""
    given = inputs_of(op)
    node = getattr(torch.ops.anymamba, op)
    for name in SPECS[op].gradients(given):
        given[name] = given[name].detach().requires_grad_()
    arguments = [given.get(argument.name, argument.default_value) for argument in node.default._schema.arguments]
    defaults = _defaults(op)
    arguments = [defaults.get(a.name) if value is None else value for a, value in zip(node.default._schema.arguments, arguments)]
    torch.library.opcheck(node.default, tuple(arguments), test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))


def _defaults(op: str) -> dict[str, Any]:
    import inspect

    parameters = inspect.signature(getattr(ops, op)).parameters.values()
    return {p.name: list(p.default) if isinstance(p.default, tuple) else p.default for p in parameters if p.default is not p.empty}


def test_a_wrong_shape_is_refused_while_the_graph_is_captured() -> None:
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: ops.rms_norm_fn(x, torch.ones(3), None), backend="aot_eager")
    with pytest.raises(Exception, match="weight has shape"):
        compiled(torch.randn(2, 4))


def test_dropout_runs_between_two_graphs() -> None:
    torch._dynamo.reset()

    def function(x: Tensor) -> Tensor:
        return ops.rms_norm_fn(x * 2, torch.ones(100), None, dropout_p=0.5) * 2

    out = torch.compile(function, backend="aot_eager")(torch.randn(50, 100))
    assert 0.4 < (out == 0).float().mean() < 0.6


def test_final_states_out_is_filled() -> None:
    torch._dynamo.reset()
    x, buffer = torch.randn(2, 5, 9), torch.zeros(2, 5, 3)
    compiled = torch.compile(
        lambda x, buffer: ops.causal_conv1d_fn(x, torch.ones(5, 4), return_final_states=True, final_states_out=buffer),
        backend="aot_eager", fullgraph=True,
    )  # fmt: skip
    compiled(x, buffer)
    torch.testing.assert_close(buffer, x[:, :, -3:])
