"""The data behind each figure: what is drawn is what the table says, and files are reproducible."""

from __future__ import annotations

import base64
import json
from itertools import product

import IPython.display
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import same_color
from matplotlib.figure import Figure

from bondlab.study import drawing, plots
from bondlab.study.plots import Level, Mark, Panel

PANELS = [Panel("kl", "backward KL", "KL, nats"), Panel("reward", "reward", "probability")]


def curve_table(rows: tuple[str, ...] = ("",)) -> pd.DataFrame:
    """Every number distinct: mean = 100 row + 10 panel + series + step / 100, low and high 0.5 off.

    Steps are out of order, as in a table put together from several runs."""
    table = [
        {"row": row, "panel": panel, "series": series, "step": step, "count": 8,
         "mean": 100 * i + 10 * j + k + step / 100}
        for (i, row), (j, panel), (k, series), step in product(
            enumerate(rows), enumerate(["kl", "reward"]), enumerate(["β = 0", "β = 1"]), [20, 0, 10]
        )
    ]  # fmt: skip
    table = pd.DataFrame(table)
    return table.assign(low=table["mean"] - 0.5, high=table["mean"] + 0.5)


def legend_labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def whiskers(axes) -> np.ndarray:
    """The ends (low, high) of every whisker drawn in the axes, in drawing order."""
    bars = [container.lines[2][0] for container in axes.containers if hasattr(container, "lines")]
    return np.array([part[:, 1] for bar in bars for part in bar.get_segments() if len(part)])


def test_curves_draw_the_table_in_order_of_steps():
    axes = plots.curves(curve_table(), PANELS).axes
    assert [panel.get_ylabel() for panel in axes] == ["KL, nats", "probability"]
    assert [panel.get_xlabel() for panel in axes] == ["training steps"] * 2
    for j, panel in enumerate(axes):
        for k, line in enumerate(panel.lines):
            assert line.get_xdata().tolist() == [0, 10, 20]
            assert line.get_ydata().tolist() == pytest.approx(
                [10 * j + k + s for s in (0, 0.1, 0.2)]
            )


def test_curves_draw_the_interval_as_a_band():
    """The band of series k at step 0 runs from k - 0.5 to k + 0.5."""
    panel = plots.curves(curve_table(), PANELS).axes[0]
    for k, band in enumerate(panel.collections):
        corners = band.get_paths()[0].vertices
        at_start = corners[corners[:, 0] == 0][:, 1]
        assert (at_start.min(), at_start.max()) == pytest.approx((k - 0.5, k + 0.5))


def test_a_series_looks_the_same_in_every_panel_even_where_another_is_absent():
    table = curve_table().query("not (panel == 'reward' and series == 'β = 0')")
    first, second = plots.curves(table, PANELS).axes
    ours, theirs = first.lines[1], second.lines[0]
    assert same_color(ours.get_color(), theirs.get_color())
    assert ours.get_linestyle() == theirs.get_linestyle()
    assert first.lines[0].get_linestyle() != ours.get_linestyle()
    assert first.lines[0].get_marker() != ours.get_marker()


def test_a_grid_has_a_row_for_each_value_with_its_own_levels():
    rows = ["N = 4", "N = 16"]
    levels = [Level("kl", 1.6, "start", row="N = 4"), Level("kl", 12.2, "start", row="N = 16")]
    figure = plots.curves(curve_table(tuple(rows)), PANELS, rows=rows, levels=levels)
    assert [axes.get_title() for axes in figure.axes] == [
        "N = 4: backward KL", "N = 4: reward", "N = 16: backward KL", "N = 16: reward",
    ]  # fmt: skip
    assert [axes.lines[0].get_ydata()[0] for axes in figure.axes] == [0, 10, 100, 110]
    drawn = [[line.get_ydata()[0] for line in axes.lines[2:]] for axes in figure.axes]
    assert drawn == [[1.6], [], [12.2], []]
    assert legend_labels(figure) == ["β = 0", "β = 1", "start"]


