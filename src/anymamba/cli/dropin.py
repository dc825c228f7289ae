"""anymamba dropin: mamba_ssm and causal_conv1d for every program of this environment, on and off, and what stands behind the names."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from anymamba.language import _


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("enable", "disable", "status"),
        help=_(
            "enable: for every program of this environment; disable: undo that; status: what stands behind the names "
            "here"
        ),
    )
    parser.add_argument("--site-dir", metavar="DIR", help=_("site-packages folder; default: this Python's"))
    parser.add_argument(
        "--override",
        action="store_true",
        help=_("with enable: also where real packages are installed and work"),
    )
    parser.add_argument("--json", action="store_true", help=_("print one JSON document"))


def run(arguments: argparse.Namespace) -> int:
    from anymamba.dropin import finder, site_file

    if arguments.action == "enable":
        file = site_file.enable(arguments.site_dir, finder.NAMES if arguments.override else ())
        return _done(arguments, True, str(file), _("enabled: wrote {file}").format(file=file))
    if arguments.action == "disable":
        removed = site_file.disable(arguments.site_dir)
        text = _("was not enabled") if removed is None else _("disabled: removed {file}").format(file=removed)
        return _done(arguments, False, str(site_file.path(arguments.site_dir)), text)
    return _status(arguments)


def _done(arguments: argparse.Namespace, enabled: bool, file: str, text: str) -> int:
    print(json.dumps({"enabled": enabled, "file": file}) if arguments.json else text)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    """0, or 1 when a real package is installed that does not import."""
    from anymamba.dropin import report, site_file

    enabled = site_file.status(arguments.site_dir)
    packages = {name: _tried(name) for name in ("causal_conv1d", "mamba_ssm")}
    reach = report.transformers_reach()
    if arguments.json:
        document: dict[str, Any] = {"enabled": enabled, "packages": packages, "transformers": reach}
        json.dump(document, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        word = _("enabled") if enabled["enabled"] else _("not enabled")
        print(_("for every program of this environment") + f": {word} ({enabled['file']})")
        for name, package in packages.items():
            print(f"{name}: {package['state']}, {package['version'] or '-'}, {package['file'] or '-'}")
            if package["reason"]:
                print(f"    {package['reason']}")
        print(f"transformers {reach['version'] or '-'}: {reach['how']}")
    return int(any(package["state"] == "broken" for package in packages.values()))


def _tried(name: str) -> dict[str, Any]:
    """What an import of that name gives in this environment; a real package is really imported, so that a broken one shows."""
    import importlib
    import warnings

    from anymamba.dropin import finder, report

    if finder.real_spec(name) is None:
        return report.package(name)
    active = finder.active()
    finder.install()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(name)
        return report.package(name)
    finally:
        if not active:
            finder.remove()
