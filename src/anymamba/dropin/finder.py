"""How the names are found: a finder at the end of ``sys.meta_path`` serves a name that nobody else has; a guard at its front
watches a real package being imported and serves ours where that one is broken. Standard library only: a .pth file imports this.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from anymamba.dropin import peft_layers
from anymamba.errors import AnymambaWarning
from anymamba.language import _

PACKAGES = Path(__file__).resolve().parent / "packages"
NAMES = ("mamba_ssm", "causal_conv1d", "selective_scan_cuda", "causal_conv1d_cuda")

broken: dict[str, str] = {}
"""Real packages that failed to import in this process -> the exception's own text."""


def spec_of(name: str) -> ModuleSpec:
    """The spec of our module of that name (one of NAMES)."""
    folder = PACKAGES / name
    if folder.is_dir():
        spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    else:
        spec = importlib.util.spec_from_file_location(name, PACKAGES / f"{name}.py")
    assert spec is not None
    return spec


def real_spec(name: str) -> ModuleSpec | None:
    """What the other finders have under that name; None: nothing is installed. A folder without __init__.py does not count."""
    for other in sys.meta_path:
        if isinstance(other, (Finder, Guard)):
            continue
        find = getattr(other, "find_spec", None)
        spec = find(name, None) if find else None
        if spec is not None and spec.loader is not None and spec.origin is not None:
            return spec
    return None


class Finder:
    """The last of all finders: a name comes here only when nothing else is installed under it."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return spec_of(name) if path is None and name in NAMES else None


class Guard:
    """The first of all finders. overridden: names for which ours is served although a real package is there."""

    def __init__(self) -> None:
        self.overridden: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name == peft_layers.MODULE:
            return _taught(name, path)
        if path is not None or name not in NAMES:
            return None
        if name in self.overridden or name in broken:
            return spec_of(name)
        spec = real_spec(name)
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Watched(spec.loader)  # type: ignore[assignment]
            return spec
        # a folder of that name without __init__.py would be imported as an empty package
        return spec_of(name) if importlib.machinery.PathFinder.find_spec(name) is not None else None


class _Watched:
    """The real package's own loader; where it raises, the exception is said and ours is loaded in its place."""

    def __init__(self, loader: object) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        try:
            return self._loader.create_module(spec)  # type: ignore[attr-defined]
        except Exception as error:  # noqa: BLE001 - an extension of another ABI fails here; its words are kept
            _say_broken(spec.name, error)
            return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        if name not in broken:
            try:
                assert module.__spec__ is not None
                module.__spec__.loader = module.__loader__ = self._loader  # type: ignore[assignment]
                self._loader.exec_module(module)  # type: ignore[attr-defined]
                return
            except Exception as error:  # noqa: BLE001 - whatever a broken package raises is the reason that is shown
                _say_broken(name, error)
        for other in [other for other in sys.modules if other.startswith(name + ".")]:
            del sys.modules[other]
        spec = spec_of(name)
        for key in [key for key in vars(module) if not key.startswith("__")]:
            delattr(module, key)
        assert spec.loader is not None
        module.__spec__, module.__loader__, module.__file__ = spec, spec.loader, spec.origin
        if spec.submodule_search_locations is not None:
            module.__path__ = list(spec.submodule_search_locations)
        spec.loader.exec_module(module)


class _Taught:
    """The own loader of a module of PEFT's, which is told of our mixers when it has been loaded."""

    def __init__(self, loader: object) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)  # type: ignore[attr-defined, no-any-return]

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)  # type: ignore[attr-defined]
        peft_layers.teach(module)


def _taught(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    spec = importlib.machinery.PathFinder.find_spec(name, path)
    if spec is not None and spec.loader is not None:
        spec.loader = _Taught(spec.loader)  # type: ignore[assignment]
    return spec


def _say_broken(name: str, error: Exception) -> None:
    broken[name] = f"{type(error).__name__}: {error}"
    warnings.warn(
        _(
            "the installed {name} does not import ({reason}); anymamba's drop-in serves in its place. `anymamba "
            "doctor` explains how to mend it"
        ).format(name=name, reason=broken[name]),
        AnymambaWarning,
        stacklevel=2,
    )


_finder, _guard = Finder(), Guard()


def install(override: Iterable[str] = ()) -> None:
    """Puts both in place; calling it again only adds names to override."""
    names = set(override)
    unknown = names - set(NAMES)
    if unknown:
        raise ValueError(_("not a name of the drop-in: ") + ", ".join(sorted(unknown)))
    _guard.overridden.update(names)
    if _guard not in sys.meta_path:
        sys.meta_path.insert(0, _guard)  # type: ignore[arg-type]
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)  # type: ignore[arg-type]
    if peft_layers.MODULE in sys.modules:
        peft_layers.teach(sys.modules[peft_layers.MODULE])


def remove() -> None:
    """Takes both away again."""
    _guard.overridden.clear()
    for hook in (_guard, _finder):
        if hook in sys.meta_path:
            sys.meta_path.remove(hook)  # type: ignore[arg-type]


def active() -> bool:
    return _finder in sys.meta_path


def overridden() -> set[str]:
    return set(_guard.overridden)


def served_to_transformers(family: str) -> bool:
    """Did that modeling file find the packages (ours or real ones) when it was imported: its functions then wrap one of theirs."""
    module = sys.modules[f"transformers.models.{family}.modeling_{family}"]
    wrapped = getattr(module, "causal_conv1d_fn", None)
    cells = getattr(wrapped, "__closure__", None) or ()
    return any(str(getattr(cell.cell_contents, "__module__", "")).split(".")[0] == "causal_conv1d" for cell in cells)
