"""Which package an import finds: ours when there is none, the real one when it works, ours with a warning when it is broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import anymamba.dropin
from anymamba.dropin import finder, report, site_file
from anymamba.errors import AnymambaWarning

WORKING = "__version__ = '9.9'\n"
BROKEN = "import causal_conv1d_of_another_abi_undefined_symbol_ZN3c104cuda\n"


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with a package named causal_conv1d; its __init__.py is the test's to write."""
    (tmp_path / "causal_conv1d").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "causal_conv1d" / "__init__.py"


def test_a_working_real_package_wins(real: Path, dropin: None) -> None:
    real.write_text(WORKING)
    import causal_conv1d

    assert causal_conv1d.__version__ == "9.9" and not hasattr(causal_conv1d, "__anymamba__")
    assert type(causal_conv1d.__spec__.loader).__name__ == "SourceFileLoader"
    assert report.package("causal_conv1d")["state"] == "real"


def test_unless_told_otherwise(real: Path, dropin: None) -> None:
    real.write_text(WORKING)
    anymamba.dropin(override=["causal_conv1d"])
    import causal_conv1d

    assert causal_conv1d.__anymamba__ and report.package("causal_conv1d")["state"] == "anymamba"


def test_a_broken_real_package_is_named_and_replaced(real: Path, dropin: None) -> None:
    real.write_text("half = 'done'\n" + BROKEN)
    with pytest.warns(AnymambaWarning, match="causal_conv1d does not import .*undefined_symbol_ZN3c104cuda"):
        import causal_conv1d
    assert causal_conv1d.__anymamba__ and not hasattr(causal_conv1d, "half")
    from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states

    assert causal_conv1d_varlen_states.__module__ == "causal_conv1d.causal_conv1d_varlen"
    found = report.package("causal_conv1d")
    assert found["state"] == "broken" and "undefined_symbol" in found["reason"] and found["file"] == str(real)


def test_an_empty_folder_of_that_name_is_no_package(real: Path, dropin: None) -> None:
    import causal_conv1d

    assert causal_conv1d.__anymamba__


def test_installing_twice_and_removing_leaves_the_path_as_it_was() -> None:
    before = list(sys.meta_path)
    anymamba.dropin()
    anymamba.dropin()
    assert len(sys.meta_path) == len(before) + 2 and isinstance(sys.meta_path[-1], finder.Finder)
    anymamba.dropin.remove()
    assert sys.meta_path == before
    with pytest.raises(ValueError):
        anymamba.dropin(override=["numpy"])


def test_a_late_call_says_what_to_do(monkeypatch: pytest.MonkeyPatch, dropin: None) -> None:
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "transformers.models.mamba.modeling_mamba", ModuleType("modeling_mamba"))
    with pytest.warns(AnymambaWarning, match=r"modeling_mamba\b.* before anymamba\.dropin"):
        anymamba.dropin()


def test_status_counts_calls_backends_and_fallbacks(dropin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from causal_conv1d import causal_conv1d_fn

    from anymamba.backends import dispatch
    from anymamba.dropin import counting

    counting.forget()
    x, weight = torch.randn(1, 4, 6), torch.randn(4, 3)
    causal_conv1d_fn(x, weight)
    with dispatch.use_backend("torch"):
        causal_conv1d_fn(x, weight)
    status = anymamba.dropin.status()
    assert status["calls"] == {"causal_conv1d.causal_conv1d_interface.causal_conv1d_fn": 2}
    assert status["served"] == {"causal_conv1d_fn": {"cpu": 1, "torch": 1}}
    assert status["fell_back"] == []  # torch was asked for by name
    monkeypatch.setattr("anymamba.errors._said", set())
    monkeypatch.setattr("anymamba.backends.cpu.available", lambda: (False, "switched off"))
    dispatch.forget()
    with pytest.warns(AnymambaWarning):
        causal_conv1d_fn(x, weight)
    dispatch.forget()
    fell_back = anymamba.dropin.status()["fell_back"]
    assert [(row["op"], row["backend"], row["count"]) for row in fell_back] == [("causal_conv1d_fn", "torch", 1)]
    assert "switched off" in fell_back[0]["reason"]


def test_what_each_transformers_reaches() -> None:
    assert report.transformers_reach("5.15.0")["reached"] and report.transformers_reach("5.23.0")["reached"]
    import torch

    assert report.transformers_reach("5.14.1")["reached"] == torch.cuda.is_available()
    assert not report.transformers_reach("4.57.6")["reached"] and "metadata" in report.transformers_reach("4.57.6")["how"]


def test_names_to_override_may_be_an_iterator(dropin: None) -> None:
    finder.install(name for name in ("mamba_ssm",))
    assert finder.overridden() == {"mamba_ssm"}


def run_in(folder: Path, code: str) -> str:
    """What a program prints when that folder is a site folder of its interpreter."""
    start = f"import site; site.addsitedir({str(folder)!r})\n"
    done = subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_enabled_for_an_environment_and_disabled_again(tmp_path: Path) -> None:
    (tmp_path / "other.pth").write_text("# somebody else's\n")
    code = "import importlib.util as u, sys; print(bool(u.find_spec('mamba_ssm')), 'torch' in sys.modules)"
    assert run_in(tmp_path, code) == "False False"
    file = site_file.enable(tmp_path)
    assert site_file.status(tmp_path) == {"file": str(file), "enabled": True}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.pth", file.name]
    assert run_in(tmp_path, code) == "True False"
    assert run_in(tmp_path, "import mamba_ssm; print(mamba_ssm.__version__)") == "2.3.2.post1+anymamba"
    (tmp_path / "mamba_ssm").mkdir()
    (tmp_path / "mamba_ssm" / "__init__.py").write_text(WORKING)
    assert run_in(tmp_path, "import mamba_ssm; print(mamba_ssm.__version__)") == "9.9"
    site_file.enable(tmp_path, override=("mamba_ssm",))
    assert run_in(tmp_path, "import mamba_ssm; print(mamba_ssm.__version__)") == "2.3.2.post1+anymamba"
    assert site_file.disable(tmp_path) == file
    assert site_file.disable(tmp_path) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mamba_ssm", "other.pth"]


def test_no_fake_distribution() -> None:
    from importlib import metadata

    anymamba.dropin()
    try:
        for name in ("mamba-ssm", "causal-conv1d"):
            with pytest.raises(metadata.PackageNotFoundError):
                metadata.version(name)
    finally:
        anymamba.dropin.remove()
