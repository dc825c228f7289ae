"""The recipes of CONTRIBUTING name files and tables that are there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

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
    from anymamba.models import MODEL_TYPES

    assert "`MODEL_TYPES` in `src/anymamba/models/__init__.py`" in TEXT
    for model_type, module in MODEL_TYPES.items():
        assert module == f"anymamba.models.{model_type}", "the file is named like model_type"
        values = vars(importlib.import_module(module)).values()
        assert any(isinstance(value, type) and vars(value).get("model_type") == model_type for value in values)
