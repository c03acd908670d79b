"""The data behind each figure: what is drawn is what the table says, and files are reproducible."""

import base64
import io
import json
from functools import partial

import IPython.display
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from PIL import Image

from bondlab.report import files, forests, plots, scales, tradeoffs
from bondlab.report.colours import FIXED, looks
from bondlab.report.plots import Level, Mark, Panel

PANELS = [Panel("kl", "backward KL", "nats"), Panel("reward", "reward", "p", xlabel="round")]


def curve_table(rows=("",)):
    """Each number distinct; steps out of order, as in a table put together from several runs."""
    places = pd.MultiIndex.from_product([rows, ["kl", "reward"], ["a", "b"], [20, 0, 10]])
    table = places.to_frame(index=False, name=["row", "panel", "series", "step"])
    row, panel, series = (np.asarray(code) for code in places.codes[:3])
    table["mean"] = 100 * row + 10 * panel + series + table["step"] / 100
    return table.assign(low=table["mean"] - 0.5, high=table["mean"] + 0.25)


def of_kind(kind, xs, means, **columns):
    table = pd.DataFrame({"panel": "kl", "kind": kind, "series": "a", "x": xs, "mean": means})
    return table.assign(**{"low": table["mean"] - 0.5, "high": table["mean"] + 0.25} | columns)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def whiskers(axes):
    found = [c.get_segments() for c in axes.collections if hasattr(c, "get_segments")]
    return sorted(np.round(segment, 9).tolist() for drawn in found for segment in drawn)


def test_curves_are_drawn_in_order_of_steps_each_series_with_one_look_in_all_panels():
    first, second = plots.lines(curve_table().drop([6, 7, 8]), PANELS).axes
    other, ours, theirs = *first.lines, second.lines[0]
    assert [first.get_xlabel(), second.get_xlabel()] == ["training steps", "round"]
    drawn = zip([0, 1, 11], [other, ours, theirs], [*first.patches, *second.patches], strict=True)
    for level, line, band in drawn:
        assert line.get_xdata().tolist() == [0, 10, 20]
        assert line.get_ydata() == pytest.approx(level + np.array([0, 0.1, 0.2]))
        assert {round(y, 9) for x, y in band.get_xy() if x == 10} == {level - 0.4, level + 0.35}
    assert same_color(ours.get_color(), theirs.get_color())
    assert ours.get_marker() == theirs.get_marker() != other.get_marker()


def test_a_grid_has_a_row_for_each_value_with_its_own_levels_and_all_marks():
    rows, marks = ("N = 4", "N = 8"), [Mark(5.0, "anchor")]
    levels = [Level("kl", 1.6, "start", rows[0]), Level("", 12.2, "best", rows[1], 12.0, 12.5)]
    figure = plots.lines(curve_table(rows), PANELS, rows=rows, levels=levels, marks=marks)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[1:3] == ["N = 4: reward", "N = 8: backward KL"]
    drawn = [[line.get_ydata()[0] for line in axes.lines[:-1]] for axes in figure.axes]
    assert drawn == [[0, 1, 1.6], [10, 11], [100, 101, 12.2], [110, 111, 12.2]]
    assert [axes.lines[-1].get_xdata()[0] for axes in figure.axes] == [5] * 4
    band = figure.axes[3].patches[-1]
    assert (band.get_y(), band.get_height()) == pytest.approx((12.0, 0.5))
    assert set(legend(figure)) == {"a", "b", "start", "best", "anchor"}


