"""Which versions go together: the table is sound, what is proposed fits the machine by the table, and its commands can be pasted."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from anymamba.cli import main
from anymamba.doctor.compat import page, report, table
from anymamba.doctor.compat.commands import commands
from anymamba.doctor.compat.host import Host, number
from anymamba.doctor.compat.requirements import of_path, written_for
from anymamba.doctor.compat.trios import Trio, Wish, trios, why_none
from anymamba.doctor.compat.wheels import Build, wheel_for
from anymamba.installer.plan import make_plan
from anymamba.language import set_language

MACHINES = Path(__file__).resolve().parents[1] / "installer" / "machines"
WHEEL = re.compile(r"(mamba_ssm|causal_conv1d)-([\w.]+)%2Bcu(\d+)torch([\d.]+)cxx11abi(TRUE|FALSE)-cp3(\d+)-cp3\d+-linux_(\w+)\.whl$")


@pytest.fixture(autouse=True)
def english() -> Any:
    set_language("en")
    yield
    set_language(None)


def machine(name: str) -> dict[str, Any]:
    image = table.image(name)
    return copy.deepcopy(image["facts"]) if image else json.loads((MACHINES / f"{name}.json").read_text("utf-8"))


EVERY = [*table.images(), *sorted(path.stem for path in MACHINES.glob("*.json"))]


def linux(
    torch: str | None = "2.8.0+cu128", gpu: str | None = "8.9", python: int = 12, machine_: str = "x86_64", **system: Any
) -> dict[str, Any]:
    """Facts of a Linux machine without nvcc; torch None for none, gpu None for none."""
    facts = machine("colab")
    facts["system"].update(container=None, machine=machine_, cores=16, memory_gb=64.0, name="Ubuntu 24.04", **system)
    facts["python"] = {"version": f"3.{python}.1", "minor": python, "environment": "venv", "pip": "25.0"}
    facts["gpu"]["nvidia"] = [{"name": "GPU", "capability": gpu, "memory": "24 GiB"}] if gpu else []
    facts["torchvision"] = None
    facts["cuda"].update(nvccs=[], used=None)
    if torch is None:
        facts["torch"], facts["triton"] = {"installed": False}, {"installed": False}
        return facts
    row = table.torch("{}.{}".format(*number(torch)))
    assert row is not None
    build = torch.split("+")[1]
    cuda = f"{build[2:4]}.{build[4:]}" if build.startswith("cu") else None
    facts["torch"] = {"installed": True, "version": torch, "cuda": cuda, "hip": None, "kind": "cuda" if cuda else "cpu"}
    facts["torch"]["abi"] = row.abi_of.get(build, row.abi) == "TRUE"
    facts["triton"] = {"installed": True, "name": "triton", "version": row.triton}
    return facts


def check(facts: dict[str, Any], trio: Trio) -> None:
    """What must hold of every proposal, by the table."""
    host = Host(facts)
    assert table.fits(trio.conv.version, trio.mamba.conv)
    if "triton" in trio.mamba.needs:
        assert trio.triton and table.fits(trio.triton, trio.mamba.needs["triton"])
    if trio.torch_index:
        row = table.torch("{}.{}".format(*number(trio.torch)))
        assert row and trio.torch_index in row.cuda and row.pythons[0] <= trio.python <= row.pythons[1]
        assert all(table.torch_runs(trio.torch_index, arch) for arch in host.architectures)
        assert not host.driver_cuda or int(trio.torch_index[2:4]) <= host.driver_cuda
        assert trio.torch == f"{row.newest}+{trio.torch_index}"
    else:
        assert trio.torch == facts["torch"]["version"] and trio.python == host.python_minor
    if trio.route == "source":
        assert trio.addresses == {}
        return
    for package, release in (("mamba-ssm", trio.mamba), ("causal-conv1d", trio.conv)):
        address = trio.addresses[package]
        assert f"/releases/download/{release.tag}/" in address
        found = WHEEL.search(address)
        assert found, address
        module, version, cuda, torch, abi, python, processor = found.groups()
        assert (module, version) == (table.MODULES[package], release.version)
        assert (torch, int(python), processor) == ("{}.{}".format(*number(trio.torch)), trio.python, host.processor)
        row = next(item for item in release.wheels if (item.torch, item.machine) == (torch, processor) and cuda in item.cuda)
        assert abi in row.abi and row.pythons[0] <= int(python) <= row.pythons[1] and not row.nightly
        codes = release.codes(release.nvcc[cuda[:2]])
        assert all(table.runs(codes, arch) for arch in host.architectures)


def test_the_table_is_sound() -> None:
    document = table.document()
    known = {row.minor for row in table.torches()}
    assert {item["source"] for item in document["images"]} <= set(document["sources"])
    for package in table.PACKAGES:
        releases = table.releases(package)
        assert [table.numbers(item.version) for item in releases] == sorted(table.numbers(item.version) for item in releases)
        assert table.PREFERRED[package] in {item.version for item in releases}
        for item in releases:
            assert item.tag.startswith("v") and item.codes("12.8") and set(item.archs) >= {"always"}
            for row in item.wheels:
                assert row.torch in known and row.machine in ("x86_64", "aarch64") and set(row.abi) <= {"TRUE", "FALSE"}
                assert all(name[:2] in item.nvcc for name in row.cuda) and row.pythons[0] <= row.pythons[1]
    for release in table.releases("mamba-ssm"):
        assert any(table.fits(conv.version, release.conv) for conv in table.releases("causal-conv1d"))
    for item in document["built"]:
        assert table.release("mamba-ssm", item["mamba-ssm"]) and table.release("causal-conv1d", item["causal-conv1d"])


@pytest.mark.parametrize(
    ("package", "version", "build", "processor", "there"),
    [
        # names of files that stand on the release pages, and of some that do not
        ("mamba-ssm", "2.2.2", Build("2.1", (12, 1), "FALSE", 10), "x86_64", "+cu122torch2.1cxx11abiFALSE-cp310-"),
        ("mamba-ssm", "1.1.1", Build("2.0", (11, 8), "FALSE", 9), "x86_64", "+cu118torch2.0cxx11abiFALSE-cp39-"),
        ("mamba-ssm", "2.2.4", Build("2.5", (12, 4), "FALSE", 12), "x86_64", "+cu12torch2.5cxx11abiFALSE-cp312-"),
        ("mamba-ssm", "2.3.1", Build("2.10", (13, 0), "TRUE", 13), "aarch64", "+cu13torch2.10cxx11abiTRUE-cp313-"),
        ("causal-conv1d", "1.6.1", Build("2.10", (12, 8), "TRUE", 12), "x86_64", "+cu12torch2.10cxx11abiTRUE-cp312-"),
        ("causal-conv1d", "1.4.0", Build("2.3", (12, 1), "FALSE", 11), "x86_64", "+cu122torch2.3cxx11abiFALSE-cp311-"),
        ("causal-conv1d", "1.6.0", Build("2.9", (12, 8), "TRUE", 12), "x86_64", None),
        ("causal-conv1d", "1.7.0", Build("2.10", (12, 8), "TRUE", 12), "x86_64", None),
        ("mamba-ssm", "2.2.2", Build("2.4", (12, 1), "FALSE", 10), "x86_64", None),
        ("mamba-ssm", "2.3.1", Build("2.11", (12, 8), "TRUE", 12), "x86_64", None),
        ("mamba-ssm", "2.3.1", Build("2.10", (12, 8), "TRUE", 14), "x86_64", None),
        ("mamba-ssm", "2.2.6.post3", Build("2.7", (12, 8), "TRUE", 12), "aarch64", None),
        ("mamba-ssm", "1.1.1", Build("2.0", (12, 1), "FALSE", 9), "x86_64", None),
    ],
)
def test_which_files_are_published(package: str, version: str, build: Build, processor: str, there: str | None) -> None:
    release = table.release(package, version)
    assert release is not None
    file, reason = wheel_for(Host(linux(machine_=processor)), release, build)
    assert reason
    assert file is None if there is None else there in (file or ""), (file, reason)


@pytest.mark.parametrize("name", EVERY)
def test_every_machine_gets_what_fits_it(name: str) -> None:
    facts = machine(name)
    found = trios(Host(facts))
    assert bool(found) != bool(why_none(Host(facts)))
    for trio in found:
        if not trio.wsl:
            check(facts, trio)


BUILDS = ["1.13.1+cu117", "2.1.2+cu118", "2.4.1+cu121", "2.6.0+cu126", "2.8.0+cu129", "2.10.0+cu130", "2.14.1+cu132", "2.9.1+cpu"]


@pytest.mark.parametrize("torch", [None, *BUILDS])
def test_every_combination_is_answered_and_fits(torch: str | None) -> None:
    """Pythons, processors, GPUs from Pascal to Blackwell, old and new systems."""
    for python, processor, gpu, glibc in itertools.product(
        (8, 11, 12, 14), ("x86_64", "aarch64"), (None, "6.1", "7.0", "7.5", "9.0", "10.3", "12.0"), ("2.31", "2.39")
    ):
        facts = linux(torch, gpu, python, processor)
        facts["libraries"] = {"glibc": glibc}
        host = Host(facts)
        found = trios(host)
        for trio in found:
            check(facts, trio)
            assert commands(host, trio) and trio.why
        if gpu == "6.1":
            assert found == [] and "6.1" in (why_none(host) or "")
        elif processor == "x86_64":
            assert found, (torch, python, gpu, glibc)


def test_what_is_there_comes_first() -> None:
    first = trios(Host(linux("2.9.1+cu130")))[:2]
    assert [(trio.keeps_torch, trio.route, trio.mamba.version) for trio in first] == [
        (True, "wheel", "2.3.1"),
        (True, "wheel", "2.3.2.post1"),
    ]
    assert first[1].needs["tilelang"] == "==0.1.8"
    # quack-kernels that fits the nvidia-cutlass-dsl of today
    assert any('"quack-kernels==0.6.1"' in line for line in commands(Host(linux("2.9.1+cu130")), first[1]))
    # torch 2.8 holds triton at 3.4, and 2.3.2.post1 needs 3.5
    assert {trio.mamba.version for trio in trios(Host(linux("2.8.0+cu128"))) if trio.keeps_torch} == {"2.3.1"}


def test_old_gpus_and_systems() -> None:
    volta = trios(Host(linux("2.9.1+cu128", "7.0")))
    assert all(trio.torch_index != "cu128" and trio.mamba.version != "2.3.2.post1" for trio in volta)
    focal = linux("2.5.1+cu124")
    focal["libraries"]["glibc"] = "2.31"
    best = trios(Host(focal))[0]
    assert (best.mamba.version, best.conv.version, best.route) == ("2.2.4", "1.5.0.post8", "wheel")
    assert best.needs["transformers"] == "<5"


def test_images_by_their_facts() -> None:
    colab = trios(Host(machine("colab")))
    assert colab[0].torch.startswith("2.10.0") and colab[0].torchvision and "restart" in " ".join(colab[0].cautions)
    assert all(line.startswith("!") for line in commands(Host(machine("colab")), colab[0]))
    assert [trio.route for trio in colab][-1] == "source"  # two cores take long
    assert trios(Host(machine("colab-a100")))[0].route == "source"  # twelve do not
    assert trios(Host(machine("kaggle-p100"))) == [] and "6.0" in (why_none(Host(machine("kaggle-p100"))) or "")
    for name in (item for item in table.images() if item.startswith("ngc")):
        (trio,) = trios(Host(machine(name)))
        assert trio.keeps_torch and trio.route == "source" and trio.toolkit and trio.toolkit.nvcc
        assert not any("torch==" in line for line in commands(Host(machine(name)), trio))


def test_windows_goes_by_wsl() -> None:
    host = Host(machine("windows_rtx4090_cu124"))
    first, second = trios(host)
    assert first.wsl and first.route == "wheel" and commands(host, first)[0].startswith("wsl --install")
    assert second.route == "source" and any(line.startswith("anymamba install ") for line in commands(host, second))


def shells() -> list[tuple[str, list[str]]]:
    """(what for, lines for bash) of every machine and every installer."""
    made = []
    for name in EVERY:
        for environment in ("venv", "uv", "poetry", "conda (base)"):
            facts = machine(name)
            facts["python"]["environment"] = environment
            host = Host(facts)
            if host.kind != "windows":
                made += [(f"{name} {environment} {trio.torch}", commands(host, trio)) for trio in trios(host)]
    for environment, wish in itertools.product(("venv", "uv", "conda (x)"), (Wish(("1.1.1",)), Wish(("2.2.2",), (), ("2.1",), (9,)))):
        for facts in (linux(None), machine("colab"), linux("2.13.0+cu130")):
            facts["python"]["environment"] = environment
            made += [(f"{environment} {trio.torch}", commands(Host(facts), trio)) for trio in trios(Host(facts), wish)]
    return made


def test_commands_can_be_pasted(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    lines = []
    for what, typed in shells():
        text = "\n".join(line.removeprefix("!") for line in typed)
        assert not re.search(r"[{}]|FILE|\.\.\.", text), text
        tools = {"poetry": "poetry run pip install", "uv ": "uv pip install"}
        wanted = next((tool for word, tool in tools.items() if f" {word}" in f" {what} "), None)
        if wanted and "uv venv" not in text:
            assert wanted in text and not re.search(rf"(?<!run )(?<!uv )pip install(?<!{wanted})", text), text
        lines.append(text)
    assert len(lines) > 80
    if bash:
        (tmp_path / "all.sh").write_text("\n".join(lines), "utf-8")
        done = subprocess.run([bash, "-n", str(tmp_path / "all.sh")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", EVERY)
def test_the_installer_agrees(name: str) -> None:
    """A wheel for the torch that is there is the one that the installer would take, and it compiles where none is."""
    kept = [trio for trio in trios(Host(machine(name))) if trio.keeps_torch and not trio.wsl]
    if not kept:
        return
    versions: dict[str, str | None] = {"mamba-ssm": kept[0].mamba.version, "causal-conv1d": kept[0].conv.version}
    plan = make_plan(machine(name), versions)
    if plan.blocked:  # no compiler on that machine: the trio says that it has to be installed first
        assert kept[0].route == "source"
        return
    assert plan.route == kept[0].route
    fetched = {step.package: step.address for step in plan.steps if step.kind == "download"}
    assert fetched == kept[0].addresses


def test_the_installer_knows_the_newest_release() -> None:
    plan = make_plan(machine("linux_h100_cu130"), {"mamba-ssm": "2.3.2.post1", "causal-conv1d": None})
    assert plan.blocked is None and plan.route == "wheel"
    needed = next(step for step in plan.steps if step.kind == "dependencies").commands[0]
    assert {"tilelang==0.1.8", "apache-tvm-ffi<=0.1.9", "quack-kernels==0.6.1"} <= set(needed)
    assert not any(word.startswith(("torch", "triton")) for word in needed)
    for name in ("colab", "ngc-25.10"):
        plan = make_plan(machine(name), {"mamba-ssm": "2.3.2.post1"})
        assert plan.route == "source" and plan.blocked is None


ONE = ("mamba-ssm==1.1.1\ncausal-conv1d==1.1.1\ntorch==2.1.1+cu118\n", ["1.1.1"])


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ONE,
        ("# mamba-ssm==9\nnumpy\nmamba_ssm == 2.2.2   # the newest\n", ["2.2.2"]),
        ("dependencies:\n  - python=3.10\n  - pytorch=2.1\n  - pip:\n    - mamba-ssm==1.2.0.post1\n", ["1.2.0.post1"]),
        ('[project]\ndependencies = ["torch>=2.4", "mamba-ssm[causal-conv1d]>=2.3.1"]\n', ["2.3.1", "2.3.2.post1"]),
        ('[tool.poetry.dependencies]\nmamba-ssm = "2.2.2"\n', ["2.2.2"]),
        ('[tool.poetry.dependencies]\nmamba-ssm = {version = "^2.3", optional = true}\n', ["2.3.0", "2.3.1", "2.3.2.post1"]),
        ("RUN pip install mamba-ssm==2.2.4 --no-build-isolation && pip install 'causal-conv1d>=1.4.0'\n", ["2.2.4"]),
        ("x/mamba_ssm-2.2.2%2Bcu122torch2.1cxx11abiFALSE-cp310-cp310-linux_x86_64.whl\n", ["2.2.2"]),
        ("mamba-ssm @ git+https://github.com/state-spaces/mamba.git@v1.2.2\n", ["1.2.2"]),
        ("install_requires=['mamba_ssm (>=2.2,<2.2.4)']\n", ["2.2.0", "2.2.1", "2.2.2", "2.2.3.post2"]),
        ("mamba-ssm @ git+https://github.com/state-spaces/mamba@v2.2.2\n", ["2.2.2"]),
        ("  - `pip install -e causal_conv1d>=1.1.0`\n  - `pip install -e mamba-1p1p1`\n", ["1.1.1"]),
        ('[[package]]\nname = "mamba-ssm"\nversion = "2.2.2"\nsource = { registry = "x" }\n', ["2.2.2"]),
        ('"mamba-ssm": {\n  "version": "==2.2.4"\n}\n', ["2.2.4"]),
        ("Package    Version\n---------- -------\nmamba-ssm  2.2.2\ntorch      2.3.1+cu121\n", ["2.2.2"]),
        ("mamba-ssm==2.2.9\n", []),
        ("numpy\npandas\nmamba-sum==1.0\npytorch-lightning==1.9\n", []),
    ],
)
def test_what_a_program_was_written_for(text: str, versions: list[str]) -> None:
    found = written_for(text)
    assert list(found.mamba) == versions
    assert found.certain == (len(versions) == 1) and found.reason
    assert (found.line > 0) == ("mamba" in text.replace("mamba-sum", ""))


def test_what_is_not_said_is_concluded() -> None:
    """From the causal-conv1d and the torch that the file names; never called certain."""
    old = written_for("causal_conv1d>=1.1.0,<1.2\ntorch==2.1.0\n")
    assert set(old.mamba) <= {item.version for item in table.releases("mamba-ssm") if table.numbers(item.version) < (1, 2)}
    assert old.mamba and not old.certain and "causal-conv1d >=1.1.0,<1.2" in old.reason
    steps = ("conda create -n u python=3.10 -y", "pip install torch==2.0.1", "pip install causal-conv1d==1.1.1` and `pip install mamba-ssm")
    readme = written_for("".join(f"- `{step}`\n" for step in steps))
    assert readme.mamba and all(table.numbers(version) < (1, 2) for version in readme.mamba) and readme.wish().pythons == (10,)
    commit = written_for("mamba_ssm @ git+https://github.com/state-spaces/mamba.git@31f3d7baba69d0ccad16\ntorch==2.9.1\n")
    assert commit.mamba and not commit.certain
    middle = written_for("torch==2.4.1\nmamba_ssm\n")
    assert middle.mamba and all(table.numbers(version) >= (2, 2, 3) for version in middle.mamba) and not middle.certain


def test_a_program_is_told_by_its_folder(tmp_path: Path) -> None:
    """By the file that names a version; else by what its code imports, which is not called certain."""
    (tmp_path / "requirements.txt").write_text("einops\nmamba_ssm\ntorch==2.3.1\n")
    (tmp_path / "models").mkdir()
    code = tmp_path / "models" / "block.py"
    code.write_text("import torch\nfrom mamba_ssm.ops.triton.layernorm import RMSNorm\n")
    found = of_path(str(tmp_path))
    assert found.mamba and all(version.startswith("1.") for version in found.mamba) and not found.certain
    assert "layernorm" in found.reason and "block.py" in found.reason and "line 2" in found.reason
    code.write_text("from mamba_ssm.modules.mamba2 import Mamba2\n")
    assert all(version.startswith("2.") for version in of_path(str(tmp_path)).mamba)
    assert of_path(str(code)).mamba[0] == "2.0.0"
    (tmp_path / "README.md").write_text("## Setup\n```\npip install mamba-ssm==1.2.0.post1\n```\n")
    found = of_path(str(tmp_path))
    assert found.certain and list(found.mamba) == ["1.2.0.post1"] and found.file.endswith("README.md") and found.line == 3
    with pytest.raises(OSError):
        of_path(str(tmp_path / "nothing"))


def test_a_program_is_given_what_it_names() -> None:
    program = written_for(ONE[0])
    answer = report.Answer(machine("colab"), program, "requirements.txt")
    assert answer.fits
    for trio in answer.trios:
        assert (trio.mamba.version, trio.conv.version, trio.torch) == ("1.1.1", "1.1.1", "2.1.2+cu118")
        assert trio.python == 11 and trio.needs["numpy"] == "<2"
        check(machine("colab"), trio)
    # what no release is, is not taken for anything
    for nothing in ("torch==1.9.0", "causal-conv1d==9.9", "python==2.7"):
        assert not report.Answer(machine("colab"), written_for("mamba-ssm>=1.1\n" + nothing + "\n")).fits, nothing
    # an RTX 5090 runs nothing that old
    answer = report.Answer(machine("wsl2_rtx5090_cu128"), program, "requirements.txt")
    assert not answer.fits and "12.0" in (answer.none or "")


def test_versions_compare_as_pip_has_them() -> None:
    assert table.fits("2.2.6.post3", ">=2.2.6") and not table.fits("2.2.6.post3", "==2.2.6")
    assert table.fits("1.5.0.post8", "<1.5.1") and table.fits("2.10.0", ">2.9") and not table.fits("2.10.0", "<2.9")
    assert table.fits("2.3.1", "~=2.2") and not table.fits("3.0", "~=2.2") and not table.fits("2.3.0", "~=2.2.0")
    assert table.fits("2.1.2", "==2.1.*") and not table.fits("2.1.2", "!=2.1.*") and table.fits("1.0", "")


def test_as_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text("mamba-ssm==2.2.2\n", "utf-16")  # PowerShell's >
    assert main(["doctor", "--compat", str(path), "--for", "colab", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["program"]["mamba-ssm"] == ["2.2.2"] and document["program"]["line"] == 1
    assert document["trios"][0]["mamba-ssm"] == "2.2.2" and document["trios"][0]["commands"]
    assert document["table"]["checked"] and document["table"]["sources"]
    assert main(["doctor", str(path), "--compat", "--for", str(MACHINES / "linux_h100_cu130.json")]) == 0
    assert "written for mamba-ssm 2.2.2" in capsys.readouterr().out
    assert main(["doctor", "--compat", "--for", "kaggle-p100"]) == 1
    out = capsys.readouterr().out
    assert "6.0" in out and "anymamba run" in out
    assert main(["doctor", "--compat"]) in (0, 1)  # this machine


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--compat", "--for", "no-such-machine"], "colab"),
        (["--compat", "no-such-file.txt"], "no-such-file.txt"),
        (["--for", "colab"], "--compat"),
        (["--compat", "a.txt", "b.txt"], "one file"),
    ],
)
def test_wrong_usage(arguments: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *arguments]) == 2
    captured = capsys.readouterr()
    assert word in captured.err and captured.out == ""


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_documentation_is_the_table(language: str) -> None:
    """Run `python -m anymamba.doctor.compat.page docs` after a change of the table."""
    text = page.page(language)
    assert (Path(__file__).resolve().parents[2] / "docs" / language / "versions.md").read_text("utf-8") == text
    assert all(f"| {item.version} |" in text for package in table.PACKAGES for item in table.releases(package))


def test_both_languages(capsys: pytest.CaptureFixture[str]) -> None:
    for name in EVERY:
        set_language("en")
        english = report.render(report.Answer(machine(name)))
        set_language("zh")
        chinese = report.render(report.Answer(machine(name)))
        assert not re.search("[\u4e00-\u9fff]", english) and re.search("[\u4e00-\u9fff]", chinese)
        assert len(english.split("\n")) == len(chinese.split("\n"))
