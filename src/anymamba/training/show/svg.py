"""Curves as SVG: text stays text, so any name of a run is shown in any script."""

from __future__ import annotations

from xml.sax.saxutils import escape

from anymamba.training.show.axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, label


def svg(axes: Axes) -> str:
    """The document."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#374151">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for value in axes.y_ticks:
        y = axes.y(value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label(value)}</text>')
    for value in axes.x_ticks:
        x = axes.x(value)
        parts.append(f'<line x1="{x:.1f}" y1="{bottom}" x2="{x:.1f}" y2="{bottom + 5}" stroke="#9ca3af"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 20}" text-anchor="middle">{label(value)}</text>')
    parts.append(f'<path d="M{LEFT} {TOP}V{bottom}H{right}" fill="none" stroke="#9ca3af"/>')
    middle = (TOP + bottom) / 2
    parts.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(axes.x_name)}</text>')
    parts.append(f'<text x="18" y="{middle}" text-anchor="middle" transform="rotate(-90 18 {middle})">{escape(axes.y_name)}</text>')
    for number, curve in enumerate(axes.curves):
        points = " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in curve.points)
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        style = f'fill="none" stroke="{curve.colour}" stroke-width="1.8" stroke-linejoin="round"{dash}'
        parts.append(f"<polyline {style} points=\"{points}\"><title>{escape(curve.name)}</title></polyline>")
        if len(curve.points) == 1:
            (x, y), = curve.points
            parts.append(f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3" fill="{curve.colour}"/>')
        y = TOP + 14 + 18 * number
        parts.append(f'<line x1="{right - 34}" y1="{y - 4}" x2="{right - 8}" y2="{y - 4}" {style}/>')
        parts.append(f'<text x="{right - 42}" y="{y}" text-anchor="end">{escape(curve.name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
