"""Draws the diagrams of the documents as SVG files beside this script: `python diagrams.py`.

Every diagram has a light ground of its own, so that it can be read on light and on dark pages.
"""

from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
INK, GREY, MODEL, FIELD, MARK = "#22303c", "#8a949c", "#2f6db3", "#c9ced2", "#c8501e"
GROUND, REGION = "#fcfcf9", "#dce9f7"


# ------------------------------------------------------------------ parts of a diagram


def line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, more: str = "") -> str:
    return (
        f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="2" {more}/>'
    )


def arrow(x1: float, y1: float, x2: float, y2: float, both: bool = False) -> str:
    start = ' marker-start="url(#tip)"' if both else ""
    return line(x1, y1, x2, y2, INK, f'marker-end="url(#tip)"{start}')


def text(x: float, y: float, content: str, size: int = 13, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{INK}" {more}>{content}</text>'


def centred(x: float, y: float, content: str, size: int = 13, more: str = "") -> str:
    return text(x, y, content, size, f'text-anchor="middle" {more}')


def atom(x: float, y: float, label: str, fill: str, radius: float = 14) -> str:
    ink = "#ffffff" if fill in (MODEL, MARK) else INK
    return (
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{fill}" stroke="{INK}"/>'
        f'<text x="{x}" y="{y + 4}" font-size="11" text-anchor="middle" fill="{ink}">{label}</text>'
    )


def box(x: float, y: float, width: float, height: float, fill: str, lines: list[str]) -> str:
    """A box whose first line is its title."""
    top = y + height / 2 - 8 * (len(lines) - 1) + 5
    parts = [
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}"'
        f' stroke="{INK}"/>'
    ]
    for number, content in enumerate(lines):
        weight = 'font-weight="bold"' if number == 0 and len(lines) > 1 else ""
        size = 13 if number == 0 else 12
        parts.append(centred(x + width / 2, top + 16 * number, content, size, weight))
    return "".join(parts)


def water(x: float, y: float, charges: bool = False) -> str:
    oxygen, hydrogen = ("Q\u2212", "Q+") if charges else ("O", "H")
    return (
        line(x, y, x - 17, y + 17, GREY)
        + line(x, y, x + 17, y + 17, GREY)
        + atom(x, y, oxygen, FIELD, 12)
        + atom(x - 17, y + 17, hydrogen, FIELD, 9)
        + atom(x + 17, y + 17, hydrogen, FIELD, 9)
    )


def region(x: float, y: float, width: float, height: float) -> str:
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="30" fill="{REGION}"'
        f' stroke="{MODEL}" stroke-dasharray="6 4"/>'
    )


# ------------------------------------------------------------------ diagrams


def link_atoms() -> tuple[int, int, str, str]:
    """Width, height, what is to be seen, and the parts."""
    parts = [
        region(150, 110, 150, 135),
        # the backbone of the force field, and the bond that the border cuts
        line(60, 75, 130, 50, GREY),
        line(130, 50, 225, 75, GREY),
        line(225, 75, 320, 50, GREY),
        line(320, 50, 390, 75, GREY),
        line(225, 75, 225, 155, MARK, 'stroke-dasharray="5 4"'),
        *(line(225, 155, x, y) for x, y in ((180, 185), (225, 215), (270, 185))),
        atom(60, 75, "C", FIELD),
        atom(130, 50, "N", FIELD),
        atom(225, 75, "CA", FIELD),
        atom(320, 50, "C", FIELD),
        atom(390, 75, "N", FIELD),
        atom(225, 155, "CB", MODEL),
        *(atom(x, y, "H", MODEL, 11) for x, y in ((180, 185), (225, 215), (270, 185))),
        water(60, 150),
        water(380, 160),
        text(235, 100, "cut bond", 12),
        centred(225, 268, "ML region"),
        centred(60, 215, "MM: force field", 12),
        arrow(440, 155, 500, 155),
        centred(470, 140, "seen by", 12),
        centred(470, 180, "the model", 12),
        # what the model sees
        region(520, 60, 170, 185),
        *(line(605, 155, x, y) for x, y in ((555, 185), (605, 215), (655, 185), (605, 108))),
        atom(605, 155, "CB", MODEL),
        *(atom(x, y, "H", MODEL, 11) for x, y in ((555, 185), (605, 215), (655, 185))),
        atom(605, 108, "H", MARK, 11),
        text(622, 98, "link atom", 12),
        centred(605, 268, "a complete molecule: methane"),
    ]
    title = (
        "Left: a side chain as ML region, its bond from CB to CA cut; backbone and water belong to"
        " the force field. Right: the model sees CB with a hydrogen atom, the link atom, on the cut"
        " bond in place of CA."
    )
    return 720, 285, title, "".join(parts)


