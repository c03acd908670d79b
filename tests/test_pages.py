"""The web pages: what they show, where their links lead, and that no number breaks."""

from __future__ import annotations

import re

import nbformat
import pytest

from bondlab.study import pages


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A repository of one notebook on a README and claims, its pages at two profiles."""
    monkeypatch.setenv("BONDLAB_RUNS", str(tmp_path / "elsewhere" / "runs"))
    monkeypatch.setattr(pages, "repository_root", lambda: tmp_path)
    readme = (
        "[one](notebooks/00_a.ipynb#top) [all](CLAIMS.md#c4-by-c2a) [law](LICENSE) [x](https://x.y)"
    )
    (tmp_path / "README.md").write_text(readme)
    claims = "[C4 by C2a](#c4-by-c2a)\n\n## C4 by C2a\n\n| a |\n| --- |\n| -0.2 [-0.5, 0.1] |\n"
    (tmp_path / "CLAIMS.md").write_text(claims)
    executed = tmp_path / "elsewhere" / "runs" / "notebooks" / "laptop"
    for folder, words in ((tmp_path / "notebooks", "committed"), (executed, "executed")):
        folder.mkdir(parents=True)
        cells = [nbformat.v4.new_markdown_cell(f"{words}: [back](../README.md), [b](01_b.ipynb)")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "00_a.ipynb")
    return {p: [path.read_text() for path in pages.write(p)] for p in ("shipped", "laptop")}


def test_pages_show_what_there_is_and_link_to_each_other(made, tmp_path):
    index, claims, notebook = made["shipped"]
    assert "committed:" in notebook and "executed:" in made["laptop"][2]
    links = lambda text: re.findall(r'<a href="([^"]*)">', text)  # noqa: E731
    own = ["00_a.html#top", "claims.html#c4-by-c2a", "../../../LICENSE", "https://x.y"]
    assert links(index) == own
    assert links(notebook) == ["index.html", "01_b.html"]
    assert links(claims) == ["#c4-by-c2a"] and '<h2 id="c4-by-c2a"' in claims
    assert "-0.2&nbsp;[-0.5,&nbsp;0.1]" in claims
    assert all(text.count(pages.STYLE) == 1 for text in made["shipped"])
