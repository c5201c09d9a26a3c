"""A Markdown document as a page of its own: one HTML file that loads nothing."""

from html import escape
from importlib import resources
from string import Template

from markdown_it import MarkdownIt


def page(markdown: str) -> str:
    """Return the document as HTML; its title is the first heading. HTML in the document is shown, not interpreted."""
    title = next((line.lstrip("# ") for line in markdown.splitlines() if line.startswith("# ")), "")
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    template = (resources.files("dsr.report") / "page.html").read_text(encoding="utf-8")
    return Template(template).substitute(title=escape(title), body=body)