def embeddings() -> tuple[int, int, str, str]:
    """Width, height, what is to be seen, and the parts."""
    parts = []
    panels = (
        (0, "Mechanical embedding", "Q", "Q and Q", "Q fixed", False),
        (360, "Electrostatic embedding", "q", "q and Q", "q follows the geometry", True),
    )
    for x, title, charge, between, within, latent in panels:
        places = ((65, 100), (115, 130), (75, 160))
        colour = MODEL if latent else FIELD
        parts += [
            centred(x + 180, 28, title, 15, 'font-weight="bold"'),
            region(x + 25, 60, 130, 140),
            line(x + 65, 100, x + 115, 130),
            line(x + 115, 130, x + 75, 160),
            *(atom(x + a, b, charge, colour) for a, b in places),
            water(x + 285, 80, charges=True),
            water(x + 305, 150, charges=True),
            arrow(x + 163, 130, x + 255, 130, both=True),
            centred(x + 209, 120, between, 11),
            centred(x + 90, 218, "inside: the model", 12),
            centred(x + 90, 234, within, 12),
            centred(x + 290, 218, "force field,", 12),
            centred(x + 290, 234, "Q fixed", 12),
        ]
    parts.append(line(360, 45, 360, 245, GREY))
    title = (
        "Left: in mechanical embedding the fixed charges Q of the force field act between region"
        " and water. Right: in electrostatic embedding the latent charges q of the model, which"
        " follow the geometry of the region, act on the charges Q of the water."
    )
    return 720, 255, title, "".join(parts)


def packages() -> tuple[int, int, str, str]:
    """Width, height, what is to be seen, and the parts."""
    parts = [
        box(15, 75, 120, 90, FIELD, ["checkpoint", "MACE, CACE,", "NequIP, Allegro,", "CHGNet"]),
        arrow(135, 120, 161, 120),
        box(163, 75, 152, 90, REGION, ["openmm_les_export", "read, convert,", "verify"]),
        arrow(315, 120, 338, 120),
        box(340, 75, 95, 90, "#f7e6dc", ["artifact", "*.les.pt"]),
        arrow(435, 120, 463, 120),
        f'<rect x="465" y="15" width="240" height="235" rx="8" fill="{REGION}" stroke="{INK}"/>',
        centred(585, 35, "openmm_les", 13, 'font-weight="bold"'),
        box(480, 48, 210, 76, GROUND, ["SystemModel", "neighbours, network,", "Ewald sum; engine"]),
        arrow(585, 124, 585, 144),
        box(480, 146, 100, 42, GROUND, ["plugin", "PythonForce"]),
        box(590, 146, 100, 42, GROUND, ["ase", "calculator"]),
        box(480, 198, 210, 42, GROUND, ["simulation, campaign, cli", "whole runs"]),
        arrow(530, 250, 530, 276),
        arrow(640, 250, 640, 276),
        centred(530, 292, "OpenMM"),
        centred(640, 292, "ASE"),
    ]
    title = (
        "openmm_les_export reads a checkpoint and writes an artifact; openmm_les reads the artifact"
        " into a SystemModel, which OpenMM calls through the plugin, and ASE through a calculator."
    )
    return 720, 305, title, "".join(parts)


DIAGRAMS: dict[str, Callable[[], tuple[int, int, str, str]]] = {
    "link-atoms.svg": link_atoms,
    "embeddings.svg": embeddings,
    "packages.svg": packages,
}


def svg(name: str) -> str:
    """The text of a diagram's file."""
    width, height, title, parts = DIAGRAMS[name]()
    tip = (
        '<marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6"'
        f' orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="{INK}"/></marker>'
    )
    body = parts.replace("><", ">\n<")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' font-family="sans-serif">\n<title>{title}</title>\n<defs>{tip}</defs>\n'
        f'<rect width="{width}" height="{height}" rx="10" fill="{GROUND}"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    for name in DIAGRAMS:
        (HERE / name).write_text(svg(name))
