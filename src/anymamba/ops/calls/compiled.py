"""The ops as single nodes for torch.compile and torch.export: ``torch.ops.anymamba.NAME``.

A node holds the arguments and the name of the backend, if one was named; which backend serves is decided when the node runs, as in
eager mode. Its backward node runs the op once more to get at the gradients, so that a graph never depends on what a backend saves.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from anymamba.errors import AnymambaError, ArgumentError
from anymamba.language import _

_SCHEMA_TYPES = {
    "Tensor": "Tensor",
    "Tensor | None": "Tensor?",
    "bool": "bool",
    "int": "int",
    "int | None": "int?",
    "float": "float",
    "str | None": "str?",
    "tuple[float, float]": "float[]",
    "torch.dtype | None": "ScalarType?",
}

Shapes = Callable[..., list[Tensor]]
_functions: dict[str, Callable[..., Any]] = {}


def as_node(
    shapes: Shapes, changes: str | None = None, op: str | None = None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers an op. shapes(**arguments): its outputs as empty tensors. changes: the argument that it updates in place;
    such an op has one output. op: its name, None: that of the function."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        name = op or function.__name__
        parameters = inspect.signature(function).parameters.values()
        declared = [_SCHEMA_TYPES[str(parameter.annotation)] + " " + parameter.name for parameter in parameters]
        if changes:
            declared = [part.replace("Tensor ", "Tensor(a!) ") if part.split()[1] == changes else part for part in declared]
        names = [parameter.name for parameter in parameters]
        signature = inspect.signature(function)
        flags = {parameter.name for parameter in parameters if parameter.annotation == "bool"}
        _functions[name] = function

        @functools.wraps(function)
        def entry(*arguments: Any, **keywords: Any) -> Any:
            shapes_alone = arguments and type(arguments[0]).__name__ == "FakeTensor"
            if not traced() and not shapes_alone:
                try:
                    return function(*arguments, **keywords)
                except RuntimeError as error:
                    explained = _in_place_under_vmap(name, changes, error)
                    if explained is None:
                        raise
                    raise explained from error
            # a kernel's result would be a constant of the trace: the graph gets the node, which checks its arguments when it runs
            bound = signature.bind(*arguments, **keywords)
            bound.apply_defaults()
            values: dict[str, Any] = {name: bool(value) if name in flags else value for name, value in bound.arguments.items()}
            if values.get("dropout_p") or values.get("return_dropout_mask"):
                return function(**{**values, "backend": "torch"})  # not a node: its backward pass would draw another mask
            backend = values.pop("backend")
            outside_given = values.pop("final_states_out", None)
            result = run(name, [values.get(name) for name in names if name != "backend"], backend)
            return result if outside_given is None else (result[0], outside_given.copy_(result[1]))

        entry.op = name  # type: ignore[attr-defined]

        def promised(*arguments: Any) -> list[Tensor] | Tensor:
            outputs = shapes(**dict(zip(names, arguments)))
            return outputs[0] if changes else outputs

        def forward(*arguments: Any) -> list[Tensor] | Tensor:
            values = dict(zip(names, arguments))
            outputs = [_like(made, empty, arguments) for made, empty in zip(_outputs(function(**values)), shapes(**values), strict=True)]
            return outputs[0] if changes else outputs

        # a node that changes an argument may not return a list
        returns = "Tensor" if changes else "Tensor[]"
        node = _define(name, f"({', '.join(declared)}) -> {returns}", forward, changes)
        node.register_fake(promised)
        if not changes:
            _differentiate(name, declared, function, names, node)
        return entry

    return register


def traced() -> bool:
    """Is torch.jit.trace recording; sizes are tensors then, and values constants."""
    return torch._C._get_tracing_state() is not None


def capturing() -> bool:
    """Is a graph being captured, by torch.compile, torch.export or torch.jit.trace."""
    return torch.compiler.is_compiling() or traced()


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """In the block sizes are numbers, also while torch.jit.trace is recording: for checks and for sizes that are fixed by weights."""
    state = torch._C._get_tracing_state()
    if state is None:
        yield
        return
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


def run(op: str, arguments: Sequence[Any], backend: str | None) -> Any:
    """The op's node in the graph that is being captured: one output bare, several as a tuple, as the op returns them."""
    outputs = getattr(torch.ops.anymamba, op)(*arguments, backend)
    if isinstance(outputs, Tensor):
        return outputs
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def outside(op: str, arguments: Sequence[Any], backend: str | None) -> Any:
    """The op in eager mode, between two graphs: for what depends on the random generator."""
    # as a decorator it would import the whole compiler together with this package
    return torch.compiler.disable(_functions[op])(*arguments, backend=backend)


