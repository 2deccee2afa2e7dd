"""Pages as a browser would see them, without one."""

from html.parser import HTMLParser

NO_ICON = {"rel": "icon", "href": "data:,"}
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, texts, and the cells of tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.cells.append([])
        elif tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data

    def row(self, label: str) -> list[str]:
        """The cells of a table's row, blanks made plain, the interval behind the number."""
        (found,) = [cells for cells in self.cells if cells[0] == label]
        return [" ".join(cell.replace("[", " [").split()) for cell in found]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


# --- safe and self-contained --------------------------------------------------------------------