def test_a_level_with_an_interval_is_a_band_and_comes_last_in_the_legend():
    level = Level("", 0.3, "sampled", low=0.2, high=0.4)
    table = pd.DataFrame({"series": "policy", "n": [1, 2], "mean": [0.1, 0.2]})
    figure = plots.headroom(table.assign(low=0.0, high=0.5), "p(entailment)", levels=[level])
    box = figure.axes[0].patches[0].get_extents().transformed(figure.axes[0].transData.inverted())
    assert (box.y0, box.y1) == pytest.approx((0.2, 0.4))
    assert legend_labels(figure) == ["policy", "sampled"]


def test_marks_are_vertical_lines_in_every_panel_and_come_last_in_the_legend():
    marks = [Mark(5.0, "anchor"), Mark(15.0, "anchor")]
    figure = plots.curves(curve_table(), PANELS, marks=marks)
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines[2:]] == [5, 15]
    assert legend_labels(figure) == ["β = 0", "β = 1", "anchor"]


def test_paths_join_the_points_in_order_and_cross_the_intervals_at_the_last():
    """A run that goes right and comes back a little; Best-of-2 as a named point; a closed form."""
    run = pd.DataFrame({"kind": "path", "point": "", "x": [0, 3, 2], "mean": [0.1, 0.2, 0.4]})
    run = run.assign(x_low=run["x"] - 0.5, x_high=run["x"] + 0.25, low=0.0, high=0.5)
    best = pd.DataFrame([{"kind": "points", "point": "N = 2", "x": 0.2, "x_low": 0.2,
                          "x_high": 0.2, "mean": 0.3, "low": 0.2, "high": 0.4}])  # fmt: skip
    form = pd.DataFrame({"kind": "formula", "point": "", "x": [0, 1], "mean": [0.1, 0.5]})
    table = pd.concat([form.assign(series="bound"), run.assign(series="run"),
                       best.assign(series="sampled")]).assign(panel="reward")  # fmt: skip
    figure = plots.paths(table, PANELS[1:], "KL, nats")
    axes = figure.axes[0]
    bound, path = axes.lines[:2]
    assert bound.get_xdata().tolist() == [0, 1] and bound.get_marker() == "None"
    assert path.get_xdata().tolist() == [0, 3, 2]
    assert path.get_ydata().tolist() == [0.1, 0.2, 0.4]
    cross, point = (container.lines[2] for container in axes.containers)
    ends = [bar.get_segments()[0].tolist() for bar in cross]
    assert ends == [[[1.5, 0.4], [2.25, 0.4]], [[2.0, 0.0], [2.0, 0.5]]]
    np.testing.assert_allclose(point[0].get_segments()[0], [[0.2, 0.2], [0.2, 0.4]])
    assert [(text.get_text(), text.xy) for text in axes.texts] == [("N = 2", (0.2, 0.3))]
    assert axes.get_xlabel() == "KL, nats"
    assert legend_labels(figure) == ["run", "bound", "sampled"]


def test_a_square_root_axis_spaces_squares_evenly():
    """Ticks 0, 4, 16, ... are equally far apart on the picture, a value below 0 left of them."""
    assert drawing.square_ticks(110.0) == [0, 4, 16, 36, 64, 100]
    assert drawing.square_ticks(0.8) == [0, 0.04, 0.16, 0.36, 0.64]
    assert drawing.square_ticks(0.0) == [0]
    base = {"panel": "kl", "series": "a", "kind": "path", "point": ""}
    rows = [base | {"x": x, "mean": 0.0} for x in (-1.0, 30.0, 110.0)]
    table = pd.DataFrame(rows).assign(x_low=0.0, x_high=0.0, low=0.0, high=0.0)
    (axes,) = plots.paths(table, PANELS[:1], "KL", square_root=True).axes
    places = axes.transData.transform([(tick, 0) for tick in (-4, *axes.get_xticks())])[:, 0]
    gaps = np.diff(places)
    assert gaps == pytest.approx([gaps[0]] * 6)
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "100"


