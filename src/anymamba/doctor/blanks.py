"""What stands in the {blanks} of commands and texts, computed from the user's environment; an absent key is not known."""

from __future__ import annotations

import functools
import shlex
from typing import Mapping, Optional, Tuple

from anymamba.doctor import versions
from anymamba.doctor.environment import Environment, minor_of
from anymamba.doctor.situation import short

_TRITON_WINDOWS = {"2.6": "3.2", "2.7": "3.3", "2.8": "3.4", "2.9": "3.5", "2.10": "3.6"}


@functools.lru_cache(maxsize=32)
def values(environment: Environment) -> Mapping[str, str]:
    python, torch = minor_of(environment.python), environment.torch
    pair = versions.pair_for(torch, python)
    torch_cuda = environment.cuda if torch else None
    nearest = torch_cuda or _card_cuda(environment) or environment.driver or environment.nvcc
    named_torch, index = versions.torch_with_cuda(torch, nearest)
    new_torch, new_index = versions.torch_with_cuda(None, _card_cuda(environment) or environment.driver)
    new_pair = versions.pair_for(new_torch)
    toolkit = versions.toolkit_for(torch, torch_cuda or (environment.nvcc if not torch else None))
    mamba, conv = wishes(environment)
    one_conv = versions.conv_for(versions.LAST_ONE, torch, python) or "1.4.0"
    made = {
        "mamba": mamba, "conv": conv,
        "packages": "{} {}".format(_spec("causal-conv1d", conv, environment), _spec("mamba-ssm", mamba, environment)),
        "mamba2": pair.mamba, "conv2": pair.conv,
        "mamba1": versions.LAST_ONE, "conv1": one_conv,
        "mamba1_spec": _spec("mamba-ssm", versions.LAST_ONE, environment),
        "conv1_spec": _spec("causal-conv1d", one_conv, environment),
        "mamba_built": versions.source_of("mamba-ssm", pair.mamba), "conv_built": versions.source_of("causal-conv1d", pair.conv),
        "mamba_new": new_pair.mamba, "conv_new": new_pair.conv,
        "mamba_pin": "==" + mamba, "conv_pin": "==" + conv,
        "mamba_source": versions.source_of("mamba-ssm", mamba), "conv_source": versions.source_of("causal-conv1d", conv),
        "mamba_git": "git+https://github.com/state-spaces/mamba@v" + mamba,
        "conv_git": "git+https://github.com/Dao-AILab/causal-conv1d@v" + conv,
        "torch": named_torch, "cuda": index, "torch2": new_torch, "cuda2": new_index,
        "toolkit": toolkit, "toolkit_dashed": toolkit.replace(".", "-"), "image": versions.image_for(torch),
        "python": "3.12" if pair.mamba == versions.NEWEST.mamba else "3.10",
        "gcc": _gcc(toolkit), "arch": environment.arch or "120",
        "log": shlex.quote(environment.log), "program": shlex.quote(environment.program or "train.py"),
        "triton_windows": _triton_windows(torch),
        "transformers": "transformers<5" if short(mamba) < (2, 3) else "transformers",
        "repository": "wsl-ubuntu/x86_64" if environment.system == "wsl"
        else "ubuntu2204/" + ("sbsa" if environment.machine == "aarch64" else "x86_64"),
    }  # fmt: skip
    failed = environment.failed or ("causal-conv1d", "mamba-ssm")
    made["package"] = " ".join(_spec(name, mamba if name == "mamba-ssm" else conv, environment) for name in failed)
    made["when_no_wheel_is_known"] = ""
    if torch and torch_cuda and python and environment.system in ("linux", "wsl"):
        urls = versions.wheel_urls(pair, torch, torch_cuda, python, environment.machine, environment.new_abi)
        if urls:
            del made["when_no_wheel_is_known"]
            made["mamba_wheel"], made["conv_wheel"] = urls
            made["wheel_url"] = urls[0] if environment.failed == ("mamba-ssm",) else urls[1]
            made["transformers"] = "transformers<5" if short(pair.mamba) < (2, 3) else "transformers"
    # which of a rule's remedies are for this card: all of them where nothing names it
    card = int(environment.arch) if environment.arch else None
    for name, fits in (("pascal", card is None or card < 70), ("turing", card in (None, 75)), ("blackwell", card is None or card >= 100)):
        if fits:
            made["only_" + name] = ""
    if card is None or card >= 70:
        made["from_volta_on"] = ""
    if environment.guess:
        made["wheel_url"] = environment.guess
    if "wheel_url" in made:
        made["wheel_file"] = made["wheel_url"].rsplit("/", 1)[1].replace("%2B", "+")
    return made


def wishes(environment: Environment) -> Tuple[str, str]:
    """(mamba-ssm, causal-conv1d): what the program asks for, as far as the two fit each other, else what fits its torch."""
    python, torch = minor_of(environment.python), environment.torch
    pair = versions.pair_for(torch, python)
    mamba = environment.mamba
    if mamba is None and environment.conv and short(environment.conv) < (1, 2):
        mamba = "1.1.1"  # only the first releases go with such an old causal-conv1d
    if mamba is None or short(mamba) >= (2, 3, 2) and torch and short(torch) < (2, 9):
        mamba = pair.mamba  # 2.3.2 wants a Triton that an older torch forbids
    conv = pair.conv if mamba == pair.mamba else versions.conv_for(mamba, torch, python) or pair.conv
    if environment.conv and not versions.unfit(mamba, environment.conv):
        conv = environment.conv
    return mamba, conv


def _spec(package: str, version: str, environment: Environment) -> str:
    """What pip is told: the release, or its git tag where no wheel can fit and the source package lacks the sources."""
    source = versions.source_of(package, version)
    without = source.startswith("git+") and environment.torch and not versions.has_wheel(package, version, environment.torch)
    return source if without else "{}=={}".format(package, version)


def _card_cuda(environment: Environment) -> str:
    """The least CUDA that knows this card, where that is newer than what everything supports."""
    number = int(environment.arch) if environment.arch else 0
    return "13.0" if number in (103, 110, 121) else "12.8" if number >= 100 else ""


def _gcc(toolkit: str) -> str:
    """The newest host compiler that this nvcc takes."""
    number = short(toolkit)[:2]
    for limit, gcc in (((11, 4), "10"), ((12, 0), "11"), ((12, 3), "12"), ((12, 8), "13"), ((13, 0), "14")):
        if number < limit:
            return gcc
    return "15"


def _triton_windows(torch: Optional[str]) -> str:
    version = _TRITON_WINDOWS.get(versions.minor_of(torch) or "")
    if not version:
        return "triton-windows"
    major, middle = version.split(".")
    return "triton-windows>={},<{}.{}".format(version, major, int(middle) + 1)
