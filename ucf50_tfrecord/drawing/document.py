"""Turns documents of headings, sentences, tables and figures into an HTML page and into Markdown.

The texts of a document are plain text. They may hold any character: the writers of HTML and of Markdown
escape what their format would interpret.
"""

from __future__ import annotations

import base64
import dataclasses
import re
import zlib
from collections.abc import Sequence

import jinja2
import numpy as np
from markupsafe import Markup

from ucf50_tfrecord import markdown
from ucf50_tfrecord.drawing.pixels import to_small_png
from ucf50_tfrecord.specs import printable

FIGURES = "figures"  # the folder of the pictures, beside the Markdown file
_CSS_DPI = 96  # at CSS's resolution, a pixel of the picture is a pixel of the page


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading of a document. Headings of level 2 are listed in the table of contents."""

    text: str
    level: int = 2

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z0-9]+", "-", self.text.lower()).strip("-") or "section"


@dataclasses.dataclass(frozen=True)
class Paragraph:
    text: str


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A bulleted list of texts. `tone` colours the whole list, see Entry."""

    items: Sequence[str]
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An entry of a table. `tone` colours it: "yes", "no" or "unknown", or "" for no colour."""

    text: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table. Each row has an entry per column; its first entry is the row's name."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Entry]]

    @property
    def entries(self) -> list[list[Entry]]:
        return [[entry if isinstance(entry, Entry) else Entry(entry) for entry in row] for row in self.rows]

    @property
    def is_numeric(self) -> list[bool]:
        """Whether each column holds only numbers. Such columns are aligned to the right."""
        columns = list(zip(*self.entries)) or [()] * len(self.columns)
        return [
            i > 0 and all(re.match(r"[-+]?\d|–$", entry.text) for entry in column)
            for i, column in enumerate(columns)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Figure:
    """A picture of a document.

    name: the picture's file name without extension; no other figure of the document has it.
    pixels: the picture, uint8 [h, w, 3].
    caption: a text on what the picture shows and how to read it.
    alt: a text on what the picture shows, for readers who cannot see it.
    dpi: the picture's pixels per inch of the page.
    photo: whether the picture shows frames, and so has more colours than a drawing.
    """

    name: str
    pixels: np.ndarray
    caption: str
    alt: str
    dpi: int = _CSS_DPI
    photo: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """The picture's width and height on the page, in CSS pixels."""
        height, width = (round(side * _CSS_DPI / self.dpi) for side in self.pixels.shape[:2])
        return width, height


@dataclasses.dataclass(frozen=True)
class Code:
    """Lines of a program, shown literally. No line may start with Markdown's code fence, ```."""

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


def to_files(document: Document, name: str) -> dict[str, bytes]:
    """Turns a document into the contents of its files. Equal documents give equal contents.

    Returns:
      A dictionary from path to content: <name>.html, <name>.md, and figures/<figure>.png for each figure,
      which the Markdown file shows. The HTML page needs no other file.
    """
    pictures = {figure.name: to_small_png(figure.pixels, photo=figure.photo) for figure in document.figures}
    files = {f"{FIGURES}/{figure}.png": content for figure, content in pictures.items()}
    files[f"{name}.md"] = to_markdown(document).encode()
    return files | {f"{name}.html": to_html(document, pictures).encode()}


def counted(number: int, noun: str) -> str:
    """Returns a number of things, such as "1 clip" or "1,200 clips"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def file_name(text: str) -> str:
    """Turns any text into a file name that works in every file system and link.

    Different texts give different names.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)
    checksum = zlib.crc32(text.encode("utf-8", "surrogateescape"))
    return plain if plain == text and text else f"{plain}-{checksum:08x}"


def to_html(document: Document, pictures: dict[str, bytes]) -> str:
    """Returns a document as one HTML page that needs no other file.

    Args:
      document: the document.
      pictures: the PNG files of the document's figures, by the figures' names.
    """
    encoded = {name: Markup(base64.b64encode(picture).decode()) for name, picture in pictures.items()}
    return _environment().get_template("page.html").render(document=document, pictures=encoded)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Every value that a template writes passes through `finalize`, before it is escaped.
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )
    environment.filters["parts"] = lambda text, pattern: re.split(pattern, text)
    environment.tests["block"] = lambda block, kind: type(block).__name__ == kind
    return environment


def to_markdown(document: Document) -> str:
    """Returns a document as Markdown, which shows the figures from files in the folder FIGURES."""
    blocks = [f"# {markdown.escape(document.title)}", *map(_markdown, document.blocks)]
    return "\n\n".join(blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {markdown.escape(text)}"
        case Paragraph(text):
            return markdown.escape(text)
        case Bullets(items):
            return "\n".join(f"- {markdown.escape(item)}" for item in items)
        case Table():
            return _markdown_table(block)
        case Figure():
            alt, caption = markdown.escape(block.alt), markdown.escape(block.caption)
            return f"![{alt}]({FIGURES}/{block.name}.png)\n\n*{caption}*"
        case Code(text, language):
            return f"```{language}\n{text}\n```"


def _markdown_table(table: Table) -> str:
    rows = [table.columns, *([entry.text for entry in row] for row in table.entries)]
    return f"*{markdown.escape(table.caption)}*\n\n{markdown.table(rows, table.is_numeric)}"