def test_headroom_has_a_base_two_axis_and_whiskers():
    table = pd.DataFrame({"series": "policy", "n": [4, 1, 2], "mean": [0.3, 0.1, 0.2]})
    table = table.assign(low=table["mean"] - 0.05, high=table["mean"] + 0.02)
    axes = plots.headroom(table, "p(entailment)").axes[0]
    assert axes.get_xscale() == "log" and axes.get_xticks().tolist() == [1, 2, 4]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "4"]
    assert axes.lines[0].get_ydata().tolist() == [0.1, 0.2, 0.3]
    expected = np.array([[0.05, 0.12], [0.15, 0.22], [0.25, 0.32]])
    np.testing.assert_allclose(whiskers(axes), expected)


def test_lines_draw_the_formula_plain_and_the_simulation_as_points():
    formula = pd.DataFrame({"kind": "formula", "x": [1, 2, 3], "mean": [0.0, 0.2, 0.4]})
    points = pd.DataFrame({"kind": "simulated", "x": [1, 3], "mean": [0.1, 0.5]})
    points = points.assign(low=points["mean"] - 0.1, high=points["mean"] + 0.1)
    table = pd.concat([points, formula]).assign(panel="kl", series="Best-of-N")
    figure = plots.lines(table, PANELS[:1], "N")
    line, dots = figure.axes[0].lines[:2]
    assert line.get_ydata().tolist() == [0.0, 0.2, 0.4] and line.get_marker() == "None"
    assert dots.get_ydata().tolist() == [0.1, 0.5] and dots.get_linestyle() == "None"
    assert same_color(line.get_color(), dots.get_color())
    np.testing.assert_allclose(whiskers(figure.axes[0]), [[0.0, 0.2], [0.4, 0.6]], atol=1e-12)
    assert legend_labels(figure) == ["Best-of-N, formula", "Best-of-N, simulated"]


def test_bars_stand_beside_each_other_in_their_group():
    """Two series in a group at 0: each 0.4 wide, centred at -0.2 and 0.2, the second group at 1."""
    groups = ["ROUGE-1", "ROUGE-2"]
    rows = [
        {"panel": "kl", "group": group, "series": series, "mean": 0.1 * (1 + i + 2 * j)}
        for (i, group), (j, series) in product(enumerate(groups), enumerate(["policy", "lead"]))
    ]
    table = pd.DataFrame(rows)
    table = table.assign(low=table["mean"] - 0.05, high=table["mean"] + 0.05)
    figure = plots.bars_with_intervals(table, PANELS[:1])
    axes = figure.axes[0]
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert centres == pytest.approx([-0.2, 0.8, 0.2, 1.2])
    assert [bar.get_height() for bar in axes.patches] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == groups
    assert [text.get_text() for text in axes.texts] == ["0.10", "0.20", "0.30", "0.40"]
    np.testing.assert_allclose(whiskers(axes)[0], [0.05, 0.15])
    assert legend_labels(figure) == ["policy", "lead"]
    alone = plots.bars_with_intervals(table.query("series == 'lead'"), PANELS[:1])
    assert alone.legends == []


def test_many_bars_may_go_without_numbers_under_slanted_names():
    table = pd.DataFrame({"panel": "kl", "group": ["one", "two"], "series": "a", "mean": [1, 2]})
    (axes,) = plots.bars_with_intervals(
        table.assign(low=0.5, high=2.5), PANELS[:1], decimals=None, slanted=True
    ).axes
    assert not axes.texts and len(axes.patches) == 2
    assert [label.get_rotation() for label in axes.get_xticklabels()] == [40, 40]


def test_a_missing_interval_draws_no_whisker():
    row = {"panel": "kl", "group": "a", "series": "s", "mean": 0.5, "low": np.nan, "high": np.nan}
    axes = plots.bars_with_intervals(pd.DataFrame([row]), PANELS[:1]).axes[0]
    assert len(whiskers(axes)) == 0
    assert axes.texts[0].xy == pytest.approx((0, 0.5))


