"""The data behind each figure: what is drawn is what the table says, and files are reproducible."""

from __future__ import annotations

import base64
import json
from itertools import product

import IPython.display
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color

from bondlab.report import plots
from bondlab.report.plots import Level, Mark, Panel

PANELS = [Panel("kl", "backward KL", "nats"), Panel("reward", "reward", "p", xlabel="round")]
SERIES = ("β = 0", "β = 1")


def curve_table(rows=("",)):
    """Each number distinct: 100 row + 10 panel + series + step / 100, low and high 0.5 and 0.25 off;
    steps out of order, as in a table put together from several runs."""
    table = pd.DataFrame(
        [
            (row, panel, series, step, 100 * i + 10 * j + k + step / 100)
            for (i, row), (j, panel), (k, series), step in product(
                enumerate(rows), enumerate(("kl", "reward")), enumerate(SERIES), (20, 0, 10)
            )
        ],
        columns=["row", "panel", "series", "step", "mean"],
    )
    return table.assign(low=table["mean"] - 0.5, high=table["mean"] + 0.25)


def of_kind(kind, xs, means, **columns):
    table = pd.DataFrame({"panel": "kl", "kind": kind, "series": "a", "x": xs, "mean": means})
    columns = {"low": table["mean"] - 0.5, "high": table["mean"] + 0.25} | columns
    return table.assign(**columns)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def segments(axes):
    """The whiskers drawn, each (x, y) to (x, y), in drawing order."""
    found = [c.get_segments() for c in axes.collections if hasattr(c, "get_segments")]
    return [np.round(segment, 9).tolist() for drawn in found for segment in drawn]


