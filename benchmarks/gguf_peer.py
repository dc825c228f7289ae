"""The same GGUF file here and in llama.cpp: prefill and decode on the same threads, turn by turn.

    pip install llama-cpp-python "anymamba[gguf]"        # the first is compiled for this machine
    python benchmarks/gguf_peer.py 130m --types F32,F16,Q8_0,Q4_0 --threads 2 --json result.json

A model of that size with random weights is written once for each type; a path to a file measures that file. ``share`` is the weights that
a token reads times tokens a second, over what this memory gives to a sum over a large block in the same minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from llama_cpp_peer import LlamaCpp, void

from anymamba.backends import machine
from anymamba.generation.engine import Reader
from anymamba.models.gguf.file import GGUFFile
from anymamba.models.gguf.load import load_as
from anymamba.models.gguf.write import write
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size


def memory_bytes_a_second() -> float:
    block = torch.zeros(2**27)
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        block.sum().item()
        best = min(best, time.perf_counter() - started)
    return 4 * block.numel() / best


def bytes_of_a_token(file: GGUFFile) -> int:
    """Of the weights that are read: all but an embedding that is not the head too."""
    every = sum(info.bytes for info in file.tensors.values())
    return every - (file.tensors["token_embd.weight"].bytes if "output.weight" in file.tensors else 0)


def measured(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    file = GGUFFile(path)
    model = load_as(LanguageModel, file, None, torch.device("cpu")).requires_grad_(False)
    peer = LlamaCpp(path, max(arguments.tokens, 64), arguments.threads)
    ids = torch.randint(model.config.vocab_size, (1, arguments.tokens))
    text, first = ids[0].tolist(), ids[:, 0]
    rates: dict[str, list[float]] = {name: [] for name in ("prefill", "decode", "their prefill", "their decode")}
    for round_ in range(arguments.rounds + 1):
        reader = Reader(model)
        turns = (
            ("", lambda reader=reader: void(reader.read(ids)), lambda reader=reader: void(reader.step(first))),
            ("their ", lambda: peer.read(text), lambda: peer.read(text[:1], False)),
        )
        for name, prefill, step in turns:
            started = time.perf_counter()
            prefill()
            prefilled = time.perf_counter()
            step()  # the first prepares the others
            middle = time.perf_counter()
            for _ in range(arguments.steps):
                step()
            ended = time.perf_counter()
            if round_:  # the first warms up
                rates[name + "prefill"].append(arguments.tokens / (prefilled - started))
                rates[name + "decode"].append(arguments.steps / (ended - middle))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    memory = memory_bytes_a_second()
    return medians | {
        "decode_times": medians["decode"] / medians["their decode"], "prefill_times": medians["prefill"] / medians["their prefill"],
        "memory_gigabytes_a_second": memory / 1e9, "share": medians["decode"] * bytes_of_a_token(file) / memory,
        "stepper": reader.timing.stepper,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="a size, or a GGUF file")
    parser.add_argument("--types", default="F32,F16,Q8_0,Q4_0")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in [""] if arguments.model.endswith(".gguf") else arguments.types.split(","):
            path = Path(arguments.model)
            if kind:
                path = Path(folder) / f"{kind}.gguf"
                torch.manual_seed(0)
                whole = LanguageModel(config_of_size(arguments.model, "mamba", vocab_size=50280)).requires_grad_(False)
                write(whole, whole.state_dict(), None, path, kind)
                del whole
            result = results[kind or path.name] = measured(path, arguments)
            print(
                f"{kind or path.name:8} decode {result['decode']:7.1f} to {result['their decode']:7.1f} ({result['decode_times']:.2f}x)   "
                f"prefill {result['prefill']:7.1f} to {result['their prefill']:7.1f} ({result['prefill_times']:.2f}x)   "
                f"{result['share']:.0%} of {result['memory_gigabytes_a_second']:.1f} GB/s",
                flush=True,
            )
    if arguments.json:
        document = {"model": arguments.model, "machine": machine.facts() | {"threads": arguments.threads}, "results": results}
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
