"""The notebooks, the claims and the README as web pages: runs/report/, with the README as index.

A notebook's page shows the outputs it has: those of runs/notebooks/<profile>, or the committed
ones. Formulas are set by MathJax, which a browser fetches when the page is opened.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from pathlib import Path

import nbformat

from bondlab.paths import repository_root, runs_folder
from bondlab.study.ledger_page import anchor

# A column that reads, code in a code's font, and numbers that never break; a wider table scrolls.
STYLE = """<style>
body.jp-Notebook main { max-width: 1040px; margin: 0 auto; padding: 0 16px; }
.jp-RenderedMarkdown table { display: block; max-width: 100%; overflow-x: auto; }
.jp-RenderedHTML { overflow-x: auto; }
.jp-RenderedMarkdown .highlight pre { font-family: monospace; }
.jp-RenderedMarkdown img, .jp-RenderedImage img { max-width: 100%; height: auto; }
</style>
</head>"""
INTERVAL = re.compile(r"-?[\d.]+ \[-?[\d.]+, -?[\d.]+\]")
NAMES = {"README.md": "index.html", "CLAIMS.md": "claims.html"}


def write(profile: str) -> list[Path]:
    """Make all pages; returns their paths, the index first.

    Args:
        profile: whose executed notebooks are shown, where they are there; else the committed.
    """
    root, folder = repository_root(), runs_folder() / "report"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name, page in NAMES.items():
        cell = nbformat.v4.new_markdown_cell((root / name).read_text(encoding="utf-8"))
        made.append(_write(nbformat.v4.new_notebook(cells=[cell]), root / name, folder / page))
    for source in sorted((root / "notebooks").glob("*.ipynb")):
        executed = runs_folder() / "notebooks" / profile / source.name
        book = nbformat.read(executed if executed.exists() else source, as_version=4)
        made.append(_write(book, source, folder / f"{source.stem}.html"))
    return made


def _write(book: nbformat.NotebookNode, source: Path, page: Path) -> Path:
    from nbconvert import HTMLExporter  # half a second, for this command alone

    own = {"name": source.stem, "path": str(source.parent)}
    exporter = HTMLExporter(embed_images=True, exclude_input_prompt=True, sanitize_html=False)
    text, _ = exporter.from_notebook_node(book, {"metadata": own})
    text = INTERVAL.sub(lambda found: found[0].replace(" ", "&nbsp;"), text)
    text = re.sub(r'<h(\d) id="([^"]*)"', lambda h: f'<h{h[1]} id="{anchor(h[2])}"', text)
    text = re.sub(r'(?<=<a href=")(?!\w+:|#)([^"]+)', lambda a: _link(a[1], source, page), text)
    page.write_text(text.replace("</head>", STYLE, 1), encoding="utf-8")
    return page


def _link(target: str, source: Path, page: Path) -> str:
    """Where a page links to in place of a file of the repository."""
    path, mark, fragment = target.partition("#")
    file = source.parent / urllib.parse.unquote(path)
    if file.suffix == ".ipynb":
        path = f"{file.stem}.html"
    elif file.name in NAMES and file.parent.resolve() == repository_root():
        path = NAMES[file.name]
    else:
        path = os.path.relpath(file, page.parent)
    return f"{path}{mark}{fragment}"
