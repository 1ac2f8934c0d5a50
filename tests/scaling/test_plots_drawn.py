# SPDX-License-Identifier: Apache-2.0
"""One chart, two renderings: what the files hold, and that both show the same numbers."""

import json
import re
import struct
import subprocess
import sys
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from t5x_like.reporting import draw_plotly
from t5x_like.reporting.charts import Axis, Band, Chart, Line, Marks, Panel, Rule, Scale
from t5x_like.reporting.painter import FORMATS, Painter
from t5x_like.reporting.palette import DARK, LIGHT

X = np.array([1e6, 3e6, 2e7])


def chart(name="example"):
    scale = Scale("params", 1e6, 1e8, ((1e6, "1M"), (1e8, "100M")))
    layers = (
        Rule(2.0, label="E = 2", dash="dash"),
        Rule(4e6, vertical=True, label="largest run"),
        Band(X, np.array([2.4, 2.2, -np.inf]), np.array([3.2, np.inf, 2.6]), "accent"),
        Line(X, np.array([3.0, 2.5, 2.2]), 0.25, name="law", end="1M", hover="at 1M params"),
        Marks(
            X, np.array([3.1, 2.4, 2.3]), np.array([0.0, 0.5, 1.0]), ("<b>a</b>\nloss 3.1", "b", "c"), error=X * 0 + 0.1
        ),
        Marks(X, np.array([2.9, 2.7, 2.6]), "second", shape="square", hollow=True, name="held out"),
    )
    y = Axis("loss", log=True)
    panels = (Panel(Axis("tokens", log=True, kind="count"), y, layers), Panel(Axis("share"), y, layers[3:4]))
    return Chart(name, "An example", "A caption.", panels, scale)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The bytes of one chart: drawn here, drawn here again, and drawn by a worker."""
    drawn = []
    for workers in (0, 0, 1):
        folder = tmp_path_factory.mktemp("drawn")
        with Painter(folder, workers) as painter:
            painter.paint([chart()], "points <p.csv>, sha256 0123")
            painter.paint([chart()], "a second time is passed over")
            painter.finish()
        drawn.append({kind: (folder / f"example.{kind}").read_bytes() for kind in FORMATS})
        assert len(list(folder.iterdir())) == 3
    return drawn


def test_the_same_chart_gives_the_same_bytes_in_any_process(files):
    assert files[0] == files[1] == files[2]


def test_png_is_sharp_enough_for_print_and_says_where_it_comes_from(files):
    png = files[0]["png"]
    assert struct.unpack(">II", png[16:24]) == (990, 630)  # 6.6 x 4.2 inches at 150 dots
    assert b"points <p.csv>, sha256 0123" in png


def test_svg_is_xml_without_fonts_or_dates(files):
    root = ElementTree.fromstring(files[0]["svg"])
    text = files[0]["svg"].decode()
    assert root.tag.endswith("svg")
    assert not root.findall(".//{http://www.w3.org/2000/svg}text")  # letters are outlines
    assert "sha256 0123" in text
    assert "dc:date" not in text


def test_pdf_embeds_truetype_fonts_only(files):
    pdf = files[0]["pdf"]
    streams = b"".join(
        zlib.decompress(found)
        for found in re.findall(rb"/FlateDecode.*?stream\r?\n(.*?)\r?\nendstream", pdf, re.DOTALL)
    )
    everything = pdf + streams
    assert b"/FontFile2" in everything
    assert b"/Type3" not in everything
    assert b"CreationDate" not in everything
    assert len(pdf) < 60_000  # a subset of the font, not all of it


def test_a_worker_that_fails_is_reported(tmp_path):
    broken = Chart("broken", "", "", (Panel(Axis("x"), Axis("y"), (Line(X, X, "colourless"),)),))
    with Painter(tmp_path, workers=1) as painter:
        painter.paint([broken], "")
        with pytest.raises(RuntimeError, match="KeyError: 'colourless'"):
            painter.finish()


def test_plotly_shows_the_numbers_of_the_chart():
    made = draw_plotly.figure(chart())
    json.dumps(made, allow_nan=False)  # strict
    floor, largest, band, line, dots, rings, other, bar = made["data"]
    low, high = chart().panels[0].window("x")
    assert floor["y"] == [2.0, 2.0] and floor["x"][0] < low and high < floor["x"][1]  # wherever the reader moves
    assert largest["x"] == [4e6, 4e6]
    assert line["x"] == dots["x"] == X.tolist()
    assert line["y"] == [3.0, 2.5, 2.2]
    assert dots["y"] == [3.1, 2.4, 2.3]
    assert dots["marker"]["color"] == ["@0.0", "@0.5", "@1.0"]
    assert dots["error_y"]["array"] == dots["error_y"]["arrayminus"] == [0.1] * 3
    assert dots["text"] == ["<b>&lt;b&gt;a&lt;/b&gt;</b><br>loss 3.1", "<b>b</b>", "<b>c</b>"]
    assert rings["marker"]["symbol"] == "square-open"
    assert [trace["showlegend"] for trace in (band, line, dots, rings, other)] == [False, True, False, True, False]
    assert band["x"] == [1e6, 1e6]  # only where both ends are finite
    assert band["y"] == [3.2, 2.4]
    assert line["text"] == ["3 at 1M", "2.5 at 3M", "2.2 at 20M"]
    assert [other["xaxis"], other["yaxis"]] == ["x2", "y2"]
    assert bar["marker"]["colorbar"]["ticktext"] == ["1M", "100M"]
    assert bar["marker"]["colorbar"]["tickvals"] == [0, 1]


def test_plotly_shows_the_window_of_the_chart():
    drawn = chart()
    layout = draw_plotly.figure(drawn)["layout"]
    np.testing.assert_allclose(10.0 ** np.array(layout["xaxis"]["range"]), drawn.panels[0].window("x"), rtol=1e-4)
    np.testing.assert_allclose(layout["xaxis2"]["range"], drawn.panels[1].window("x"), rtol=1e-4)
    assert layout["xaxis"]["ticktext"] == ["1M", "2M", "5M", "10M", "20M"]
    assert layout["yaxis2"]["matches"] == "y"
    texts = {note["text"]: note for note in layout["annotations"]}
    assert texts["E = 2"]["y"] == pytest.approx(np.log10(2.0))  # annotations on log axes are placed by logarithms
    assert set(texts) == {"E = 2", "largest run", "1M"}


def test_on_a_phone_panels_stand_above_one_another():
    made = draw_plotly.figure(chart())
    wide, narrow = made["layout"], made["narrow"]
    assert wide["xaxis"]["domain"][1] < wide["xaxis2"]["domain"][0]
    assert narrow["xaxis"]["domain"] == narrow["xaxis2"]["domain"] == [0, 1]
    assert narrow["yaxis"]["domain"][0] > narrow["yaxis2"]["domain"][1]
    assert narrow["height"] > 330


def test_every_open_colour_is_one_that_the_page_knows():
    used = set(re.findall(r'"@([^"/]+)(?:/[^"]*)?"', json.dumps(draw_plotly.figure(chart()))))
    roles = {name for name in used if not re.fullmatch(r"[\d.]+", name)}
    assert roles >= {"accent", "second", "ink", "muted", "paper", "scale"}
    assert roles - {"scale"} <= set(LIGHT) == set(DARK)


def test_plotly_is_read_and_not_imported():
    code = (
        "import sys, t5x_like.scaling.report.report; from t5x_like.reporting import draw_plotly;"
        "assert draw_plotly.library();"
        "print([m for m in sys.modules if m.split('.')[0] in ('plotly', 'matplotlib', 'pandas', 'narwhals')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
