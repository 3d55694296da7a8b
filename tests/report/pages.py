"""A page as a parser sees it."""

from html.parser import HTMLParser

VOID_TAGS = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Elements with their attributes, text of the page, and whether every element is closed in order."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text, self._open = [], [], []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID_TAGS:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" not in self._open:
            self.text.append(data)

    def words(self):
        return " ".join(" ".join(self.text).split())
