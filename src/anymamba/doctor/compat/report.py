"""What goes together, for a terminal and as one JSON document."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

from anymamba.doctor.compat import building, table
from anymamba.doctor.compat.commands import commands
from anymamba.doctor.compat.host import Host
from anymamba.doctor.compat.requirements import WrittenFor
from anymamba.doctor.compat.trios import Trio, Wish, trios, why_none
from anymamba.doctor.shells import shell_of
from anymamba.language import _


class Answer:
    """Of one question: a machine, and a program where one was named."""

    def __init__(self, facts: Dict[str, Any], program: Optional[WrittenFor] = None, name: str = "") -> None:
        self.host, self.program, self.name = Host(facts), program, name
        unknown = program is not None and not program.mamba
        wish = program.wish() if program is not None else Wish()
        self.trios: List[Trio] = [] if unknown else trios(self.host, wish)
        self.none = None if self.trios or unknown else why_none(self.host, wish) or self._nothing(wish)

    @property
    def fits(self) -> bool:
        return bool(self.trios)

    def _nothing(self, wish: Wish) -> str:
        if wish.mamba or wish.torch:
            return _("nothing that this program asks for runs on this machine")
        return _("no release goes with what is here")

    def notes(self) -> List[str]:
        """What to know besides."""
        host, said = self.host, []
        if "gpu" in host.facts.get("late", ()):
            said.append(_("the GPU was not looked at: nvidia-smi took too long"))
        elif not host.architectures and not host.facts["gpu"]["amd"] and host.kind != "macos":
            said.append(_("no GPU is visible here, and these packages compute on GPUs only"))
        if self.program is not None and len({version.split(".")[0] for version in self.program.mamba}) > 1:
            said.append(_("mamba-ssm 2.0 renamed modules: code written before June 2024 may need 1.2.2"))
        said.append(_("anymamba needs none of these: `anymamba run PROGRAM.py` runs a program that imports mamba_ssm"))
        return said


def document(answer: Answer) -> Dict[str, Any]:
    """JSON-able."""
    host = answer.host
    program = answer.program
    return {
        "machine": {
            "system": host.kind,
            "processor": host.processor,
            "container": host.container,
            "python": "3.{}".format(host.python_minor),
            "torch": host.torch["version"] if host.torch.get("installed") else None,
            "gpus": [building.capability(arch) for arch in host.architectures],
        },
        "program": None
        if program is None
        else {
            "file": program.file or answer.name,
            "named": program.named,
            "mamba-ssm": list(program.mamba),
            "certain": program.certain,
            "reason": program.reason,
            "line": program.line,
        },
        "trios": [_trio(host, trio) for trio in answer.trios],
        "none": answer.none,
        "notes": answer.notes(),
        "table": {"checked": table.document()["checked"], "sources": table.document()["sources"]},
    }


def _trio(host: Host, trio: Trio) -> Dict[str, Any]:
    return {
        "torch": trio.torch,
        "keeps_torch": trio.keeps_torch,
        "torch_index": trio.torch_index,
        "python": "3.{}".format(trio.python),
        "mamba-ssm": trio.mamba.version,
        "causal-conv1d": trio.conv.version,
        "triton": trio.triton,
        "needs": trio.needs,
        "route": trio.route,
        "wheels": trio.addresses,
        "nvcc": trio.toolkit.cuda if trio.toolkit else None,
        "why": list(trio.why),
        "cautions": list(trio.cautions),
        "commands": commands(host, trio),
        "shell": shell_of(host.kind),
    }


def render_json(answer: Answer) -> str:
    return json.dumps(document(answer), ensure_ascii=False, indent=1)


def render(answer: Answer) -> str:
    lines = [_("What goes together on: {machine}").format(machine=_machine(answer.host)), ""]
    lines += _program(answer)
    if answer.none:
        lines += [_("Nothing: {none}.").format(none=answer.none), ""]
    for number, trio in enumerate(answer.trios, 1):
        lines += _lines(number, answer.host, trio)
    lines += ["  " + note for note in answer.notes()]
    lines.append(
        "  "
        + _('facts of {checked}; sources: --compat --json, under "table"').format(checked=table.document()["checked"])
    )
    return "\n".join(lines) + "\n"


def _machine(host: Host) -> str:
    cards = [item["name"] for item in host.facts["gpu"]["nvidia"]] or list(host.facts["gpu"]["amd"])
    parts = [
        host.facts["system"].get("name") or host.kind,
        host.processor,
        host.container or "",
        "Python 3.{}".format(host.python_minor),
    ]
    parts.append("torch {}".format(host.torch["version"] if host.torch.get("installed") else "-"))
    parts.append(", ".join(dict.fromkeys(cards)) or _("no GPU visible"))
    return ", ".join(dict.fromkeys(filter(None, parts)))


def _program(answer: Answer) -> List[str]:
    program = answer.program
    if program is None:
        return []
    name = program.file or answer.name
    where = _("{name}, line {line}").format(name=name, line=program.line) if program.line else answer.name
    if not program.mamba:
        return [_("{where}: {reason}.").format(where=where, reason=program.reason), ""]
    first, last = program.mamba[0], program.mamba[-1]
    if program.certain:
        what = _("written for mamba-ssm {first}").format(first=first)
    elif first == last:
        what = _("goes with mamba-ssm {first}").format(first=first)
    else:
        what = _("takes mamba-ssm {first} to {last}").format(first=first, last=last)
    return [_("{where}: {what} ({reason}).").format(where=where, what=what, reason=program.reason), ""]


def _lines(number: int, host: Host, trio: Trio) -> List[str]:
    needs = ["{} {}".format(name, wanted) for name, wanted in trio.needs.items()]
    triton = ["triton {}".format(trio.triton)] if trio.triton else []
    parts = [
        "torch " + trio.torch,
        "mamba-ssm " + trio.mamba.version,
        "causal-conv1d " + trio.conv.version,
        *triton,
        *needs,
    ]
    route = _("wheels") if trio.route == "wheel" else _("compiled")
    lines = ["{}. {}  [{}]".format(number, ", ".join(parts), route)]
    lines += ["   - " + text for text in trio.why]
    lines += ["   ! " + text for text in trio.cautions]
    return lines + ["       " + line for line in commands(host, trio)] + [""]
