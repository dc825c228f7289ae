"""Prefill and decode on the processor beside llama.cpp, the same random Mamba-1 weights in both, in turn.

    pip install llama-cpp-python gguf        # the first is compiled for this machine
    python benchmarks/llama_cpp_peer.py --size 130m --tokens 512 --rounds 5 --json result.json

llama.cpp gets the weights in the dtype that its own converter would choose (matrices in --peer-dtype, the rest in float32).
The last logits are compared first, so that both are known to compute the same model.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anymamba.backends import machine
from anymamba.generation.engine import Reader
from anymamba.generation.quantize import quantize_int8
from anymamba.models.lm import LanguageModel
from anymamba.models.sizes import config_of_size

VOCABULARY = 50280
OURS = ("float32", "bfloat16", "float16", "int8")


def our_model(size: str, dtype: str) -> LanguageModel:
    torch.manual_seed(0)
    model = LanguageModel(config_of_size(size, "mamba", vocab_size=VOCABULARY)).eval().requires_grad_(False)
    return quantize_int8(model) if dtype == "int8" else model.to(getattr(torch, dtype))


def write_gguf(model: LanguageModel, path: Path, dtype: str) -> None:
    import gguf

    config: Any = model.config
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(2**20)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_ssm_conv_kernel(config.conv_kernel)
    writer.add_ssm_inner_size(config.d_inner)
    writer.add_ssm_state_size(config.state_size)
    writer.add_ssm_time_step_rank(int(config.time_step_rank))
    writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
    writer.add_ssm_dt_b_c_rms(False)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config.vocab_size)
    matrix = {"f16": torch.float16, "f32": torch.float32}[dtype]

    def add(name: str, tensor: Tensor, kind: torch.dtype = torch.float32) -> None:
        writer.add_tensor(name, tensor.detach().to(kind).contiguous().numpy())

    add("token_embd.weight", model.backbone.embeddings.weight, matrix)
    add("output_norm.weight", model.backbone.norm_f.weight)
    for index, block in enumerate(model.backbone.layers):
        mixer: Any = block.mixer
        norm: Any = block.norm
        place = f"blk.{index}."
        add(place + "attn_norm.weight", norm.weight)
        for name, linear in (("ssm_in", mixer.in_proj), ("ssm_x", mixer.x_proj), ("ssm_dt", mixer.dt_proj), ("ssm_out", mixer.out_proj)):
            add(f"{place}{name}.weight", linear.weight, matrix)
        add(place + "ssm_dt.bias", mixer.dt_proj.bias)
        add(place + "ssm_conv1d.weight", mixer.conv1d.weight[:, 0])
        add(place + "ssm_conv1d.bias", mixer.conv1d.bias)
        add(place + "ssm_a", -torch.exp(mixer.A_log.float()))
        add(place + "ssm_d", mixer.D)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class LlamaCpp:
    """The model in llama.cpp, through the C interface of llama-cpp-python."""

    def __init__(self, path: Path, tokens: int, threads: int) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._model: Any = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = 2 * tokens, tokens, tokens
        options.n_threads = options.n_threads_batch = threads
        self._context: Any = llama_cpp.llama_init_from_model(self._model, options)

    def read(self, ids: list[int], fresh: bool = True) -> None:
        lib = self._lib
        if fresh:
            lib.llama_memory_clear(lib.llama_get_memory(self._context), True)
        array = (lib.llama_token * len(ids))(*ids)
        if lib.llama_decode(self._context, lib.llama_batch_get_one(array, len(ids))):
            raise RuntimeError("llama_decode failed")
        lib.llama_synchronize(self._context)

    def logits(self) -> Tensor:
        return torch.tensor(self._lib.llama_get_logits_ith(self._context, -1)[:VOCABULARY])

    def version(self) -> str:
        return f"llama-cpp-python {self._lib.__version__}, {self._lib.llama_print_system_info().decode()}"


clock = time.perf_counter


def measured(prefill: Callable[[], None], step: Callable[[], None], tokens: int, steps: int) -> dict[str, float]:
    started = clock()
    prefill()
    prefilled = clock()
    step()  # the first prepares the others
    middle = clock()
    for _ in range(steps):
        step()
    return {"prefill": tokens / (prefilled - started), "decode": steps / (clock() - middle)}


def our_contender(model: LanguageModel, ids: Tensor, steps: int) -> Callable[[], dict[str, float]]:
    def run() -> dict[str, float]:
        reader = Reader(model)
        return measured(lambda: void(reader.read(ids)), lambda: void(reader.step(ids[:, 0])), ids.shape[1], steps)

    return run


def void(_: object) -> None:
    """For callbacks whose result nobody needs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default="130m")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--steps", type=int, default=16, help="of decoding after each prefill")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cpu-time", action="store_true", help="of one thread, for a machine that others use too")
    parser.add_argument("--dtypes", default=",".join(OURS))
    parser.add_argument("--peer-dtype", default="f16", choices=("f16", "f32"))
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.cpu_time:
        global clock
        clock, arguments.threads = time.process_time, 1
    torch.set_num_threads(arguments.threads)
    ids = torch.randint(VOCABULARY, (1, arguments.tokens))
    contenders: dict[str, Callable[[], dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = our_model(arguments.size, "float32")
        write_gguf(whole, Path(folder) / "model.gguf", arguments.peer_dtype)
        peer = LlamaCpp(Path(folder) / "model.gguf", arguments.tokens, arguments.threads)
        text = ids[0].tolist()
        peer.read(text)
        ours, theirs = Reader(whole).read(ids)[0], peer.logits()
        distance = float((ours - theirs).norm() / ours.norm())
        print(f"logits differ by {distance:.1e} of their norm", file=sys.stderr)
        if distance > 0.02:
            raise SystemExit("llama.cpp computes another model: nothing to compare")
        del whole
        for dtype in arguments.dtypes.split(","):
            contenders[dtype] = our_contender(our_model(arguments.size, dtype), ids, arguments.steps)
        name = f"llama.cpp {arguments.peer_dtype}"
        contenders[name] = lambda: measured(
            lambda: peer.read(text), lambda: peer.read(text[:1], False), arguments.tokens, arguments.steps
        )
        runs: dict[str, list[dict[str, float]]] = {contender: [] for contender in contenders}
        for round_ in range(arguments.rounds + 1):
            for contender, run in contenders.items():
                rates = run()
                if round_:  # the first warms up
                    runs[contender].append(rates)
        document: dict[str, Any] = {
            "date": datetime.date.today().isoformat(), "machine": machine.facts() | {"threads": arguments.threads},
            "peer": peer.version(), "clock": "CPU time" if arguments.cpu_time else "wall",
            "size": arguments.size, "tokens": arguments.tokens, "rounds": arguments.rounds,
            "logits_distance": distance, "rates": {},
        }  # fmt: skip
    for contender, rates_of in runs.items():
        document["rates"][contender] = {
            what: {"median": statistics.median(values), "low": min(values), "high": max(values)}
            for what in ("prefill", "decode")
            for values in [[rates[what] for rates in rates_of]]
        }
        line = document["rates"][contender]
        prefill, decode = line["prefill"]["median"], line["decode"]["median"]
        print(f"{contender:16} prefill {prefill:7.1f} tok/s   decode {decode:6.1f} tok/s", file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
