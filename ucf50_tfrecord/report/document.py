"""A document of headings, sentences, tables and figures, as one HTML file and as Markdown with pictures beside it.

Texts are plain: they may hold any character, and each way of writing escapes what it must.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import io
import itertools
import pathlib
import re
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from ucf50_tfrecord import storage
from ucf50_tfrecord.specs import printable

FIGURES = "figures"  # the folder beside the Markdown
# What a cell or a list may be marked as.
TONES = ("", "yes", "no", "unknown")
_LINKED_LEVEL = 2  # the headings in the table of contents
_PAGE_WIDTH = 930  # CSS pixels
_STEPS = 31  # of a colour channel in pictures: they are seen as smooth


@dataclasses.dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclasses.dataclass(frozen=True)
class Paragraph:
    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list. tone: of TONES."""

    items: Sequence[str]
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table's cell that is marked with a tone, of TONES."""

    text: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of as many cells as there are columns; a row's first cell names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


@dataclasses.dataclass(frozen=True, eq=False)
class Figure:
    """A picture.

    name: tells it from the document's other pictures.
    pixels: uint8 [h, w, 3].
    caption: what it shows, and how to read it.
    alt: for who cannot see it.
    dpi: how many of its pixels make an inch of the page.
    photo: whether it shows frames, and so has more colours than a drawing.
    """

    name: str
    pixels: np.ndarray
    caption: str
    alt: str
    dpi: int = 96  # those of CSS: a pixel is a pixel
    photo: bool = False


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines of a program, shown as they are; none of them may start with a fence, ```."""

    text: str
    language: str = "python"


Block = Heading | Paragraph | Bullets | Table | Figure | Code


@dataclasses.dataclass(frozen=True)
class Document:
    title: str
    blocks: Sequence[Block]

    @property
    def figures(self) -> list[Figure]:
        return [block for block in self.blocks if isinstance(block, Figure)]


def write(folder: pathlib.Path, document: Document, *, name: str) -> None:
    """Writes <name>.html, and <name>.md with figures/*.png beside it; each file atomically.

    Equal documents give equal bytes.

    Raises:
      UserError: if a file cannot be written.
    """
    pictures = {figure.name: _png(figure) for figure in document.figures}
    for figure_name, picture in pictures.items():
        with storage.atomic_write(folder / FIGURES / f"{figure_name}.png") as file:
            file.write(picture)
    for suffix, text in (("md", to_markdown(document)), ("html", to_html(document, pictures))):
        with storage.atomic_write(folder / f"{name}.{suffix}") as file:
            file.write(text.encode())


def file_name(text: str) -> str:
    """Makes of any text one that every file system and link takes; different texts stay different."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)
    checksum = zlib.crc32(text.encode("utf-8", "surrogateescape"))
    return plain if plain == text and text else f"{plain}-{checksum:08x}"


def to_html(document: Document, pictures: dict[str, bytes]) -> str:
    """Returns one page that needs nothing else.

    Args:
      document: what it shows.
      pictures: its figures as PNG, by their names.
    """
    blocks = []
    for is_figure, run in itertools.groupby(document.blocks, lambda block: isinstance(block, Figure)):
        parts = [_html(block, pictures) for block in run]
        blocks += ['<div class="row">', *parts, "</div>"] if is_figure else parts
    headings = [block for block in document.blocks if isinstance(block, Heading)]
    contents = [heading.text for heading in headings if heading.level == _LINKED_LEVEL]
    links = "".join(f'<li><a href="#{_anchor(text)}">{_text(text)}</a></li>' for text in contents)
    title = _text(document.title)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{title}</h1>\n<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        + "\n".join(blocks)
        + "\n</main>\n</body>\n</html>\n"
    )


def to_markdown(document: Document) -> str:
    blocks = [f"# {_markdown_text(document.title)}", *map(_markdown, document.blocks)]
    return "\n\n".join(blocks) + "\n"


def _html(block: Block, pictures: dict[str, bytes]) -> str:
    match block:
        case Heading(text, level):
            anchor = f' id="{_anchor(text)}"' if level == _LINKED_LEVEL else ""
            return f"<h{level}{anchor}>{_text(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_text(text)}</p>"
        case Bullets(items, tone):
            return f"<ul{_classes(tone)}>" + "".join(f"<li>{_text(item)}</li>" for item in items) + "</ul>"
        case Table():
            return _html_table(block)
        case Figure():
            return _html_figure(block, pictures[block.name])
        case Code(text):
            return f'<div class="scroll" tabindex="0"><pre><code>{html.escape(text)}</code></pre></div>'


def _html_table(table: Table) -> str:
    numeric = _numeric_columns(table)
    head = "".join(
        f'<th scope="col"{_classes("number" if number else "")}>{_text(name)}</th>'
        for name, number in zip(table.columns, numeric, strict=True)
    )
    rows = "\n".join(
        "<tr>" + "".join(map(_html_cell, row, range(len(row)), numeric)) + "</tr>" for row in table.rows
    )
    # The caption stays where it is when the table scrolls, which can be done by keyboard.
    return (
        f'<figure class="table"><figcaption>{_text(table.caption)}</figcaption>'
        '<div class="scroll" tabindex="0"><table>\n'
        + (f"<thead><tr>{head}</tr></thead>\n" if any(table.columns) else "")
        + f"<tbody>{rows}</tbody></table></div></figure>"
    )


def _html_cell(value: str | Cell, column: int, is_number: bool) -> str:
    cell = value if isinstance(value, Cell) else Cell(value)
    text = _cell_text(cell.text, is_number)
    if column == 0:
        return f'<th scope="row">{text}</th>'
    return f"<td{_classes('number' if is_number else '', cell.tone)}>{text}</td>"


def _classes(*names: str) -> str:
    """An element's attribute, or nothing where all names are empty."""
    joined = " ".join(filter(None, names))
    return f' class="{joined}"' if joined else ""


def _html_figure(figure: Figure, picture: bytes) -> str:
    height, width = (round(side * 96 / figure.dpi) for side in figure.pixels.shape[:2])  # CSS's pixels
    data = base64.b64encode(picture).decode()
    # Small ones stand side by side. None gets so small that its words cannot be read: it scrolls sideways.
    share = width * 4 // 5
    size = f"flex:{int(2 * share > _PAGE_WIDTH)} 1 {share}px;max-width:{width}px"
    return (
        f'<figure style="{size}"><div class="scroll" tabindex="0"><img src="data:image/png;base64,{data}" '
        f'alt="{_text(figure.alt)}" width="{width}" height="{height}" style="min-width:{width * 2 // 3}px"></div>'
        f"<figcaption>{_text(figure.caption)}</figcaption></figure>"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_markdown_text(text)}"
        case Paragraph(text):
            return _markdown_text(text)
        case Bullets(items):
            return "\n".join(f"- {_markdown_text(item)}" for item in items)
        case Table():
            return _markdown_table(block)
        case Figure():
            alt = _markdown_text(block.alt)
            return f"![{alt}]({FIGURES}/{block.name}.png)\n\n*{_markdown_text(block.caption)}*"
        case Code(text, language):
            return f"```{language}\n{text}\n```"


def _markdown_table(table: Table) -> str:
    texts = [[cell.text if isinstance(cell, Cell) else cell for cell in row] for row in table.rows]
    lines = [table.columns, ["---:" if number else "---" for number in _numeric_columns(table)], *texts]
    rows = [
        "| " + " | ".join(cell if i == 1 else _markdown_text(cell) for cell in line) + " |"
        for i, line in enumerate(lines)
    ]
    return f"*{_markdown_text(table.caption)}*\n\n" + "\n".join(rows)


def _numeric_columns(table: Table) -> list[bool]:
    def is_number(cell: str | Cell) -> bool:
        return bool(re.match(r"[-+]?\d|–$", cell.text if isinstance(cell, Cell) else cell))

    columns = list(zip(*table.rows)) or [()] * len(table.columns)
    return [i > 0 and all(map(is_number, column)) for i, column in enumerate(columns)]


def _text(text: str) -> str:
    return html.escape(printable(text))


def _cell_text(text: str, is_number: bool) -> str:
    """A line may end before an interval, or after a slash in a path, and nowhere else in such."""
    if is_number:
        parts = re.split(r" (?=\[)", text)
        return " ".join(f"<span>{_text(part)}</span>" for part in parts)
    return re.sub(r"/(?=\S)", "/<wbr>", _text(text))


def _markdown_text(text: str) -> str:
    """Escapes what Markdown would take for its own; an underscore within a word is safe."""
    text = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", printable(text))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return re.sub(r"^(\s*\d*)([#+.)-])(?=[\s#])", r"\1\\\2", text)  # no heading, no list


def _anchor(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "section"


def _png(figure: Figure) -> bytes:
    """With fewer colours half the bytes do: a page of many megabytes is slow to open and to send."""
    steps = np.round(figure.pixels * (_STEPS / 255)).astype(np.uint16)  # [h, w, 3]
    buffer = io.BytesIO()
    if figure.photo:
        Image.fromarray(_colours(steps)).save(buffer, "PNG")
    else:
        _with_palette(steps).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _with_palette(steps: np.ndarray) -> Image.Image:
    """Keeps a drawing's 256 most frequent colours; the rest, of letters' edges, become the nearest of these.

    Unlike Pillow's palettes these leave no colour out that fills a cell of a heat map.

    Args:
      steps: uint16 [h, w, 3], from 0 to _STEPS.
    """
    code = (steps[..., 0] * (_STEPS + 1) + steps[..., 1]) * (_STEPS + 1) + steps[..., 2]
    counts = np.bincount(code.ravel(), minlength=(_STEPS + 1) ** 3)
    found = np.flatnonzero(counts)
    rgb = np.stack(np.unravel_index(found, (_STEPS + 1,) * 3), axis=1)  # [U, 3]
    kept = np.argsort(-counts[found], kind="stable")[:256]
    distance = ((rgb[:, np.newaxis] - rgb[kept]) ** 2).sum(axis=2)  # [U, 256]
    index = np.zeros(len(counts), np.uint8)
    index[found] = distance.argmin(axis=1)
    image = Image.fromarray(index[code])
    image.putpalette(_colours(rgb[kept]).tobytes())
    return image


def _colours(steps: np.ndarray) -> np.ndarray:
    return np.round(steps * (255 / _STEPS)).astype(np.uint8)


_STYLE = """
:root{color-scheme:light}
*{box-sizing:border-box}
body{margin:0;background:#fff;color:#1f2328;font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:62rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:1.9em;line-height:1.2;margin:.5rem 0 1rem;overflow-wrap:anywhere}
h2{font-size:1.4em;line-height:1.25;margin:3rem 0 .75rem;padding-top:.75rem;border-top:1px solid #d0d7de}
h3{font-size:1.1em;margin:1.75rem 0 .5rem}
p,li{max-width:46rem;overflow-wrap:anywhere}
a{color:#0550ae}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;margin:0 0 1.5rem;padding:0;font-size:.92em}
ul{padding-left:1.25rem}
li{margin:.25rem 0}
ul.yes,ul.no,ul.unknown{list-style:none;padding-left:0;font-size:.94em}
ul.yes li,ul.no li,ul.unknown li{max-width:none;padding:.1rem 0 .1rem .75rem;border-left:4px solid #8c959f}
ul.yes li{border-color:#0072b2}
ul.no li{border-color:#e69f00}
.scroll{overflow-x:auto}
.row{display:flex;flex-wrap:wrap;gap:1.5rem 1rem;margin:1.5rem 0}
figure{margin:0;min-width:0}
figure.table{margin:1.25rem 0}
figcaption{color:#57606a;font-size:.88em;line-height:1.4;margin-top:.4rem;max-width:46rem;overflow-wrap:anywhere}
.table figcaption{margin:0 0 .4rem}
pre{margin:1rem 0;font-size:.88em;line-height:1.45}
img{display:block;max-width:100%;height:auto}
table{border-collapse:collapse;font-size:.88em;line-height:1.35}
th,td{padding:.32rem .6rem;border-bottom:1px solid #d8dee4;text-align:left;vertical-align:top}
thead th{border-bottom:2px solid #8c959f;vertical-align:bottom}
tbody th{font-weight:600;min-width:9rem}
td.yes,td.no,td.unknown{white-space:nowrap}
td.yes{background:#d6e8f5}
td.no{background:#fbe9c6}
td.unknown{color:#57606a}
.number{text-align:right;font-variant-numeric:tabular-nums}
td.number{white-space:normal}
.number span{white-space:nowrap}
@media print{
@page{margin:14mm}
body{font-size:10pt}
main{max-width:none;padding:0}
nav{display:none}
h2,h3,.table figcaption{break-after:avoid}
h2{margin-top:1.5rem}
tr,li,.row figure{break-inside:avoid}
p,li,figcaption{max-width:none}
.scroll{overflow:visible}
.row{display:block}
.row figure{max-width:100%!important;margin:1rem 0}
table{font-size:7.5pt}
th,td{padding:.15rem .3rem}
tbody th{min-width:0}
img{min-width:0!important;max-height:235mm;width:auto}
td.yes,td.no{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
"""
