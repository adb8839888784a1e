"""Charts as SVG text that stands inside a page and takes the page's colours, light or dark. No pyplot, no display."""

import io
import re
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

# Drawn with these colours, then replaced by the page's CSS variables: matplotlib knows no variables.
INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
FIRST, SECOND, GOOD, BAD = "#050505", "#060606", "#070707", "#080808"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    FIRST: "--first",
    SECOND: "--second",
    GOOD: "--good",
    BAD: "--bad",
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raytrain",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
}


def figure(width: float = 5.2, height: float = 2.9) -> Figure:
    """An empty figure in the house style; inches, at which text is read on a phone without zooming."""
    with matplotlib.rc_context(_STYLE):
        made = Figure(figsize=(width, height), layout="constrained")
        made.add_subplot()
    return made


def svg(drawn: Figure, name: str, description: str) -> Markup:
    """The figure as one <svg> element, safe to stand in HTML as it is.

    name: unique in its page, of letters, digits and dashes; it keeps the ids of several figures apart.
    description: what a screen reader says.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        drawn.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # A <style> would rule the whole page; metadata and comments name matplotlib's site.
    text = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*|<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\g<1>system-ui, sans-serif", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    head = f'<svg class="figure" role="img" aria-label="{Markup.escape(description)}" {view_box.group()}>'
    return Markup(head) + Markup(text[text.index(">") + 1 :].strip())
