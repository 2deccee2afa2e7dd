"""Panels of points as SVG elements of a page, and as files."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neurosteer_cli.errors import InputError, OutputError
from neurosteer_cli.evaluation.measures.metrics import Estimate
from neurosteer_cli.evaluation.runs.samples import RANDOM, UNSTEERED
from neurosteer_cli.reports.drawing import (
    BASELINES,
    CURVES,
    Panel,
    as_cost,
    check_suffix,
    draw,
    draw_level,
    figure_of,
    guide,
    inline_svg,
    key,
    save,
    series_of,
    stacked,
)


def panel(name: str = "first", title: str = "A title") -> Panel:
    def paint(axes: Axes) -> None:
        points = [(float(n), Estimate(n, n - 0.5, n + 0.5)) for n in range(3)]
        draw(axes, points, CURVES[0] | {"label": name}, joined=True)
        draw(axes, points[:1], BASELINES[RANDOM])
        draw_level(axes, Estimate(1.0, 0.5, 1.5), BASELINES[UNSTEERED])
        guide(axes, "x", 1.25, "upright")
        guide(axes, "y", 1.25, "level")
        axes.set(xlabel="alpha", ylabel="effect")

    return Panel(title, 2.0, paint)


def chart(name: str = "first", title: str = "A title") -> Figure:
    return figure_of(panel(name, title), 2)


def painted(paint: Callable[[Axes], object]) -> Figure:
    return figure_of(Panel("", 2.0, lambda axes: (paint(axes), None)[1]), 2)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_text_stays_text() -> None:
    found = {text.strip() for text in texts(inline_svg(chart(), "a"))}
    assert {"alpha", "effect", "upright", "level"} <= found


def test_series_are_told_apart_by_keys_that_look_as_they_do() -> None:
    series = series_of(figure.axes[0] for figure in (chart(), chart()))
    assert list(series) == ["unsteered", "first", "random vector of equal norm"]
    (line,) = key(series["first"], "first").axes[0].lines
    assert (line.get_color(), line.get_marker()) == (CURVES[0]["color"], CURVES[0]["marker"])


def test_panels_in_one_file_have_one_legend() -> None:
    figure = stacked([panel(), panel("second")], "Both")
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "unsteered", "first", "second", "random vector of equal norm"
    }  # fmt: skip
    assert len(figure.axes) == 2


def test_what_a_line_stands_for_is_written_outside_of_the_panel() -> None:
    upright, level = chart().axes[0].texts
    assert (upright.get_text(), upright.xy[1], level.get_text(), level.xy[0]) == ("upright", 1, "level", 1)


def test_labels_are_neither_formulas_nor_elements() -> None:
    hostile = '<script>$\\frac{1}{0}$ & 漢字 #0072b2 id="x" url(#y)'
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = inline_svg(painted(lambda axes: axes.set_xlabel(hostile)), "a")
        titled = inline_svg(chart(title=hostile), "a")
    assert hostile in texts(svg)
    assert ElementTree.fromstring(titled)[0].text == hostile
    assert "<script>" not in svg + titled


def test_ids_of_two_charts_do_not_clash() -> None:
    one, two = (set(re.findall(r'\bid="([^"]+)"', inline_svg(chart(), ident))) for ident in ("a", "b"))
    assert one
    assert not one & two


def test_every_reference_has_its_target() -> None:
    svg = inline_svg(chart(), "a")
    references = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    assert references
    assert references <= set(re.findall(r'\bid="([^"]+)"', svg))


def test_colours_are_the_page_s_to_change() -> None:
    svg = inline_svg(chart(), "a")
    assert "var(--look-1)" in svg
    assert "var(--ink)" in svg
    assert re.findall("#[0-9a-f]{6}", svg) == []
    css = (Path(check_suffix.__code__.co_filename).parent / "templates" / "style.css").read_text()
    assert all(css.count(f"--{name}:") == 2 for name in set(re.findall(r"var\(--([a-z0-9-]+)\)", svg)))


def test_no_style_or_description_of_its_own_reaches_the_page() -> None:
    tags = {element.tag for element in ElementTree.fromstring(inline_svg(chart(), "a")).iter()}
    assert not {"style", "metadata"} & tags


def test_what_is_infinite_or_absent_is_left_out() -> None:
    infinite = Estimate(float("inf"), 1.0, float("inf"))

    def paint(axes: Axes) -> None:
        assert not draw(axes, [(1.0, infinite), (2.0, None), (3.0, float("nan"))], CURVES[0])
        assert draw(axes, [(0.0, 1.0), (1.0, infinite)], CURVES[0])
        assert [list(line.get_xdata()) for line in axes.lines] == [[0.0]]

    painted(paint)


def test_a_wide_range_of_costs_has_ticks_at_1_2_and_5() -> None:
    def paint(axes: Axes) -> None:
        draw(axes, [(0.0, 1.0), (1.0, 30.0)], CURVES[0])
        as_cost(axes, "y", [1.0, 30.0], None)

    assert {"1", "2", "5", "10", "20"} <= set(texts(inline_svg(painted(paint), "a")))


def test_a_person_s_own_settings_are_neither_used_nor_changed() -> None:
    plain = inline_svg(chart(), "a")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert inline_svg(chart(), "a") == plain
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_the_same_chart_gives_the_same_file(tmp_path: Path, name: str) -> None:
    save(chart(), tmp_path / name)
    first = (tmp_path / name).read_bytes()
    save(chart(), tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert b"<dc:date>" not in first


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"absent/a\.png: cannot write \(No such file or directory\)$"):
        save(chart(), tmp_path / "absent" / "a.png")


@pytest.mark.parametrize("name", ["a.pdf", "a", "png"])
def test_another_suffix_is_refused(name: str) -> None:
    message = f"{name}: a plot is a .png or a .svg file; name one of the two"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_suffix(Path(name))
