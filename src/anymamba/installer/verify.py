"""Does an installed official package import and compute rightly: python -m anymamba.installer.verify PACKAGE ...

Meant for a fresh process. On a GPU, forward and backward in float32 are compared with the float64 reference; without one, only
the import is tried, which also proves that the extension fits torch's ABI, and that is said.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

from anymamba.installer.releases import EXTENSIONS, MODULES
from anymamba.language import say

# greatest error of float32 against float64, relative to the greatest value; rounding gives about 1e-6, a wrong kernel 0.1 and more
TOLERANCE = 1e-3


def verify(packages: list[str]) -> dict[str, Any]:
    """{"ok", "gpu", "checks": [{"name", "ok", "text"}]}."""
    import torch

    gpu = torch.cuda.is_available()
    checks: list[dict[str, Any]] = []
    for package in packages:
        for module in (EXTENSIONS[package], MODULES[package]):
            checks.append(_import(module, gpu))
        if gpu and all(item["ok"] for item in checks):
            checks.append(_compute(package))
    return {"ok": all(item["ok"] for item in checks), "gpu": gpu, "checks": checks}


def _import(name: str, gpu: bool) -> dict[str, Any]:
    try:
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - whatever an extension raises is the answer
        text = f"{type(error).__name__}: {str(error)[:400]}"
        # triton's decorators ask for a GPU at import; that is no fault of what was built
        return {"name": name, "ok": not gpu and "active drivers" in text, "text": text}
    return {"name": name, "ok": True, "text": say("imports, so it fits torch's ABI", "可以导入，与 torch 的 ABI 相符")}


def _compute(package: str) -> dict[str, Any]:
    try:
        error = {"causal-conv1d": _convolution, "mamba-ssm": _scan}[package]()
    except Exception as failure:  # noqa: BLE001 - a kernel that does not launch is the answer
        return {"name": package, "ok": False, "text": f"{type(failure).__name__}: {str(failure)[:400]}"}
    text = say(
        "forward and backward differ from the reference by {:.1e} (limit {:.0e})",
        "前向与反向同参考实现相差 {:.1e}（上限 {:.0e}）",
    )
    return {"name": package, "ok": error <= TOLERANCE, "text": text.format(error, TOLERANCE)}


def _convolution() -> float:
    from causal_conv1d import causal_conv1d_fn

    from anymamba.reference.causal_conv1d import causal_conv1d_fn as exact

    inputs = _random((2, 64, 37), (64, 4), (64,))
    return _worst(
        lambda x, weight, bias: causal_conv1d_fn(x, weight, bias, activation="silu"),
        lambda x, weight, bias: exact(x, weight, bias, activation="silu"),
        inputs,
    )


def _scan() -> float:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    from anymamba.reference.selective_scan import selective_scan_fn as exact

    u, delta, A, B, C, D = _random((2, 32, 45), (2, 32, 45), (32, 16), (2, 16, 45), (2, 16, 45), (32,))
    A = -A.abs() - 0.1
    return _worst(
        lambda u, delta, A, B, C, D: selective_scan_fn(u, delta, A, B, C, D, delta_softplus=True),
        lambda u, delta, A, B, C, D: exact(u, delta, A, B, C, D, delta_softplus=True),
        [u, delta, A, B, C, D],
    )


def _random(*shapes: tuple[int, ...]) -> list[Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _worst(function: Callable[..., Any], exact: Callable[..., Any], inputs: list[Any]) -> float:
    """The greatest relative error of the output and of every gradient; NaN counts as infinite."""
    import torch

    ours = [value.to("cuda", torch.float32).requires_grad_() for value in inputs]
    right = [value.clone().requires_grad_() for value in inputs]
    out, expected = function(*ours), exact(*right)
    weight = torch.linspace(-1, 1, expected.numel(), dtype=torch.float64).reshape(expected.shape)
    (out * weight.to("cuda", torch.float32)).sum().backward()
    (expected * weight).sum().backward()
    pairs = [(out, expected)] + [(a.grad, b.grad) for a, b in zip(ours, right)]
    errors = [float((a.detach().double().cpu() - b.detach()).abs().max() / b.detach().abs().max()) for a, b in pairs]
    return max(error if error == error else float("inf") for error in errors)


def lines(result: dict[str, Any]) -> list[str]:
    """For a person."""
    said = ["{} {}: {}".format("✓" if item["ok"] else "✗", item["name"], item["text"]) for item in result["checks"]]
    if not result["gpu"]:
        said.append(
            say(
                "no GPU is visible: only import and ABI were checked, not the results",
                "没有可见的显卡：只检查了导入与 ABI，未检查计算结果",
            )
        )
    return said


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="+", choices=sorted(MODULES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    result = verify(arguments.packages)
    print(json.dumps(result, ensure_ascii=False) if arguments.json else "\n".join(lines(result)))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
