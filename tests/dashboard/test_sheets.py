"""CSV that leaves, and CSV that comes in."""

from __future__ import annotations

import csv
import io

import pytest

from dashboard.export import sheets
from engine.errors import RequestError


def back(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "＝1+1", '=HYPERLINK("x")'])
def test_a_text_that_looks_like_a_formula_is_text(cell: str) -> None:
    assert back(sheets.written(["text", cell], [[cell, 1]])) == [["text", "'" + cell], ["'" + cell, "1"]]


def test_numbers_and_other_texts_stay_as_they_are() -> None:
    rows = [["a, b", -0.5, None, "مرحبا\n"], ["it's", 3, "", '"quoted"']]
    content = sheets.written(["x", "y", "z", "t"], rows)
    assert content.startswith(b"\xef\xbb\xbf")
    assert back(content)[1:] == [["a, b", "-0.5", "", "مرحبا\n"], ["it's", "3", "", '"quoted"']]
    assert sheets.written(["x"], [["\ud800"]])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_files_that_can_be_read(encoding: str, delimiter: str, end: str) -> None:
    lines = [["id", "Headline", "Label"], ["1", '"Rain, then ""sun"";\tß"', "World"], ["", "", ""], ["2", "short"]]
    sheet = sheets.read(end.join(delimiter.join(line) for line in lines).encode(encoding))
    assert sheet.names == ["id", "Headline", "Label"]
    assert sheet.rows == [["1", 'Rain, then "sun";\tß', "World"], ["2", "short", ""]]
    assert sheets.guessed(sheet) == ("Headline", "Label")


def test_names_are_told_apart() -> None:
    assert sheets.read(b"a,,a\n1,2,3").names == ["a", "column 2", "a (3)"]


def test_the_longest_column_is_the_text_where_no_name_says_so() -> None:
    assert sheets.guessed(sheets.read(b"id,x,y\n1,aaaaaaaa,b\n2,aaaaaaa,b")) == ("x", None)


def test_blank_cells_are_left_out_with_their_labels() -> None:
    sheet = sheets.read("text,label\n  ,A\nwords, B \n\u200b,C\n".encode())
    assert sheets.texts(sheet, "text", "label") == (["words"], ["B"])
    assert sheets.texts(sheet, "label", None) == (["A", " B ", "C"], None)
    with pytest.raises(RequestError, match="holds no text"):
        sheets.texts(sheets.read(b"a,b\n,1"), "a", None)


@pytest.mark.parametrize(
    ("content", "say"),
    [
        (b"", "no rows"),
        (b"text\n", "no rows"),
        (b"text\n\xff\xfe", "not UTF-8"),
        ("text\nwords".encode("utf-16"), "not UTF-8"),
        (b"text\nwords\n" * 501, "more than 1,000 rows"),
        (b"x" * 5_000_001, "5.0 MB; allowed: up to 5 MB"),
        (b"text,label\na, b, c, d", "row 1 has 4 cells"),
        (b'text\n"open', "not CSV"),
        (b"a," * 300 + b"\n1", "301 columns"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8"),
    ],
)
def test_files_that_get_one_line(content: bytes, say: str) -> None:
    with pytest.raises(RequestError, match=say) as caught:
        sheets.read(content)
    assert "\n" not in str(caught.value)


def test_as_many_rows_as_allowed() -> None:
    assert len(sheets.read(b"text\n" + b"words\n" * 1000).rows) == 1000
