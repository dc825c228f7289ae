"""Peak memory of one training step, in a process of its own: ``python -m anymamba.bench.peak '{"who": ...}'`` prints the bytes.

On the CPU it is the process's largest resident size, libraries and weights included; on CUDA what PyTorch's allocator held.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from anymamba.errors import AnymambaError
from anymamba.language import _


def measure_apart(specification: dict[str, Any]) -> int:
    """Bytes. specification: who ("anymamba" or a peer), family, size, length, dtype, device, backend, layers (None: all)."""
    command = [sys.executable, "-m", "anymamba.bench.peak", json.dumps(specification)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [_("killed, out of memory?")]
        raise AnymambaError("memory", _("the process that measures memory failed"), why=last[0])
    return int(json.loads(done.stdout)["bytes"])


def measure_here(specification: dict[str, Any]) -> int:
    """Runs two training steps in this process and returns its peak so far."""
    import torch

    from anymamba.bench import model_peers
    from anymamba.bench.cases import model_cases
    from anymamba.models.lm import LanguageModel

    device, dtype = torch.device(specification["device"]), getattr(torch, specification["dtype"])
    config = model_cases.configuration(specification["family"], specification["size"])
    if specification.get("layers"):
        config.num_hidden_layers = specification["layers"]
    torch.manual_seed(0)
    if specification["who"] == "anymamba":
        model: Any = LanguageModel(config).to(device)
    else:
        model = model_peers.make(specification["who"], config, device).train()
    ids = torch.randint(config.vocab_size, (1, specification["length"]), device=device)
    step = model_cases.on(specification.get("backend"), model_cases.training_step(model, ids, dtype))
    for __ in range(2):
        step()
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _largest_resident()


def _largest_resident() -> int:
    if sys.platform == "win32":
        raise AnymambaError("memory", _("peak memory is not measured on Windows"))
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(json.dumps({"bytes": measure_here(json.loads(sys.argv[1]))}))
