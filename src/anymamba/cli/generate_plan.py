"""anymamba generate MODEL --plan: what generating would take here, without reading a weight."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anymamba.cli.options import device_of
from anymamba.errors import AnymambaError
from anymamba.language import _, ngettext

if TYPE_CHECKING:
    import torch

_DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_MEASURED_BYTES = 64 * 2**20


def run(arguments: argparse.Namespace) -> int:
    """0: it fits into memory; 1: it does not."""
    document = plan(arguments)
    rate = _bytes_a_second(device_of(arguments.device))
    document["memory_bytes_per_second"] = round(rate)
    document["tokens_per_second_at_most"] = round(rate / document["weight_bytes"], 1)
    if arguments.json:
        print(json.dumps(document, ensure_ascii=False))
    else:
        print("\n".join(_lines(document)))
    return int(document["fits"] is False)


def plan(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is written as JSON, but for speed: nothing is measured or allocated."""
    from anymamba.models import hub
    from anymamba.models.footprint import footprint
    from anymamba.models.gguf.architectures import config_of
    from anymamba.models.gguf.file import GGUFFile, is_gguf
    from anymamba.training.machine import memory

    device = device_of(arguments.device)
    texts = _texts(getattr(arguments, "prompts", None))
    path = Path(arguments.model).expanduser()
    if is_gguf(path):
        file = GGUFFile(path)
        config = config_of(file)
        taken = footprint(config)
        as_it_lies = device.type == "cpu" and arguments.dtype in (None, "auto") and not arguments.quantize
        dtype = "GGUF" if as_it_lies else arguments.dtype if arguments.dtype in _DTYPE_BYTES else "float32"
        lying = sum(info.bytes for info in file.tensors.values())
        weights = lying if as_it_lies else taken.weights(_DTYPE_BYTES[dtype], arguments.quantize)
    else:
        folder = _folder(arguments.model)
        config = hub.load_config(folder)
        dtype = _dtype(arguments.dtype, folder)
        taken = footprint(config)
        weights = taken.weights(_DTYPE_BYTES[dtype], arguments.quantize)
    state = taken.state * texts
    tokens = _tokens(arguments, taken.context)
    size = _DTYPE_BYTES.get(dtype, 4)  # a GGUF file's activations are float32
    cache = taken.token * size * tokens * texts
    free = memory.left(device)
    return {
        "model": str(arguments.model), "model_type": config.model_type, "parameters": taken.parameters, "device": str(device),
        "dtype": dtype, "quantize": arguments.quantize, "texts": texts, "weight_bytes": weights, "state_bytes": state,
        "tokens": tokens, "context": taken.context, "key_value_bytes": cache, "key_value_bytes_per_token": taken.token * size,
        "free_bytes": free or None, "fits": None if not free else weights + state + cache <= free,
        "would_fit": [
            {"dtype": name, "quantize": width, "bytes": needed}
            for name, width in (("float32", None), ("bfloat16", None), ("bfloat16", "int8"), ("float32", "int4"))
            if (needed := taken.weights(_DTYPE_BYTES[name], width) + state + taken.token * _DTYPE_BYTES[name] * tokens * texts) <= free
        ],
    }  # fmt: skip


def check_memory(arguments: argparse.Namespace, mapped: bool = False) -> None:
    """Raises AnymambaError with the numbers of the plan for a folder that this machine's memory cannot hold: the system would end the
    process in the middle of reading it. A look at the files' sizes is enough where there is room. mapped: weights that need no change stay
    in the file."""
    from anymamba.models.hub.files import read_json
    from anymamba.training.machine import memory

    folder = Path(arguments.model).expanduser()
    files = list(folder.glob("*.safetensors")) if (folder / "config.json").is_file() else []
    free = memory.left(device_of(arguments.device))
    if not free or 2 * sum(file.stat().st_size for file in files) <= free:  # twice: 16 bits may be read as float32
        return
    if mapped and arguments.dtype in (None, _dtype(None, folder)) and not arguments.quantize:
        return
    document = plan(arguments)
    rounded = "quantization_config" in read_json(folder / "config.json")  # such weights are used as they lie in the file
    if document["fits"] is False and not rounded:
        weights, state, cache = (memory.text(document[name]) for name in ("weight_bytes", "state_bytes", "key_value_bytes"))
        raise AnymambaError(
            "memory",
            _("{model} does not fit into memory: {free} are free").format(model=arguments.model, free=memory.text(free)),
            why=_("weights {weights}, state {state}, keys and values of {tokens} tokens {cache}").format(
                weights=weights, state=state, tokens=document["tokens"], cache=cache
            ),
            fix=_options(document["would_fit"]),
        )


