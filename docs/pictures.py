"""The picture at the head of the README: `python docs/pictures.py` writes `docs/pictures/compose-*.svg` anew.

Each panel draws the code that stands above it. There is a file for light pages and one for dark ones.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import schedules
from schedules import as_schedule, tabulate
from schedules.drawing import apart, members

FOLDER = Path(__file__).parent / "pictures"
STEPS = 1000
RAMPS = ("cosine", "linear", "one_minus_sqrt", "exponential")


class Panel(NamedTuple):
    """Expressions, each in the colour of its line; or one expression of a `shape`, whose lines have labels."""

    code: Sequence[str]
    shapes: Sequence[str] = ()

    def lines(self) -> list[tuple[str, np.ndarray]]:
        """The label, if any, and the values of every line."""
        if self.shapes:
            return [(name, values(self.code[0], shape=getattr(schedules, name))[0]) for name in self.shapes]
        return [("", line) for code in self.code for line in values(code)]


PANELS = (
    Panel(["shape(1, 0.01, 1000)"], RAMPS),
    Panel(["warmup(cosine(1, 0, 900), 100)", "cooldown(warmup(1, 100), 700, 300)"]),
    Panel(["cosine(1, 0, 1000)\n  * triangular(0.5, 1, 50, 50)"]),
    Panel(["stack([wsd(peak, 100, 600, 300)\n  for peak in (0.2, 0.4, 0.6, 0.8, 1)])"]),
)


class Theme(NamedTuple):
    paper: str
    text: str
    faint: str
    inks: Sequence[str]  # those of Okabe and Ito, told apart by the colour-blind, darker or lighter where they are text


THEMES: Mapping[str, Theme] = {
    "light": Theme("#ffffff", "#1f2328", "#9aa1a9", ("#0072b2", "#c04f00", "#00805d", "#a8467f")),
    "dark": Theme("#0d1117", "#e6edf3", "#6e7681", ("#56b4e9", "#f08a3c", "#2fc79a", "#e08fbd")),
}

WIDTH, PITCH, ROW = 760, 380, 204  # of the picture, and from one panel to the next
LEFT, ACROSS, TOP, HEIGHT, LABELS = 14, 346, 66, 108, 122  # within a panel
LETTERS = 'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="15"'


def values(code: str, **names: object) -> list[np.ndarray]:
    """The values of the schedule, or of each in the stack, that an expression makes."""
    made = as_schedule(eval(f"({code})", {**vars(schedules), **names}))
    return [np.asarray(tabulate(each, STEPS + 1), float) for each in members(made)]


def picture(theme: Theme) -> str:
    panels = [drawn(panel, theme, PITCH * (i % 2), 8 + ROW * (i // 2)) for i, panel in enumerate(PANELS)]
    height = 8 + ROW * (len(PANELS) // 2)
    size = f'width="{WIDTH}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {size}>',
            f'<rect {size} rx="6" fill="{theme.paper}"/>',
            f'<g {LETTERS} fill="{theme.text}">',
            *panels,
            "</g>",
            "</svg>",
            "",
        ]
    )


def drawn(panel: Panel, theme: Theme, right: int, down: int) -> str:
    lines = panel.lines()
    several = len(panel.code) > 1
    across = ACROSS - LABELS * bool(panel.shapes)
    inks = theme.inks[: len(lines)] if several or panel.shapes else [theme.inks[0]] * len(lines)
    code = [(row, inks[i] if several else theme.text) for i, text in enumerate(panel.code) for row in text.split("\n")]
    floor = TOP + HEIGHT
    marks = [
        *(written(LEFT, 42 - 20 * row, text, ink) for row, (text, ink) in enumerate(reversed(code))),
        f'<path d="M{LEFT} {floor + 0.5}h{across}" stroke="{theme.faint}"/>',
        written(LEFT, floor + 18, "0", theme.faint, 'font-size="12"'),
        written(LEFT + across, floor + 18, f"{STEPS:,} steps", theme.faint, 'font-size="12" text-anchor="end"'),
        *(curve(line, across, ink) for (_, line), ink in zip(lines, inks, strict=True)),
    ]
    if panel.shapes:
        order = sorted(range(len(lines)), key=lambda i: -lines[i][1][STEPS * 9 // 10])  # from above
        ends = [TOP + HEIGHT * (1 - lines[i][1][-1]) for i in order]
        for i, end, place in zip(order, ends, apart(ends, 19, TOP, floor), strict=True):
            marks.append(f'<path d="M{LEFT + across} {end:.1f}L{LEFT + across + 14} {place:.1f}" stroke="{inks[i]}"/>')
            marks.append(written(LEFT + across + 18, place + 5, lines[i][0], inks[i], 'font-size="14"'))
    return "\n".join([f'<g transform="translate({right} {down})">', *marks, "</g>"])


def written(x: float, y: float, text: str, ink: str, more: str = "") -> str:
    return f'<text x="{x}" y="{y:.1f}" fill="{ink}" xml:space="preserve" {more}>{html.escape(text)}</text>'


def curve(line: np.ndarray, across: int, ink: str) -> str:
    steps = np.arange(0, STEPS + 1, 5)
    points = zip(LEFT + across * steps / STEPS, TOP + HEIGHT * (1 - line[steps]), strict=True)
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{places}" fill="none" stroke="{ink}" stroke-width="2" stroke-linejoin="round"/>'


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, theme in THEMES.items():
        (FOLDER / f"compose-{name}.svg").write_text(picture(theme))


if __name__ == "__main__":
    main()
