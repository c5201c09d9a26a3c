"""Documents from the templates of this folder, and a Markdown document as a page of its own."""

from typing import Any

import jinja2
from markdown_it import MarkdownIt


def fill(template: str, **values: Any) -> str:
    """Return a template of this folder with these values in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dsr", "report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)


def page(markdown: str) -> str:
    """Return the document as one HTML file that loads nothing; HTML in the document is shown, not interpreted."""
    title = next((line.lstrip("# ") for line in markdown.splitlines() if line.startswith("# ")), "")
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    return fill("page.html.j2", title=title, body=body)