def _lines(plan: dict[str, Any]) -> list[str]:
    from anymamba.training.machine.memory import text
    from anymamba.training.show.report import count

    kind = plan["dtype"] + (f" + {plan['quantize']}" if plan["quantize"] else "")
    lines = [
        _("model: {model_type}, {parameters} parameters, {kind}, on {device}").format(
            model_type=plan["model_type"], parameters=count(plan["parameters"]), kind=kind, device=plan["device"]
        ),
        _("weights: {weight_bytes}").format(weight_bytes=text(plan["weight_bytes"])),
        ngettext(
            "state: {state_bytes} for {texts} text, however long it gets",
            "state: {state_bytes} for {texts} texts, however long they get",
            plan["texts"],
        ).format(state_bytes=text(plan["state_bytes"]), texts=plan["texts"]),
        *_growing(plan),
        _(
            "speed: at most about {tokens_per_second_at_most:g} tokens/s for one text (a token reads all weights; "
            "this memory moves {gigabytes_per_second:.1f} GB/s now)"
        ).format(
            tokens_per_second_at_most=plan["tokens_per_second_at_most"],
            gigabytes_per_second=plan["memory_bytes_per_second"] / 1e9,
        ),
    ]
    if plan["fits"] is not None:
        free = text(plan["free_bytes"])
        lines.append(
            _("it fits: {free} are free").format(free=free)
            if plan["fits"]
            else _("it does not fit: {free} are free; {options}").format(free=free, options=_options(plan["would_fit"]))
        )
    return lines


def _growing(plan: dict[str, Any]) -> list[str]:
    """What grows with the text, where anything does."""
    from anymamba.training.machine.memory import text

    if not plan["key_value_bytes_per_token"]:
        return []
    per_token = plan["key_value_bytes_per_token"]
    whole = per_token * plan["context"] if plan["context"] else None
    line = _("keys and values of attention grow: {each} bytes a token, {size} for {tokens} tokens").format(
        each=per_token, size=text(plan["key_value_bytes"]), tokens=plan["tokens"]
    )
    if whole is None:
        return [line]
    longest = _("the longest text it was trained for, {context} tokens, needs {size}")
    return [line, longest.format(context=plan["context"], size=text(whole))]


def _options(fitting: list[dict[str, Any]]) -> str:
    from anymamba.training.machine.memory import text

    if not fitting:
        return _("nor does it with --quantize int4")
    best = fitting[0]
    flags = f"--dtype {best['dtype']}" + (f" --quantize {best['quantize']}" if best["quantize"] else "")
    return _("with {flags} it takes {size} and fits").format(flags=flags, size=text(best["bytes"]))


def _tokens(arguments: argparse.Namespace, context: int | None) -> int:
    """How long a text is to get: the prompt, at most a token a byte, and --max-tokens; the trained length where that has no end."""
    if arguments.max_tokens < 0:
        return context or 0
    longest = len(getattr(arguments, "prompt", "").encode())
    if getattr(arguments, "prompts", None):
        longest = max((len(line) for line in Path(arguments.prompts).expanduser().read_bytes().splitlines()), default=0)
    return longest + arguments.max_tokens


def _folder(model: str) -> Path:
    """Where config.json is; of a hub name nothing else is downloaded."""
    from anymamba.models import hub
    from anymamba.models.hub import files

    if not Path(model).expanduser().exists() and files.looks_like_hub_name(model):
        return files.download(model, ["config.json", "params.json"])
    return hub.find(model)


def _dtype(asked: str | None, folder: Path) -> str:
    """float32, bfloat16 or float16: as asked, or as the weights were saved."""
    from anymamba.models.hub import files

    if asked in _DTYPE_BYTES:
        return asked
    values = files.read_json(folder / "config.json", missing={})
    saved = values.get("dtype") or values.get("torch_dtype") if isinstance(values, dict) else None
    return saved if saved in _DTYPE_BYTES else "float32"


def _texts(path: str | None) -> int:
    """Prompts in the file of --prompts, or 1."""
    if not path:
        return 1
    try:
        return max(1, sum(bool(line.strip()) for line in Path(path).expanduser().read_bytes().splitlines()))
    except OSError as error:
        raise AnymambaError("data", _("cannot read {path}").format(path=path), why=str(error)) from error


def _bytes_a_second(device: torch.device) -> float:
    """How fast this device reads memory just now: the best of a few sums over a block larger than the caches of most processors."""
    import torch

    block = torch.zeros(_MEASURED_BYTES // 4, device=device)
    best = float("inf")
    for __ in range(5):
        start = time.perf_counter()
        block.sum().item()
        best = min(best, time.perf_counter() - start)
    return _MEASURED_BYTES / best
