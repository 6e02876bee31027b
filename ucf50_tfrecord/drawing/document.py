"""Documents of headings, sentences, tables and figures, as one HTML page and as Markdown.

Texts are plain: they may hold any character, and each format escapes what it must.
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

from ucf50_tfrecord.drawing.pixels import to_small_png
from ucf50_tfrecord.specs import printable

FIGURES = "figures"  # the folder beside the Markdown
TONES = ("", "yes", "no", "unknown")  # marks of a table's entry or a list


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading. level: those of level 2 are in the table of contents."""

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
    """A list. tone: of TONES."""

    items: Sequence[str]
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A table's entry with a mark. tone: of TONES."""

    text: str
    tone: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows with an entry per column; a row's first entry names it."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Entry]]

    @property
    def entries(self) -> list[list[Entry]]:
        return [[entry if isinstance(entry, Entry) else Entry(entry) for entry in row] for row in self.rows]

    @property
    def is_numeric(self) -> list[bool]:
        """Tells for each column whether it holds numbers alone, which are aligned to the right."""
        columns = list(zip(*self.entries)) or [()] * len(self.columns)
        return [
            i > 0 and all(re.match(r"[-+]?\d|–$", entry.text) for entry in column)
            for i, column in enumerate(columns)
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class Figure:
    """A picture.

    name: a file name that no other figure of the document has.
    pixels: uint8 [h, w, 3].
    caption: its contents, and how to read them.
    alt: the same for readers who cannot see it.
    dpi: pixels per inch of the page.
    photo: whether it shows frames, and so has more colours than a drawing.
    """

    name: str
    pixels: np.ndarray
    caption: str
    alt: str
    dpi: int = 96  # CSS's: a pixel is a pixel
    photo: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in CSS pixels."""
        height, width = (round(side * 96 / self.dpi) for side in self.pixels.shape[:2])
        return width, height


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


def to_files(document: Document, name: str) -> dict[str, bytes]:
    """Returns <name>.html, <name>.md and the figures/*.png that the latter shows, by path.

    Equal documents give equal bytes.
    """
    pictures = {figure.name: to_small_png(figure.pixels, photo=figure.photo) for figure in document.figures}
    files = {f"{FIGURES}/{figure}.png": content for figure, content in pictures.items()}
    files[f"{name}.md"] = to_markdown(document).encode()
    return files | {f"{name}.html": to_html(document, pictures).encode()}


def file_name(text: str) -> str:
    """Turns any text into a name that every file system and link takes; different texts stay different."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", text)
    checksum = zlib.crc32(text.encode("utf-8", "surrogateescape"))
    return plain if plain == text and text else f"{plain}-{checksum:08x}"


def to_html(document: Document, pictures: dict[str, bytes]) -> str:
    """Returns one page that needs no other file.

    Args:
      document: the page's contents.
      pictures: the document's figures as PNG, by name.
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
        # Whatever a template writes passes through here, before it is escaped.
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value)),
    )
    environment.filters["parts"] = lambda text, pattern: re.split(pattern, text)
    environment.tests["block"] = lambda block, kind: type(block).__name__ == kind
    return environment


def to_markdown(document: Document) -> str:
    """Returns the document as Markdown, which shows the figures from files of the folder FIGURES."""
    blocks = [f"# {_markdown_text(document.title)}", *map(_markdown, document.blocks)]
    return "\n\n".join(blocks) + "\n"


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
            alt, caption = _markdown_text(block.alt), _markdown_text(block.caption)
            return f"![{alt}]({FIGURES}/{block.name}.png)\n\n*{caption}*"
        case Code(text, language):
            return f"```{language}\n{text}\n```"


def _markdown_table(table: Table) -> str:
    texts = [table.columns, *([entry.text for entry in row] for row in table.entries)]
    head, *rows = [map(_markdown_text, row) for row in texts]
    rule = ["---:" if numeric else "---" for numeric in table.is_numeric]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *rows))
    return f"*{_markdown_text(table.caption)}*\n\n{lines}"


def _markdown_text(text: str) -> str:
    """Escapes what Markdown would interpret; an underscore within a word is safe."""
    text = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", printable(text))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return re.sub(r"^(\s*\d*)([#+.)-])(?=[\s#])", r"\1\\\2", text)  # no heading, no list