def test_formula_and_points_share_a_colour_and_joined_points_have_known_whiskers():
    formula = of_kind("formula", [1, 3, 4], [0.0, 0.2, 0.4])
    joined = of_kind("joined", [4, 1], [0.3, 0.1], series="b", low=np.nan)
    table = pd.concat([of_kind("points", [4, 1], [0.5, 0.1]), formula, joined], ignore_index=True)
    figure = plots.lines(table, PANELS[:1], x="x", scale="log2")
    (axes,), (line, join) = figure.axes, figure.axes[0].lines
    dots = axes.collections[-1]
    assert line.get_ydata().tolist() == [0, 0.2, 0.4] and join.get_ydata().tolist() == [0.1, 0.3]
    assert sorted(dots.get_offsets().tolist()) == [[1, 0.1], [4, 0.5]]
    assert same_color(line.get_color(), dots.get_facecolor()[0])
    assert whiskers(axes) == [[[1, -0.4], [1, 0.35]], [[4, 0.0], [4, 0.75]]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    assert legend(figure) == ["a, formula", "a, simulated", "b"]


def test_a_tradeoff_is_drawn_as_far_as_its_base_goes_and_whole():
    """The base reaches 1.2 nats, Best-of-N 0.19, the other run 60: steps go there and back, each
    with an arrow, and an estimate below 0 is mirrored."""
    base = of_kind("path", [-0.01, 1], [0.1, 0.2], series="J-BOND", x_low=0.9, x_high=1.2)
    far = of_kind("path", [0, 60, 30], [0.1, 0.9, 0.4], x_low=25, x_high=36)
    best = of_kind("named", [0.19], [0.3], point="N = 2", series="Best-of-N, sampled")
    best = best.assign(x_low=best["x"], x_high=best["x"])
    table = pd.concat([base, far, best], ignore_index=True)
    figure = tradeoffs.draw(table, PANELS[:1], "J-BOND", "KL")
    near, whole = figure.axes
    assert [axes.get_xlim()[1] for axes in (near, whole)] == pytest.approx([1.06 * 1.2, 1.06 * 60])
    assert whole.lines[0].get_xdata().tolist() == [-0.01, 1]
    drawn = [line for line in whole.lines if same_color(line.get_color(), "#000000")]
    assert drawn[0].get_xdata().tolist() == [0.19]
    assert [text.get_text() for text in near.texts if text.get_text()] == ["N = 2"]
    cross = [[[25, 0.4], [36, 0.4]], [[30, -0.1], [30, 0.65]]]
    assert all(line in whiskers(whole) for line in cross)
    assert sum(text.get_text() == "" for text in whole.texts) == 3
    places = near.transData.transform([(x, 0) for x in (-0.25, 0, 0.25, 1)])[:, 0]
    assert np.diff(places) == pytest.approx([places[1] - places[0]] * 3)
    (alone,) = tradeoffs.draw(table, PANELS[:1], "a", "KL").axes
    assert alone.get_xlim()[1] == pytest.approx(1.06 * 60)
    (near,) = tradeoffs.draw(table, PANELS[:1], "J-BOND", "KL", whole=["kl"]).axes
    assert near.get_xlim()[1] == pytest.approx(1.06 * 1.2)
    with pytest.raises(ValueError, match="'reward'"):
        tradeoffs.draw(table, PANELS, "a", "KL")


def test_a_last_panel_stands_beside_the_others_under_one_legend():
    """Of a measure against the KL; what it alone shows is in the legend too, nothing twice."""
    path = of_kind("path", [0, 60], [0.1, 0.9], x_low=0.0, x_high=61.0)
    best = of_kind("named", [0.2], [0.3], point="N = 2", series="Best-of-N, sampled")
    table = pd.concat([path, best.assign(x_low=0.2, x_high=0.2)], ignore_index=True)
    words = {"a": "A"}
    last = partial(tradeoffs.panel, table=table, own=PANELS[0], xlabel="KL", words=words)
    figure = plots.lines(curve_table(), PANELS, words=words, last=last)
    *_, axes = figure.axes
    assert len(figure.axes) == 3 and axes.lines[0].get_xdata().tolist() == [0, 60]
    assert axes.get_xlabel() == "KL" and axes.get_xlim()[1] == pytest.approx(1.06 * 61)
    assert legend(figure) == ["A", "b", "Best-of-N, sampled"]


@pytest.mark.parametrize(
    ("end", "ticks"),
    [(3.3, [0, 0.25, 0.5, 1, 2, 3]), (110, [0, 1, 4, 8, 16, 32, 64, 96]), (0.05, [0])],
)
def test_ticks_of_a_root_axis_are_round_and_apart(end, ticks):
    assert scales.ticks(end, 0.075) == ticks


def test_logarithms_have_ticks_and_panels_made_alike_have_the_same_limits():
    """And a legend of four, of which three stand in a row, has two rows of two."""
    panels = [Panel("kl", "backward KL", "nats", log=True), PANELS[1]]
    figure = plots.lines(curve_table().assign(low=np.nan), panels)
    assert figure.axes[0].get_yscale() == "log" and 0.5 in figure.axes[0].get_yticks()
    ends = np.array([axes.get_ylim() for axes in figure.axes])
    scales.alike(figure.axes)
    assert {axes.get_ylim() for axes in figure.axes} == {(ends.min(), ends.max())}
    plots.legend(figure, {f"{'x' * 27}{n}": figure.axes[0].lines[0] for n in range(4)}, "")
    assert figure.legends[-1]._ncols == 2


def test_fixed_things_have_fixed_looks_and_what_is_unknown_the_rest():
    found = looks(["a", "J-BOND", "b"])
    assert found["J-BOND"] == looks(["J-BOND"])["J-BOND"] == FIXED["J-BOND"]
    assert len({look.color for look in found.values()}) == 3
    ramp = [name for name in FIXED if name.startswith("REINFORCE, beta_RL")]
    assert len({look.color for look in looks(ramp).values()}) == 4


def test_bars_stand_beside_each_other_with_whiskers_and_written_means():
    """Two series in a group at 0: centred at -0.2 and 0.2; the next group at 1."""
    table = pd.DataFrame({"panel": "kl", "group": list("ggkk"), "series": list("abab")})
    table = table.assign(mean=[0.1, -0.001, 0.2, 4.0], low=0.0, high=[0.2, 0.1, 0.3, np.nan])
    figure = plots.bars(table, PANELS[:1], levels=[Level("", 0.5, "")], slanted=True)
    (axes,) = figure.axes
    assert axes.texts[3].get_position() == pytest.approx((1.2, 4.0))
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert centres == pytest.approx([-0.2, 0.2, 0.8, 1.2])
    assert [bar.get_height() for bar in axes.patches] == pytest.approx(table["mean"])
    assert [text.get_text() for text in axes.texts] == ["0.10", "0.00", "0.20", "4.00"]
    assert [low for low, _ in whiskers(axes)] == [[-0.2, 0.0], [0.2, 0.0], [0.8, 0.0]]
    ticks = [(label.get_text(), label.get_rotation()) for label in axes.get_xticklabels()]
    assert ticks == [("g", 40), ("k", 40)]
    assert legend(figure) == ["a", "b"]
    figure = plots.bars(table[:1].assign(group=""), PANELS[:1], 1, ylim=(0, 1.1))
    axes = figure.axes[0]
    assert not legend(figure) and not axes.xaxis.get_visible() and axes.get_ylim() == (0, 1.1)
    assert axes.texts[0].get_text() == "0.1"


def test_a_forest_has_a_row_a_name_and_shades_where_the_interval_is_to_lie():
    """Rows from the top; a panel that lacks one keeps its place free; two series of a row lie
    beside it. Bounds end at the axis where they are open."""
    table = pd.DataFrame({"panel": ["kl"] * 3 + ["reward"], "group": ["x", "y", "z", "z"]})
    table = table.assign(series=table["group"], mean=[0.1, 0.2, 0.3, 5.0], low=0.0, high=6.0)
    table = table.assign(above=[-np.inf, np.nan, -1.0, np.nan], below=[0.5, np.nan, 1.0, np.nan])
    kl, reward = forests.forest(table, PANELS).axes
    assert [label.get_text() for label in kl.get_yticklabels()] == ["x", "y", "z"]
    assert [line.get_ydata().tolist() for line in kl.lines[:3]] == [[0], [1], [2]]
    assert reward.lines[0].get_xydata().tolist() == [[5.0, 2.0]]
    assert whiskers(kl)[0] == [[0.0, 0.0], [6.0, 0.0]]
    left, right = kl.get_xlim()
    bands = [c.get_paths()[0].get_extents() for c in kl.collections if len(c.get_facecolor())]
    assert [band.intervalx.tolist() for band in bands] == [[left, 0.5], [max(left, -1), 1.0]]
    two = pd.concat([table[:1], table[:1].assign(series="b")], ignore_index=True)
    figure = forests.forest(two.drop(columns=["above", "below"]), PANELS[:1])
    assert np.ptp([line.get_ydata()[0] for line in figure.axes[0].lines[:2]]) > 0.1
    assert legend(figure) == ["x", "b"] and not figure.axes[0].texts
    named = table.assign(group=table["group"].str.upper())
    assert legend(forests.forest(table, PANELS)) == legend(forests.forest(named, PANELS)) == []
    assert legend(forests.forest(table.assign(series=list("abba")), PANELS)) == ["a", "b"]
    assert legend(forests.forest(table.assign(series="a"), PANELS)) == []
    apart = forests.forest(table.assign(group=["x", "y", "z", "w"]), PANELS).axes
    assert [len(axes.get_yticks()) for axes in apart] == [3, 1]


def test_stacked_parts_follow_each_other_and_their_sum_is_written():
    table = pd.DataFrame({"panel": "kl", "group": list("xxy"), "series": list("aba")})
    table = table.assign(mean=[16.0, 192.0, 4.0])
    (axes,) = forests.stacked(table, PANELS[:1], {"kl": "{:.0f}"}).axes
    drawn = np.array([(bar.get_x(), bar.get_width(), bar.get_y() + 0.3) for bar in axes.patches])
    assert drawn == pytest.approx(np.array([(0, 16, 0), (0, 4, 1), (16, 192, 0), (4, 0, 1)]))
    assert [text.get_text() for text in axes.texts] == ["208", "4"]


def test_impossible_tables_are_refused():
    table = curve_table()
    for draw, wrong, message in [
        (plots.lines, table.drop(columns="low"), "lacks the columns .'low'"),
        (plots.bars, table.iloc[:0], "empty or lacks the columns .'group'"),
        (plots.lines, table.query("panel == 'kl'"), "'reward' .*no rows"),
        (plots.lines, table.assign(kind="curves"), "unknown kinds .'curves'"),
        (plots.lines, pd.concat([table.assign(series=f"s{i}") for i in range(11)]), "11 series"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw(wrong, PANELS)


def test_a_picture_with_fewer_colours_is_half_the_size_and_looks_the_same(tmp_path):
    figure, full = plots.lines(curve_table(), PANELS), io.BytesIO()
    with matplotlib.rc_context(files.STYLE):
        figure.savefig(full, format="png", dpi=144)
    _, small, *_ = plots.save(figure, tmp_path, "fig", curve_table(), {})
    pictures = [Image.open(each) for each in (full, small)]
    drawn, shown = (np.asarray(picture.convert("RGB"), int) for picture in pictures)
    assert np.abs(drawn - shown).max() <= 17 and pictures[1].info["dpi"] == pictures[0].info["dpi"]
    assert small.stat().st_size < full.getbuffer().nbytes / 2


def test_the_same_content_gives_the_same_bytes_whatever_fails(tmp_path, monkeypatch):
    shown, before, source = [], dict(matplotlib.rcParams), {"seeds": [0, 1]}
    figure, afresh = (plots.lines(curve_table(), PANELS[:1], note="note") for _ in range(2))
    places = {"a": figure, "b": figure, "c": afresh}.items()
    saved = [plots.save(f, tmp_path / name, "fig", curve_table(), source) for name, f in places]
    assert [path.name for path in saved[0]] == ["fig.svg", "fig.png", "fig.csv", "fig.json"]
    contents = [[path.read_bytes() for path in paths] for paths in saved]
    assert contents[0] == contents[1] == contents[2] and b"<dc:date>" not in contents[0][0]
    with pytest.raises(TypeError):
        plots.save(figure, tmp_path / "a", "fig", curve_table() * 2, {"run": object()})
    assert sorted((tmp_path / "a").iterdir()) == sorted(saved[0])
    assert [path.read_bytes() for path in saved[0]] == contents[0]
    assert pd.read_csv(saved[0][2], keep_default_na=False).round(9).equals(curve_table().round(9))
    assert json.loads(contents[0][3]) == source
    monkeypatch.setattr(IPython.display, "display", lambda data, raw: shown.append(data))
    for drawn in (figure, saved[0][1]):
        plots.show(drawn, "Figure 2")
    assert base64.b64decode(shown[0]["image/png"]) == contents[0][1] and shown[0] == shown[1]
    assert shown[0]["text/plain"] == "Figure 2" and dict(matplotlib.rcParams) == before
