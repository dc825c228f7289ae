"""The results as one table."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from anymamba.bench.cases.case import FLOOR
from anymamba.language import _


def print_table(document: dict[str, Any], console: Console) -> None:
    """One row a contender; ratio is the peer over us, so that more is better, but for the floor, where it is us over it."""
    machine = document["machine"]
    gpus = [gpu["name"] for gpu in machine["gpus"]] if document["device"].startswith("cuda") else []
    where = ", ".join([document["device"], *gpus]) if gpus else f"{machine['cpu']}, {machine['threads']} threads"
    table = Table(title=_("anymamba bench on {where}").format(where=where))
    for heading, justify in (
        (_("case, and who"), "left"),
        (_("median"), "right"),
        (_("fastest to slowest"), "right"),
        (_("against us"), "right"),
        (_("wanted"), "right"),
    ):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for result in document["results"]:
        table.add_row(f"[bold]{escape(result['case'])}[/bold]", "", "", "", "")
        for row in _rows(result):
            table.add_row(*(escape(cell) for cell in row[:-1]), row[-1])
        table.add_section()
    console.print(table)


def _rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    quantity = result["quantity"]
    if not result["gate"]["ok"]:
        return [(_("wrong result, not timed"), "", "", result["gate"]["why"], "")]
    ours = result["ours"]
    served = {name for names in result["backends"].values() for name in names.split(", ")}
    backend = result.get("stepper") or ", ".join(sorted(served)) or "-"
    rate = f"{ours['units'] / ours['median']:.0f} tok/s" if ours["units"] > 1 and quantity == "time" else ""
    if "of_copy_bandwidth" in result:
        rate += _(", {of_copy_bandwidth:.0%} of copy bandwidth").format(of_copy_bandwidth=result["of_copy_bandwidth"])
    rows: list[tuple[str, ...]] = [(f"  anymamba ({backend})", *_spread(ours, quantity), rate, "")]
    for peer, values in result["peers"].items():
        if "missing" in values:
            rows.append((f"  {peer}", "", "", values["missing"], ""))
            continue
        rows.append((f"  {peer}", *_spread(values, quantity), _ratio(peer, values["ratio"]), _wanted(peer, values)))
    return rows


def _spread(values: dict[str, float], quantity: str) -> tuple[str, str]:
    show = _bytes if quantity == "memory" else _seconds
    between = f"{show(values['low'])} .. {show(values['high'])}" if values["runs"] > 1 else ""
    return show(values["median"]), between


def _seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} us"


def _bytes(value: float) -> str:
    return f"{value / 2**30:.2f} GiB"


def _above(peer: str) -> bool:
    """Peers that we can only approach: the ratio is shown the other way round."""
    return peer == FLOOR or peer.startswith("itself")


def _ratio(peer: str, ratio: float) -> str:
    if _above(peer):
        return _("we take {ratio:.3g}x").format(ratio=ratio)
    if ratio <= 1:
        return _("{ratio:.3g}x better").format(ratio=1 / ratio)
    return _("{ratio:.3g}x worse").format(ratio=ratio)


def _wanted(peer: str, values: dict[str, Any]) -> str:
    at_most = values["at_most"]
    if at_most is None:
        return ""
    text = f"<= {at_most:.3g}x" if _above(peer) else f">= {1 / at_most:.3g}x"
    return f"[green]{text}[/green]" if values["met"] else f"[red]{text}[/red]"
