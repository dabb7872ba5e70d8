"""What all pages share: text stays text, nothing is loaded, and tables are sorted by mouse and keyboard alike."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.browser import PHONE, needs_browser, visit
from vitpe.outputs import refuse_foreign
from vitpe.reporting.page import render

TEMPLATE = """<!doctype html><html lang="en"><head>{{head}}</head><body><h1>{{title}}</h1>
<table id="table"></table>{{data}}<script>
sortable(at("table"), [
  {name: "name", value: row => row[0], rising: true},
  {name: "score", value: row => row[1], cell: row => percent(row[1])},
], data.rows, {sort: 1, line: (row, element) => { element.title = row[0]; }});
</script></body></html>"""
HOSTILE = ["</script><b>", "<!--<script>", "{{data}}", "{{head}}", "a\"b'c&amp;", "\x1b[31m\udcff", "__proto__"]


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


@given(st.text() | st.sampled_from(HOSTILE), st.text() | st.sampled_from(HOSTILE))
def test_any_text_comes_out_as_it_went_in(title, name):
    text = render(TEMPLATE, title, {"rows": [[name, None]]})
    assert embedded(text) == {"rows": [[name, None]]}
    assert text.count("<script") == TEMPLATE.count("<script") + 2
    assert text.count("</script") == text.count("<script")
    text.encode()


def test_undefined_has_to_be_none():
    with pytest.raises(ValueError, match="JSON"):
        render(TEMPLATE, "x", {"rows": [["a", float("nan")]]})


def test_a_page_is_known_as_vitpes_own(tmp_path):
    (tmp_path / "page.html").write_text(render(TEMPLATE, "x" * 100_000, {"rows": [["a" * 100_000, 0.5]]}))
    refuse_foreign(tmp_path / "page.html")


@needs_browser
def test_tables_are_sorted_and_undefined_comes_last(tmp_path):
    rows = [["b", 0.5], ["<i>", -0.0004], ["a", None], ["c", 0.9], ["</script>", None]]
    script = """
    const names = () => [...at("table").tBodies[0].rows].map(row => row.cells[0].textContent);
    const heads = [...at("table").tHead.rows[0].cells];
    const sorted = () => heads.map(head => head.getAttribute("aria-sort"));
    seen.start = [names(), sorted()];
    heads[1].firstChild.click();
    seen.turned = [names(), sorted()];
    heads[0].firstChild.click();
    seen.named = [names(), sorted()];
    seen.cells = [...at("table").tBodies[0].rows].map(row => row.cells[1].textContent).sort();
    seen.titles = [...at("table").tBodies[0].rows].every(row => row.title === row.cells[0].textContent);
    heads[1].firstChild.focus();
    seen.focus = document.activeElement === heads[1].firstChild && heads[1].firstChild.tagName;
    seen.markup = document.querySelectorAll("i, b").length;
    seen.title = document.title + "|" + document.querySelector("h1").textContent;
    """
    seen, console = visit(render(TEMPLATE, "<b>{{data}}", {"rows": rows}), script, tmp_path, PHONE)
    assert not console
    assert seen["start"] == [["c", "b", "<i>", "a", "</script>"], [None, "descending"]]
    assert seen["turned"] == [["<i>", "b", "c", "a", "</script>"], [None, "ascending"]]
    assert seen["named"][1] == ["ascending", None]
    assert [name for name in seen["named"][0] if name.isalpha()] == ["a", "b", "c"]
    assert seen["cells"] == sorted(["50.0", "0.0", "–", "90.0", "–"])
    assert seen["titles"]
    assert seen["focus"] == "BUTTON"
    assert seen["markup"] == 0
    assert seen["title"] == "<b>{{data}}|<b>{{data}}"


@needs_browser
def test_what_the_browser_complains_of_is_seen(tmp_path):
    broken = TEMPLATE.replace("</script></body>", "nowhere();</script></body>")
    _, console = visit(render(broken, "x", {"rows": []}), "", tmp_path)
    assert "nowhere is not defined" in console[0]
    loading = TEMPLATE.replace("<h1>", '<img src="http://127.0.0.1:9/x.png"><h1>')
    _, console = visit(render(loading, "x", {"rows": []}), "", tmp_path)
    assert "Content Security Policy" in console[0]