def test_curves_are_drawn_in_order_of_steps_with_their_bands():
    figure = plots.lines(curve_table(), PANELS)
    assert [axes.get_ylabel() for axes in figure.axes] == ["nats", "p"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["training steps", "round"]
    for j, axes in enumerate(figure.axes):
        for k, (line, band) in enumerate(zip(axes.lines, axes.patches, strict=True)):
            assert line.get_xdata().tolist() == [0, 10, 20]
            assert line.get_ydata() == pytest.approx(10 * j + k + np.array([0, 0.1, 0.2]))
            (start,) = {y for x, y in band.get_xy() if x == 0 and y < 10 * j + k}
            assert start == pytest.approx(10 * j + k - 0.5)
    assert legend(figure) == list(SERIES)


def test_a_series_looks_the_same_in_every_panel_even_where_another_is_absent():
    first, second = plots.lines(curve_table().drop([6, 7, 8]), PANELS).axes
    other, ours, theirs = *first.lines, second.lines[0]
    assert same_color(ours.get_color(), theirs.get_color())
    assert ours.get_linestyle() == theirs.get_linestyle() != other.get_linestyle()
    assert ours.get_marker() == theirs.get_marker() != other.get_marker()


def test_a_grid_has_a_row_for_each_value_with_its_own_levels_and_all_marks():
    rows = ("N = 4", "N = 16")
    levels = [Level("kl", 1.6, "start", rows[0]), Level("", 12.2, "best", rows[1], 12.0, 12.5)]
    marks = [Mark(5.0, "anchor")]
    figure = plots.lines(curve_table(rows), PANELS, rows=rows, levels=levels, marks=marks)
    titles = [f"{row}: {panel.title}" for row, panel in product(rows, PANELS)]
    assert [axes.get_title() for axes in figure.axes] == titles
    assert [axes.lines[0].get_ydata()[0] for axes in figure.axes] == [0, 10, 100, 110]
    drawn = [[line.get_ydata()[0] for line in axes.lines[2:-1]] for axes in figure.axes]
    assert drawn == [[1.6], [], [12.2], [12.2]]
    assert [axes.lines[-1].get_xdata()[0] for axes in figure.axes] == [5] * 4
    band = figure.axes[3].patches[-1]
    assert (band.get_y(), band.get_height()) == pytest.approx((12.0, 0.5))
    assert set(legend(figure)) == {*SERIES, "start", "best", "anchor"}


def test_formula_and_simulation_share_a_colour_and_the_legend_tells_them_apart():
    formula = of_kind("formula", [1, 3, 4], [0.0, 0.2, 0.4], low=np.nan, high=np.nan)
    table = pd.concat([of_kind("points", [4, 1], [0.5, 0.1]), formula], ignore_index=True)
    figure = plots.lines(table, PANELS[:1], x="x", scale="log2")
    (axes,), (line,) = figure.axes, figure.axes[0].lines
    dots = axes.collections[-1]
    assert line.get_ydata().tolist() == [0.0, 0.2, 0.4] and line.get_marker() == ""
    assert sorted(dots.get_offsets().tolist()) == [[1, 0.1], [4, 0.5]]
    assert same_color(line.get_color(), dots.get_facecolor()[0])
    assert sorted(segments(axes)) == [[[1, -0.4], [1, 0.35]], [[4, 0.0], [4, 0.75]]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    assert legend(figure) == ["a, formula", "a, simulated"]


def test_paths_keep_their_order_end_in_a_cross_and_meet_named_points():
    """On a square-root axis, squares are evenly far apart and a value below 0 is mirrored."""
    run = of_kind("path", [-1, 110, 30], [0.1, 0.2, 0.4], x_low=[-2, 100, 25], x_high=[0, 120, 36])
    best = of_kind("named", [0.25], [0.3], point="N = 2", series="b")
    table = pd.concat([run, best], ignore_index=True)
    (axes,) = plots.lines(table, PANELS[:1], x="x", scale="sqrt").axes
    assert axes.lines[0].get_xdata().tolist() == [-1, 110, 30]
    point, up, across = segments(axes)
    assert point == [[0.25, -0.2], [0.25, 0.55]]
    assert (up, across) == ([[30, -0.1], [30, 0.65]], [[25, 0.4], [36, 0.4]])
    assert [(text.get_text(), *text.get_position()) for text in axes.texts] == [
        ("N = 2", 0.25, 0.3)
    ]
    assert axes.get_xticks() == pytest.approx([0, 4, 16, 36, 64, 100])
    places = axes.transData.transform([(x, 0) for x in (-4, *axes.get_xticks())])[:, 0]
    assert np.diff(places) == pytest.approx([places[1] - places[0]] * 6)


def test_joined_points_have_whiskers_where_the_interval_is_known():
    table = of_kind("joined", [4, 1], [0.3, 0.1], low=[np.nan, 0.0])
    (axes,) = plots.lines(table, PANELS[:1], x="x").axes
    assert axes.lines[0].get_ydata().tolist() == [0.1, 0.3]
    assert segments(axes) == [[[1, 0.0], [1, 0.35]]]


def bar_table(scale=1.0):
    rows = product(("ROUGE-1", "ROUGE-2"), ("policy", "lead"))
    table = pd.DataFrame(rows, columns=["group", "series"]).assign(panel="kl")
    table = table.assign(mean=scale * np.array([0.1, -0.001, 0.2, 0.4]))
    return table.assign(low=table["mean"] - 0.05, high=[*table["mean"][:3] + 0.05, np.nan])


def test_bars_stand_beside_each_other_with_whiskers_and_written_means():
    """Two series in a group at 0: 0.4 wide each, centred at -0.2 and 0.2; the next group at 1."""
    figure = plots.bars(bar_table(), PANELS[:1], levels=[Level("", 0.5, "")], slanted=True)
    (axes,) = figure.axes
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert centres == pytest.approx([-0.2, 0.2, 0.8, 1.2])
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.1, -0.001, 0.2, 0.4])
    assert [bool(bar.get_hatch()) for bar in axes.patches] == [False, True] * 2
    assert [text.get_text() for text in axes.texts] == ["0.10", "0.00", "0.20", "0.40"]
    assert axes.texts[3].get_position() == pytest.approx((1.2, 0.4))
    assert sorted(segments(axes))[0] == [[-0.2, 0.05], [-0.2, 0.15]] and len(segments(axes)) == 3
    ticks = [(label.get_text(), label.get_rotation()) for label in axes.get_xticklabels()]
    assert ticks == [("ROUGE-1", 40), ("ROUGE-2", 40)]
    assert legend(figure) == ["policy", "lead"]


