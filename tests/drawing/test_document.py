import html.parser
import re

import numpy as np
from PIL import Image

from ucf50_tfrecord.drawing import document
from ucf50_tfrecord.drawing.document import Bullets, Code, Document, Entry, Figure, Heading, Paragraph, Table

VOID = {"br", "hr", "img", "input", "link", "meta", "wbr"}
ODD = 'a<b> & "c" | d* _e_ `f` $g$ [h](i)\nj \udce9'


class Page(html.parser.HTMLParser):
    """Reads a page's texts and attributes, and checks that every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    @property
    def text(self):
        return " ".join("".join(self.texts).split())

    def attributes(self, name):
        return [values[name] for _, values in self.elements if name in values]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.texts.append("" if tag == "span" else " ")

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)


def picture(colour=(255, 0, 0)):
    return np.full((4, 6, 3), colour, np.uint8)


def written(tmp_path, *blocks, title="Title"):
    for path, data in document.to_files(Document(title, blocks), "page").items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    return Page((tmp_path / "page.html").read_text()), (tmp_path / "page.md").read_text()


def test_every_block_is_in_both_formats(tmp_path):
    page, markdown = written(
        tmp_path,
        Heading("One"),
        Paragraph("Two."),
        Heading("Three", 3),
        Bullets(["four", "five"], "yes"),
        Table("Six.", ("name", "value"), [["seven", "0.5 [0.4, 0.6]"], ["eight", Entry("–", "no")]]),
        Figure("nine", picture(), "Ten.", "eleven"),
    )
    assert page.text.startswith("Title Title One One Two. Three four five Six. name value")
    assert "## One" in markdown and "### Three" in markdown and "- four\n- five" in markdown
    assert "| name | value |\n| --- | ---: |\n| seven | 0.5 \\[0.4, 0.6\\] |\n| eight | – |" in markdown
    assert "![eleven](figures/nine.png)" in markdown
    assert page.attributes("alt") == ["eleven"]
    assert "yes" in page.attributes("class") and "number no" in page.attributes("class")
    links = {link.removeprefix("#") for link in page.attributes("href")}
    assert links == set(page.attributes("id")) == {"one"}


def test_any_text_survives(tmp_path):
    page, markdown = written(
        tmp_path,
        Heading(ODD),
        Paragraph(ODD),
        Bullets([ODD]),
        Table(ODD, (ODD, ODD), [[ODD, ODD]]),
        Figure("f", picture(), ODD, ODD),
        title=ODD,
    )
    shown = document.printable(ODD)
    assert shown.endswith(r"[h](i)\nj \udce9")
    assert page.text.count(shown) == 12 and page.attributes("alt") == [shown]
    tables = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(tables) == 3 and all(len(re.findall(r"(?<!\\)\|", line)) == 3 for line in tables)
    assert "<b>" not in markdown.replace("\\<b\\>", "") and "](i)" not in markdown.replace("\\](i)", "")


def test_no_sentence_becomes_a_list_or_heading_in_markdown_and_no_name_emphasis(tmp_path):
    _, markdown = written(
        tmp_path, Paragraph("# a"), Paragraph("- b"), Paragraph("1. c"), Paragraph("-0.5 seed_rnn 3.5")
    )
    assert markdown.splitlines()[2::2] == [r"\# a", r"\- b", r"1\. c", "-0.5 seed_rnn 3.5"]


def test_programs_are_shown_unchanged():
    program = "print('<b>', 1 & 2)  # *_`x`\nif x:\n    pass"
    made = Document("a", [Code(program)])
    assert f"\n\n```python\n{program}\n```\n" in document.to_markdown(made)
    assert program in "".join(Page(document.to_html(made, {})).texts)


def test_pictures_are_inside_the_page_and_beside_the_markdown(tmp_path):
    page, _ = written(
        tmp_path, Figure("red", picture(), "", ""), Figure("photo", picture(), "", "", photo=True)
    )
    assert [source[:22] for source in page.attributes("src")] == ["data:image/png;base64,"] * 2
    for name in ("red", "photo"):
        with Image.open(tmp_path / "figures" / f"{name}.png") as image:
            assert image.size == (6, 4) and image.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_drawing_keeps_its_most_frequent_colours(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 60, 3), dtype=np.uint8)  # more colours than a palette has
    pixels[:30], pixels[30:40] = 255, (8, 82, 156)
    written(tmp_path, Figure("f", pixels, "", ""))
    with Image.open(tmp_path / "figures" / "f.png") as image:
        kept = np.asarray(image.convert("RGB")).astype(int)
    assert (kept[:30] == 255).all()
    assert np.abs(kept[30:40] - (8, 82, 156)).max() <= 4


def test_file_names_are_safe_and_stay_different():
    assert document.file_name("seed_rnn") == "seed_rnn"
    names = [document.file_name(text) for text in ("a b", "a_b", "a/b", "", "../..", "\udce9")]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", name) for name in names)


def test_equal_documents_give_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        written(tmp_path / folder, Paragraph("x"), Figure("f", picture(), "", ""))
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert len(files) == 3
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)


def test_figures_in_sequence_share_a_row(tmp_path):
    def figure(name):
        return Figure(name, picture(), "", "")

    page, _ = written(tmp_path, figure("a"), figure("b"), Paragraph("x"), figure("c"))
    assert page.attributes("class").count("row") == 2
