"""Peak memory of one forward+backward of a whole model, ours and mambapy's, each in a process of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch

from anymamba.bench import model_peers, peak, peers
from anymamba.bench.cases import model_cases
from anymamba.bench.cases.case import Case, Contender, Contest, Setting, Target


def contest(family: str, size: str, length: int, dtype: str, setting: Setting) -> Contest:
    specification = {"family": family, "size": size, "length": length, "dtype": dtype, "device": str(setting.device)}

    def contender(who: str) -> Contender:
        return Contender(functools.partial(peak.measure_apart, {**specification, "who": who, "backend": setting.backend}))

    contenders: dict[str, Callable[[], Contender] | str] = {}
    config = model_cases.configuration(family, size)
    for name in model_peers.names(config):
        contenders[name] = model_peers.missing(name) or functools.partial(contender, name)
    gate = functools.partial(model_cases.check, config, getattr(torch, dtype), "forward+backward", setting)
    slow = peers.slow(setting.device, model_peers.by_channel(config), backward=True)
    return Contest(contender("anymamba"), gate, contenders, slow=slow)


def cases() -> Iterator[Case]:
    for device_type in ("cpu", "cuda"):
        for family in ("mamba", "mamba2"):
            build = functools.partial(contest, family, "130m", 512, "float32")
            has_mambapy = peers.MAMBAPY in model_peers.names(model_cases.configuration(family, "130m"))
            targets = (Target(peers.MAMBAPY, 1 / 3),) if has_mambapy else ()
            name = f"{family}-130m/B1-L512-fp32/memory"
            yield Case(name, device_type, build, quantity="memory", targets=targets)
