"""Charts as SVG elements of a page, and as files."""

import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import pytest

from neurosteer_cli.errors import InputError, OutputError
from neurosteer_cli.reports.charts import check_suffix, inline_svg, save
from neurosteer_cli.reports.panels import Axis, Band, Chart, Panel, Point, Series
from neurosteer_cli.reports.tables import Estimate, exactly

INFINITE = Estimate(float("inf"), 1.0, float("inf"))


def chart(*points: Point, x: Axis | None = None, title: str = "A title") -> Chart:
    found = points or tuple(
        Point(exactly(float(n)), Estimate(n, n - 0.5, n + 0.5), f"p{n}") for n in range(3)
    )
    series = [Series("first", "1", found, line=True), Series("second", "random", found[:1])]
    y = Axis(
        "effect", bands=(Band("level", "unsteered", Estimate(1.0, 0.5, 1.5)),), guides=((1.25, "limit"),)
    )
    return Chart(title, [Panel(x or Axis("alpha"), y, series)])


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("text")]


def test_text_stays_text() -> None:
    found = texts(inline_svg(chart(), "a"))
    assert {"alpha", "effect", "first", "second", "level", "limit", "p0", "p1", "p2"} <= set(found)


def test_labels_are_neither_formulas_nor_elements() -> None:
    hostile = "<script>$\\frac{1}{0}$ & 漢字"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        svg = inline_svg(chart(Point(exactly(0.0), exactly(0.0), hostile), title=hostile), "a")
    assert hostile in texts(svg)
    assert ElementTree.fromstring(svg)[0].text == hostile
    assert "<script>" not in svg


def test_ids_of_two_charts_do_not_clash() -> None:
    one, two = (set(re.findall(r'\bid="([^"]+)"', inline_svg(chart(), ident))) for ident in ("a", "b"))
    assert one
    assert not one & two


def test_colours_are_the_page_s_to_change() -> None:
    svg = inline_svg(chart(), "a")
    assert "var(--look-1, #0072b2)" in svg
    assert "var(--ink, #1f2328)" in svg
    outside = re.sub(r"var\(--[^)]*\)", "", svg)
    assert re.findall("#[0-9a-f]{6}", outside) == []


def test_no_style_or_description_of_its_own_reaches_the_page() -> None:
    tags = {element.tag for element in ElementTree.fromstring(inline_svg(chart(), "a")).iter()}
    assert not {"style", "metadata"} & tags


def test_infinite_numbers_are_left_out() -> None:
    finite = Point(exactly(0.0), exactly(1.0), "finite")
    found = texts(inline_svg(chart(finite, Point(exactly(1.0), INFINITE, "infinite")), "a"))
    assert "finite" in found
    assert "infinite" not in found


def test_names_take_the_place_of_numbers() -> None:
    names = Axis("", names=("zero", "one", "two"))
    assert {"zero", "one", "two"} <= set(texts(inline_svg(chart(x=names), "a")))


def test_layers_have_no_halves() -> None:
    ticks = set(texts(inline_svg(chart(x=Axis("layer", whole=True)), "a")))
    assert {"0", "1", "2"} <= ticks
    assert not {"0.5", "1.5"} & ticks


def test_a_wide_range_has_ticks_at_1_2_and_5() -> None:
    points = [Point(exactly(value), exactly(0.0)) for value in (1.0, 30.0)]
    assert {"1", "2", "5", "10", "20"} <= set(
        texts(inline_svg(chart(*points, x=Axis("ratio", log=True)), "a"))
    )


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
