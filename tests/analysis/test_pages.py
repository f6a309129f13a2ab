"""Pages of results: complete in one file, and nothing in them is markup of somebody else."""

import base64
from html.parser import HTMLParser

from openmm_les.analysis.pages import (
    Facts,
    Items,
    Link,
    Listing,
    Notice,
    Picture,
    Section,
    Table,
    Text,
    csv_text,
    page,
)

#: Elements without an end.
VOID = ("meta", "img")


class Reader(HTMLParser):
    """Texts by their innermost element, and sources of pictures; asserts that elements nest."""

    def __init__(self, content) -> None:
        super().__init__()
        self.open, self.texts, self.sources = [], [], []
        self.feed(content)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.texts.append((self.open[-1], data.strip()))


def test_a_page():
    table = Table(["run", "energy [eV]"], [["<a>", 1.2345678], ["b & c", None], ["d", 7]])
    parts = [Text("3 < 4"), table, Picture(b"\x89PNG", 'a "picture"')]
    content = page("Results <1>", [Section("All & more", parts)])
    assert '<th>run</th><th class="number">energy [eV]</th>' in content  # above its numbers
    read = Reader(content)
    cells = [text for tag, text in read.texts if tag in ("th", "td")]
    assert cells == ["run", "energy [eV]", "<a>", "1.2346", "b & c", "d", "7"]
    expected = [("title", "Results <1>"), ("h1", "Results <1>"), ("h2", "All & more")]
    assert [each for each in read.texts if each[0] in ("title", "h1", "h2")] == expected
    assert ("p", "3 < 4") in read.texts
    assert ("figcaption", 'a "picture"') in read.texts
    (source,) = read.sources
    assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == b"\x89PNG"


def test_links_lists_and_facts():
    facts = Facts([("file", Link("a <b>", "a:b/c d.csv")), ("unknown", None), ("number", 3)])
    parts = [facts, Items(["x < y"]), Listing("a: 1\nb: <2>"), Notice("broke & gone", True)]
    read = Reader(page("T", [Section("", parts)]))
    assert read.sources == ["a%3Ab/c%20d.csv"]  # never the address of something else
    assert [text for tag, text in read.texts if tag in ("dt", "a", "dd")] == [
        *("file", "a <b>", "number", "3")
    ]
    assert ("li", "x < y") in read.texts
    assert ("pre", "a: 1\nb: <2>") in read.texts
    assert ("p", "broke & gone") in read.texts
    assert not [tag for tag, _ in read.texts if tag == "h2"]


def test_csv():
    assert csv_text(["run", "b, c"], [["a", 0.1], [None, 2]]) == 'run,"b, c"\na,0.1\n,2\n'
