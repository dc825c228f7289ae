"""The facts of a machine as one line an area, with details for -v."""

from __future__ import annotations

from typing import Any, Dict, List

from anymamba.doctor.finding import Finding, Section
from anymamba.doctor.machine import backends, transformers
from anymamba.language import _, ngettext

# finding -> the area whose line turns red
_AREA = {
    "cpu-torch-in-env": "torch",
    "torch-import-broken": "torch",
    "gpu-arch-not-compiled": "gpu",
    "wsl-driver-missing": "gpu",
    "cuda-driver-too-old": "gpu",
    "nvcc-missing": "cuda",
    "cuda-home-wrong": "cuda",
    "cuda-major-mismatch": "cuda",
    "gcc-too-new-for-cuda": "compiler",
    "msvc-missing": "compiler",
    "triton-missing-on-windows": "triton",
    "broken-package-reported-missing": "transformers",
}


def area_of(cause: str) -> str:
    """The area that a cause belongs to."""
    return _AREA.get(cause, "packages")


def _late(facts: Dict[str, Any], area: str) -> bool:
    return area in facts.get("late", ())


def _not_looked_at(facts: Dict[str, Any]) -> str:
    return _("not looked at: took longer than {seconds:g} s (--wait 60 waits for it)").format(seconds=facts["seconds"])


def sections(facts: Dict[str, Any], findings: List[Finding]) -> List[Section]:
    bad = {area_of(finding.cause) for finding in findings}
    made = [
        _system(facts),
        _python(facts),
        _torch(facts),
        _gpu(facts),
        _cuda(facts),
        _compiler(facts),
        _libraries(facts),
    ]
    made += [_triton(facts), _packages(facts), _wheel(facts), _transformers(facts), _backends(facts)]
    return [section._replace(state="bad") if section.area in bad else section for section in made]


def _system(facts: Dict[str, Any]) -> Section:
    system = facts["system"]
    summary = "{}, {}".format(system["name"], system["machine"])
    if system["kind"] == "wsl":
        summary += ", WSL"
    if system["container"]:
        summary += ", {}".format(system["container"])
    details = [
        ngettext(
            "{cores} processor core, {memory_gb} GB of memory",
            "{cores} processor cores, {memory_gb} GB of memory",
            system["cores"],
        ).format(cores=system["cores"], memory_gb=system["memory_gb"]),
        _("{temporary_free_gb} GB free for temporary files").format(temporary_free_gb=system["temporary_free_gb"]),
    ]
    return Section("system", "ok", _("System"), summary, tuple(details))


def _python(facts: Dict[str, Any]) -> Section:
    python = facts["python"]
    tools = [
        "{} {}".format(name, python[name] or "-") for name in ("pip", "uv", "setuptools", "wheel", "packaging", "ninja")
    ]
    summary = "{} ({}), pip {}".format(python["version"], python["environment"], python["pip"] or "-")
    return Section("python", "ok", "Python", summary, (python["executable"], ", ".join(tools)))


def _torch(facts: Dict[str, Any]) -> Section:
    torch = facts["torch"]
    if not torch["installed"]:
        return Section("torch", "warning", "torch", _("not installed"))
    build = {"cuda": "CUDA {}".format(torch["cuda"]), "rocm": "ROCm {}".format(torch["hip"]), "cpu": "CPU"}[
        torch["kind"]
    ]
    summary = "{}, {}".format(torch["version"], build)
    if torch.get("error"):
        answer = (torch["error"], torch.get("output", "").strip())
        summary = "{}, {}".format(summary, _("does not import"))
        return Section("torch", "bad", "torch", summary, tuple(filter(None, answer)))
    if _late(facts, "torch"):
        return Section(
            "torch",
            "info",
            "torch",
            _("{summary}; import {not_looked_at}").format(summary=summary, not_looked_at=_not_looked_at(facts)),
        )
    details = []
    if "import_seconds" in torch:
        details.append(_("imports in {import_seconds} s").format(import_seconds=torch["import_seconds"]))
        details.append("C++11 ABI: {}".format(torch["abi"]))
    if torch.get("archs"):
        details.append(_("compiled for ") + " ".join(torch["archs"]))
    return Section("torch", "ok", "torch", summary, tuple(details))


def _gpu(facts: Dict[str, Any]) -> Section:
    gpu = facts["gpu"]
    title = _("GPU")
    if gpu["nvidia"]:
        names = ", ".join(
            "{} (sm_{}, {})".format(item["name"], item["capability"].replace(".", ""), item["memory"])
            for item in gpu["nvidia"]
        )
        return Section(
            "gpu",
            "ok",
            title,
            names,
            (_("driver {driver}, up to CUDA {cuda}").format(driver=gpu["driver"], cuda=gpu["cuda"]),),
        )
    if _late(facts, "gpu"):
        return Section("gpu", "info", title, _not_looked_at(facts))
    if gpu["amd"]:
        return Section("gpu", "ok", title, "AMD " + ", ".join(gpu["amd"]))
    if gpu["driver_error"]:
        return Section("gpu", "warning", title, gpu["driver_error"].split("\n")[0])
    return Section(
        "gpu",
        "info",
        title,
        _("none; the official packages need one, anymamba does not"),
    )