def test_lone_nameless_and_far_apart_bars():
    lone = bar_table(100).query("series == 'lead'").iloc[1:].assign(group="")
    figure = plots.bars(lone, PANELS[:1], decimals=None, logy=0.1)
    (axes,) = figure.axes
    assert not legend(figure) and not axes.xaxis.get_visible()
    assert not any(text.get_text() for text in axes.texts)
    assert axes.get_yscale() == "symlog" and "10" in [t.get_text() for t in axes.get_yticklabels()]
    near = plots.bars(bar_table(), PANELS[:1], logy=0.1, ylim=(0, 1.1)).axes[0]
    assert near.get_yscale() == "linear" and near.get_ylim() == (0, 1.1)


def test_nothing_overlaps_and_no_type_is_smaller_than_nine_points():
    figure = plots.lines(curve_table(), PANELS, title="Figure 2", note="Mean over 3 seeds. " * 12)
    renderer = FigureCanvasAgg(figure).get_renderer()
    top = figure.legends[0].get_window_extent(renderer)
    panels = [axes.get_tightbbox(renderer) for axes in figure.axes]
    printed = figure._supxlabel.get_window_extent(renderer)
    assert figure.legends[0].get_title().get_text() == "Figure 2"
    assert all(panel.y1 <= top.y0 and panel.y0 >= printed.y1 for panel in panels)
    assert panels[0].x1 <= panels[1].x0 and figure.bbox.x0 <= printed.x0 < printed.x1
    texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
    assert min(text.get_fontsize() for text in texts) >= 9 and printed.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    ("draw", "table", "message"),
    [
        (plots.lines, curve_table().drop(columns="low"), "lacks the columns .'low'"),
        (plots.lines, curve_table().iloc[:0], "empty"),
        (plots.lines, curve_table().assign(kind="named"), "lacks the columns .'point'"),
        (plots.lines, curve_table().query("panel == 'kl'"), "'reward' .*no rows"),
        (plots.bars, curve_table(), "lacks the columns .'group'"),
        (plots.lines, pd.concat([curve_table().assign(series=f"s{i}") for i in range(8)]), "8 s"),
    ],
)
def test_impossible_tables_are_refused(draw, table, message):
    with pytest.raises(ValueError, match=message):
        draw(table, PANELS)


def test_the_same_content_gives_the_same_bytes_and_a_failed_save_changes_nothing(tmp_path):
    source, before = {"seeds": [0, 1], "commit": "abc"}, dict(matplotlib.rcParams)
    figure = plots.lines(curve_table(), PANELS, note="note", title="title")
    afresh = plots.lines(curve_table(), PANELS, note="note", title="title")
    saved = [
        plots.save(drawn, tmp_path / place, "fig", curve_table(), source)
        for place, drawn in (("a", figure), ("b", figure), ("c", afresh))
    ]
    assert [path.name for path in saved[0]] == ["fig.svg", "fig.png", "fig.csv", "fig.json"]
    contents = [[path.read_bytes() for path in paths] for paths in saved]
    assert contents[0] == contents[1] == contents[2] and b"<dc:date>" not in contents[0][0]
    with pytest.raises(TypeError):
        plots.save(figure, tmp_path / "a", "fig", curve_table() * 2, {"run": object()})
    assert [path.read_bytes() for path in saved[0]] == contents[0]
    assert sorted((tmp_path / "a").iterdir()) == sorted(saved[0])
    read = pd.read_csv(saved[0][2], keep_default_na=False)
    pd.testing.assert_frame_equal(read, curve_table())
    assert json.loads(saved[0][3].read_text()) == source
    assert dict(matplotlib.rcParams) == before


def test_show_displays_a_png_with_a_description(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    figure = plots.lines(curve_table(), PANELS)
    plots.show(figure, "Figure 2")
    plots.show(plots.save(figure, tmp_path, "fig", curve_table(), {})[1], "Figure 2")
    assert shown[0] == shown[1] and shown[0]["text/plain"] == "Figure 2"
    assert base64.b64decode(shown[0]["image/png"]).startswith(b"\x89PNG")