def _define(name: str, schema: str, function: Callable[..., Any], changes: str | None = None) -> Any:
    return torch.library.custom_op(
        f"anymamba::{name}", function, mutates_args=(changes,) if changes else (), schema=schema
    )


def _differentiate(name: str, declared: list[str], function: Callable[..., Any], names: list[str], node: Any) -> None:
    def gradients(cotangents: list[Tensor | None], wanted: list[int], *arguments: Any) -> list[Tensor]:
        leaves = list(arguments)
        for index in wanted:
            leaves[index] = leaves[index].detach().requires_grad_()
        with torch.enable_grad(), _recording():
            outputs = _outputs(function(**dict(zip(names, leaves))))
            pairs = [(o, c) for o, c in zip(outputs, cotangents) if o.requires_grad and c is not None]
            grads = torch.autograd.grad(
                [o for o, _ in pairs], [leaves[i] for i in wanted], [c for _, c in pairs], allow_unused=True, materialize_grads=True
            )
        return [gradient.clone(memory_format=torch.contiguous_format) for gradient in grads]

    backward_node = _define(
        f"{name}_backward", f"(Tensor?[] cotangents, int[] wanted, {', '.join(declared)}) -> Tensor[]", gradients
    )
    backward_node.register_fake(
        lambda cotangents, wanted, *arguments: [
            torch.empty(arguments[i].shape, dtype=arguments[i].dtype, device=arguments[i].device) for i in wanted
        ]
    )

    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.tensors = [index for index, value in enumerate(inputs) if isinstance(value, Tensor)]
        ctx.rest = [None if isinstance(value, Tensor) else value for value in inputs]
        ctx.save_for_backward(*(inputs[index] for index in ctx.tensors))

    def backward(ctx: Any, cotangents: list[Tensor | None]) -> tuple[Any, ...]:
        arguments = list(ctx.rest)
        for index, tensor in zip(ctx.tensors, ctx.saved_tensors):
            arguments[index] = tensor
        indices = [index for index in ctx.tensors if ctx.needs_input_grad[index]]
        result: list[Any] = [None] * len(arguments)
        for index, gradient in zip(indices, getattr(torch.ops.anymamba, f"{name}_backward")(cotangents, indices, *arguments)):
            result[index] = gradient
        return tuple(result)

    node.register_autograd(backward, setup_context=keep)


def _in_place_under_vmap(op: str, changes: str | None, error: RuntimeError) -> AnymambaError | None:
    """What torch means by its error where vmap maps over some arguments of an op that changes another in place."""
    if not changes or not str(error).startswith("vmap: inplace"):
        return None
    return ArgumentError(
        "value",
        _("{op} changes {changes} in place, so vmap has to map over {changes} too").format(op=op, changes=changes),
        why=str(error),
        fix=_("give {changes} one copy a mapped call, and its dimension in in_dims").format(changes=changes),
    )


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    """Autograd as outside of a node: the body of a node runs below it, and would record nothing."""
    excluded = torch._C._dispatch_tls_local_exclude_set()
    for key in (torch._C.DispatchKey.AutogradFunctionality, torch._C.DispatchKey.ADInplaceOrView):
        excluded = excluded.remove(key)
    with torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded):
        yield


def _outputs(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [part for part in result if part is not None]


def _like(made: Tensor, empty: Tensor, arguments: Sequence[Any]) -> Tensor:
    """With the strides that the graph was promised, and in memory of its own."""
    if made.stride() != empty.stride() or any(isinstance(a, Tensor) and a.data_ptr() == made.data_ptr() for a in arguments):
        return empty.copy_(made.detach())
    return made.detach()


def state_dtype(*tensors: Tensor | None) -> torch.dtype:
    """float32, float64 where an argument has it: the dtype of a returned state."""
    dtypes = [tensor.dtype.to_real() for tensor in tensors if tensor is not None]
    return functools.reduce(torch.promote_types, dtypes, torch.float32)


def same_layout(x: Tensor) -> Tensor:
    """(batch, dim, length), empty, channels contiguous where those of x are."""
    batch, dim, length = x.shape
    return x.new_empty(batch, length, dim).mT if x.stride(1) == 1 and length > 1 else x.new_empty(batch, dim, length)


def contiguous(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)