def _cuda(facts: Dict[str, Any]) -> Section:
    cuda = facts["cuda"]
    title = _("CUDA toolkit")
    details = ["{}: {}".format(item["path"], item["version"] or item["error"]) for item in cuda["nvccs"]]
    details.append("CUDA_HOME={}".format(cuda["home"] or ""))
    if cuda["hipcc"] or cuda["rocm"]:
        details.append("hipcc: {}, ROCm: {}".format(cuda["hipcc"] or "-", cuda["rocm"] or "-"))
    if cuda["home_without_nvcc"]:
        return Section(
            "cuda",
            "warning",
            title,
            _("CUDA_HOME={home} has no bin/nvcc").format(home=cuda["home"]),
            tuple(details),
        )
    if cuda["used"]:
        return Section(
            "cuda",
            "ok",
            title,
            _("nvcc {version} would be used ({path})").format(
                version=cuda["used"]["version"], path=cuda["used"]["path"]
            ),
            tuple(details),
        )
    if _late(facts, "cuda"):
        return Section("cuda", "info", title, _not_looked_at(facts), tuple(details))
    return Section(
        "cuda",
        "info",
        title,
        _("no nvcc; only needed to compile the official packages"),
        tuple(details),
    )


def _compiler(facts: Dict[str, Any]) -> Section:
    found = facts["compiler"]
    title = _("Compiler")
    if found["gcc"]:
        summary = "g++ {}".format(found["gcc"]["version"])
        if found["limit"]:
            summary += _(" (this nvcc accepts up to {newest})").format(newest=found["limit"] - 1)
        return Section("compiler", "ok", title, summary, (found["gcc"]["path"],))
    if found["msvc"]:
        return Section("compiler", "ok", title, "Visual C++", (found["msvc"],))
    if _late(facts, "compiler"):
        return Section("compiler", "info", title, _not_looked_at(facts))
    return Section(
        "compiler",
        "info",
        title,
        _("none; only needed to compile the official packages"),
    )


def _libraries(facts: Dict[str, Any]) -> Section:
    found = facts["libraries"]
    parts = [
        name for name in ("glibc {}".format(found["glibc"]) if found["glibc"] else "", found["libstdcxx"] or "") if name
    ]
    return Section("libraries", "ok" if parts else "info", _("C libraries"), ", ".join(parts) or "-")


def _triton(facts: Dict[str, Any]) -> Section:
    triton = facts["triton"]
    if triton["installed"]:
        return Section("triton", "ok", "Triton", "{} {}".format(triton["name"], triton["version"]))
    return Section("triton", "info", "Triton", _("not installed; needed for GPU kernels only"))


def _packages(facts: Dict[str, Any]) -> Section:
    packages = facts["packages"]
    title = "mamba-ssm"
    parts = []
    for module, name in (("mamba_ssm", "mamba-ssm"), ("causal_conv1d", "causal-conv1d")):
        package = packages[module]
        parts.append("{} {}".format(name, package["version"] or (_("(no metadata)") if package["installed"] else "-")))
    details = ["{}: {}".format(name, error) for name, error in packages["errors"].items()]
    details += [
        packages[module]["location"] for module in ("mamba_ssm", "causal_conv1d") if packages[module].get("location")
    ]
    if packages["errors"]:
        return Section("packages", "bad", title, ", ".join(parts) + ", " + _("does not work"), tuple(details))
    if packages["working"]:
        return Section("packages", "ok", title, ", ".join(parts) + ", " + _("works"), tuple(details))
    if _late(facts, "packages") and (packages["mamba_ssm"]["installed"] or packages["causal_conv1d"]["installed"]):
        summary = _("{parts}; import {not_looked_at}").format(
            parts=", ".join(parts), not_looked_at=_not_looked_at(facts)
        )
        return Section("packages", "info", title, summary, tuple(details))
    if packages["mamba_ssm"]["installed"] or packages["causal_conv1d"]["installed"]:
        return Section("packages", "warning", title, ", ".join(parts), tuple(details))
    return Section(
        "packages",
        "info",
        title,
        _("not installed; anymamba runs without it"),
        tuple(details),
    )


def _wheel(facts: Dict[str, Any]) -> Section:
    wheel = facts["wheel"]
    title = _("Prebuilt wheel")
    if "reason" in wheel:
        return Section("wheel", "info", title, wheel["reason"])
    reachable = wheel.get("reachable")
    if reachable is None:
        return Section(
            "wheel",
            "ok",
            title,
            _("exists for this torch (--online checks that it can be reached)"),
            tuple(wheel["urls"]),
        )
    failed = [url for url, answer in reachable.items() if answer != "ok"]
    state = "warning" if failed else "ok"
    summary = _("cannot be reached: {reason}").format(reason=reachable[failed[0]]) if failed else _("can be reached")
    return Section("wheel", state, title, summary, tuple(wheel["urls"]))


def _transformers(facts: Dict[str, Any]) -> Section:
    found = facts["transformers"]
    if not found["installed"]:
        return Section("transformers", "info", "transformers", _("not installed"))
    details = ("kernels {}".format(found["kernels"]),) if found["kernels"] else ()
    return Section(
        "transformers", "ok", "transformers", "{}: {}".format(found["version"], transformers.verdict(facts)), details
    )


def _backends(facts: Dict[str, Any]) -> Section:
    found = facts["backends"]
    if _late(facts, "backends"):
        what = _("backends {not_looked_at}; `anymamba backends` lists them").format(not_looked_at=_not_looked_at(facts))
        return Section("backends", "info", "anymamba", what)
    if "error" in found:
        return Section("backends", "info", "anymamba", _("backends: {error}").format(error=found["error"]))
    chosen = backends.chosen(found)
    names = sorted(set(chosen.values()))
    details = []
    for op, table in found["ops"].items():
        for name, entry in table.items():
            details.append(
                "{} {}: {}{}".format(
                    op, name, "ok" if entry.get("ok") else entry.get("reason", "-"), " *" if entry.get("chosen") else ""
                )
            )
    return Section(
        "backends",
        "ok",
        "anymamba",
        ngettext("{count} op, computed by {names}", "{count} ops, computed by {names}", len(chosen)).format(
            count=len(chosen), names=", ".join(names)
        ),
        tuple(details),
    )
