"""The contact sheet shows the pictures themselves, in order, and the histogram is a picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from identity_lock.errors import OutputError
from identity_lock.rendering.search import SearchReport, SeedResult
from identity_lock.rendering.sheet import (
    LABEL_HEIGHT,
    LOCKED_COLOUR,
    MISSED_COLOUR,
    contact_sheet,
    plot_histogram,
    search_sheet,
)


def plain(level: int) -> np.ndarray:
    return np.full((40, 50, 3), level, np.uint8)


def result(seed: int, drift: float | None, *, detected: bool = True, full: bool = True) -> SeedResult:
    file = None if drift is None else f"seed_{seed}.png"
    return SeedResult(seed, drift, detected, None, (0.3,), None if drift is not None else 0, full, file)


@pytest.fixture
def report(tmp_path) -> SearchReport:
    results = (
        result(1, 0.5),
        result(2, 0.1),
        result(3, None, detected=False, full=False),
        result(4, 1.0, detected=False),
        result(5, 0.2, full=False),
    )
    for r in results:
        if r.file:
            Image.fromarray(plain(10 * r.seed)).save(tmp_path / r.file)
    return SearchReport(results, (0.9,), 0.8, str(tmp_path))


def cell(sheet: np.ndarray, column: int, row: int) -> np.ndarray:
    return sheet[row * (40 + LABEL_HEIGHT) :][:40, column * 50 :][:, :50]


def label_colour(sheet: np.ndarray, column: int, row: int) -> tuple[int, ...]:
    return tuple(sheet[row * (40 + LABEL_HEIGHT) + 40 + LABEL_HEIGHT - 1, column * 50 + 49].tolist())


def test_pictures_stand_in_rows_in_the_order_given():
    sheet = contact_sheet([plain(v) for v in (10, 20, 30, 40, 50)], list("abcde"), columns=2, marked=[True, False])
    assert sheet.shape == (3 * (40 + LABEL_HEIGHT), 100, 3) and sheet.dtype == np.uint8
    for index, level in enumerate((10, 20, 30, 40, 50)):
        assert (cell(sheet, index % 2, index // 2) == level).all()
    assert label_colour(sheet, 0, 0) == LOCKED_COLOUR
    assert label_colour(sheet, 1, 0) == label_colour(sheet, 0, 2) == MISSED_COLOUR


def test_a_label_is_written_under_each_picture():
    with_text, without = contact_sheet([plain(0)], ["12345  0.162"]), contact_sheet([plain(0)], [""])
    assert not np.array_equal(with_text[40:], without[40:])
    assert np.array_equal(with_text[:40], without[:40])


def test_a_label_for_each_picture():
    with pytest.raises(ValueError):
        contact_sheet([plain(0), plain(1)], ["one"])


def test_a_search_is_shown_best_first_and_without_the_dropped(report):
    sheet = search_sheet(report)
    assert [int(cell(sheet, column, 0)[0, 0, 0]) for column in range(4)] == [20, 50, 10, 40]
    assert [label_colour(sheet, column, 0) for column in range(4)] == [LOCKED_COLOUR] + 3 * [MISSED_COLOUR]
    assert search_sheet(report, limit=2).shape[0] == 40 + LABEL_HEIGHT


def test_a_sheet_of_nothing_but_faceless_renders_is_drawn(report):
    only = SearchReport(report.results[3:4], (), 1.0, report.folder)
    assert (cell(search_sheet(only), 0, 0) == 40).all()


def test_the_histogram_is_a_png_and_stands_where_asked(report, tmp_path):
    path = tmp_path / "plots" / "histogram.png"
    plot_histogram(report, path)
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 400
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.std() > 5.0
    assert [entry.name for entry in path.parent.iterdir()] == ["histogram.png"]


def test_a_folder_that_cannot_be_is_said_in_words(report, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="histogram.png.*give a folder that you may write"):
        plot_histogram(report, tmp_path / "file" / "histogram.png")