def test_note_and_title_do_not_overlap_legend_or_panels():
    note = "Mean over 3 seeds x 100 prompts; bands are 95% intervals. " * 3
    figure = plots.curves(curve_table(), PANELS, title="Figure 2", note=note)
    renderer = FigureCanvasAgg(figure).get_renderer()
    legend = figure.legends[0].get_window_extent(renderer)
    panels = [axes.get_tightbbox(renderer) for axes in figure.axes]
    printed = figure._supxlabel.get_window_extent(renderer)
    assert figure.legends[0].get_title().get_text() == "Figure 2" and not figure.get_suptitle()
    assert all(panel.y1 <= legend.y0 and panel.y0 >= printed.y1 for panel in panels)
    assert panels[0].x1 <= panels[1].x0
    assert figure.bbox.x0 <= printed.x0 and printed.x1 <= figure.bbox.x1


def test_no_type_is_smaller_than_nine_points():
    figure = plots.curves(curve_table(), PANELS, title="Figure 2", note="small print")
    texts = figure.findobj(lambda artist: hasattr(artist, "get_fontsize"))
    assert len(texts) > 10
    assert min(text.get_fontsize() for text in texts) >= 9


def test_impossible_tables_are_refused():
    with pytest.raises(ValueError, match="lacks the columns"):
        plots.curves(curve_table().drop(columns="low"), PANELS)
    with pytest.raises(ValueError, match="no rows"):
        plots.curves(curve_table(), [Panel("klx", "", "")])
    many = pd.concat([curve_table().assign(series=f"s{i}") for i in range(8)])
    with pytest.raises(ValueError, match="8 series"):
        plots.curves(many, PANELS)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    """Same figure again, and the same table plotted afresh: svg, png, csv and json all equal."""
    table, source = curve_table(), {"seeds": [0, 1], "commit": "abc"}
    figure = plots.curves(table, PANELS, note="note", title="title")
    first = plots.save_figure(figure, tmp_path / "a", "fig_smoke", table, source)
    again = plots.save_figure(figure, tmp_path / "b", "fig_smoke", table, source)
    afresh = plots.curves(curve_table(), PANELS, note="note", title="title")
    fresh = plots.save_figure(afresh, tmp_path / "c", "fig_smoke", curve_table(), source)
    assert [path.name for path in first] == [
        f"fig_smoke.{k}" for k in ("svg", "png", "csv", "json")
    ]
    for one, two, three in zip(first, again, fresh, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(p.name for p in first)


def test_saved_numbers_and_provenance_read_back(tmp_path):
    table, source = curve_table(), {"seeds": [0, 1]}
    paths = plots.save_figure(plots.curves(table, PANELS), tmp_path, "fig", table, source)
    pd.testing.assert_frame_equal(pd.read_csv(paths[2], keep_default_na=False), table)
    assert json.loads(paths[3].read_text()) == source
    assert b"<dc:date>" not in paths[0].read_bytes()


def test_a_failed_save_leaves_the_old_files(tmp_path):
    table = curve_table()
    figure = plots.curves(table, PANELS)
    paths = plots.save_figure(figure, tmp_path, "fig", table, {"run": 1})
    before = [path.read_bytes() for path in paths]
    with pytest.raises(TypeError):
        plots.save_figure(figure, tmp_path, "fig", table * 2, {"run": object()})
    assert [path.read_bytes() for path in paths] == before


def test_show_displays_a_png_with_a_description(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    table = curve_table()
    figure = plots.curves(table, PANELS)
    paths = plots.save_figure(figure, tmp_path, "fig", table, {})
    plots.show(figure, "Figure 2")
    plots.show(paths[1], "Figure 2")
    assert shown[0] == shown[1] and shown[0]["text/plain"] == "Figure 2"
    assert base64.b64decode(shown[0]["image/png"]).startswith(b"\x89PNG")
