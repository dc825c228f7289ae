"""The recipes of CONTRIBUTING name files and tables that are there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

from anymamba.models import FAMILIES

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def named_paths() -> list[str]:
    words = re.findall(r"`([^`\s]+)`", TEXT)
    return sorted({word for word in words if "/" in word and not word.startswith(("http", "--"))})


@pytest.mark.parametrize("path", named_paths())
def test_every_file_and_folder_named_is_there(path: str) -> None:
    # <name> stands for whatever is added: something like it exists already
    pattern = re.sub(r"<\w+>", "*", path.rstrip("/"))
    places = [ROOT, ROOT / "src" / "anymamba"]
    assert any(any(place.glob(pattern)) for place in places), f"CONTRIBUTING names {path}"


@pytest.mark.parametrize(
    ("name", "module"), re.findall(r"`([A-Z][A-Z_]+)` in\s+`src/([\w/.]+)\.py`", TEXT), ids=lambda value: value.split("/")[-1]
)
def test_every_table_named_is_in_its_file(name: str, module: str) -> None:
    loaded = importlib.import_module(module.replace("/", ".").removesuffix(".__init__"))
    assert hasattr(loaded, name), f"CONTRIBUTING says that {name} is in {module}.py"


def test_a_model_family_is_what_the_recipe_says() -> None:
    assert "`FAMILIES` in `src/anymamba/models/__init__.py`" in TEXT
    for model_type, module in FAMILIES.items():
        assert module == f"anymamba.models.{model_type}", "the file is named like model_type"
        last = ast.parse((ROOT / "src" / (module.replace(".", "/") + ".py")).read_text("utf-8")).body[-1]
        assert isinstance(last, ast.Assign) and ast.unparse(last.targets[0]) == "FAMILY", "the file ends in FAMILY"
