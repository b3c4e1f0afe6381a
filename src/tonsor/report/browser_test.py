"""The page as a browser shows it: nothing is fetched, nothing fails, nothing sticks out."""

import shutil

import pytest

from tonsor.report import PLOTS, render, render_runs, render_states
from tonsor.report.compare import compare
from tonsor.report.example_test import example
from tonsor.report.states_page_test import comparison

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDTHS = {"desktop": 1280, "phone": 390}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=list(QUIET))
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(example()))
    return path.as_uri()


@pytest.fixture(params=WIDTHS)
def opened(browser, address, request):
    """Give the page, opened at one width, with all that it asked for and complained of."""
    page = browser.new_page(viewport={"width": WIDTHS[request.param], "height": 844})
    page.asked, page.complaints = [], []
    page.on("request", lambda asked: page.asked.append(asked.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(address)
    yield page
    page.close()


def test_nothing_is_asked_for_and_nothing_complains(opened, address):
    assert [url for url in opened.asked if not url.startswith("data:")] == [address]
    assert opened.complaints == []


def test_the_figures_stand_there_as_text(opened):
    text = opened.inner_text("table.main")
    for figure in (
        "97.8 %",
        "96.9 %",
        "22,890",
        "6,271",
        "27.2 KiB",
        "0.148 ms",
        "dense",
        "masked",
        "shrunk",
    ):
        assert figure in text
    assert "The shrunk model has 6,271 parameters" in opened.inner_text("header")


def test_every_plot_is_seen_and_can_be_told(opened):
    images = opened.get_by_role("img")
    assert images.count() == opened.locator("svg").count() == len(PLOTS)
    for number in range(images.count()):
        box = images.nth(number).bounding_box()
        assert box["width"] > 250
        assert box["height"] > 100


def test_the_page_does_not_scroll_sideways(opened):
    wide, window = opened.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert wide <= window


def test_it_has_a_light_and_a_dark_face(opened):
    seen = {}
    for scheme in ("light", "dark"):
        opened.emulate_media(color_scheme=scheme)
        style = "s = getComputedStyle(document.body), [s.backgroundColor, s.color]"
        seen[scheme] = opened.evaluate(style)
        ink = opened.locator("svg text").first.evaluate("e => getComputedStyle(e).fill")
        assert ink == seen[scheme][1]
    assert seen["light"][0] == "rgb(255, 255, 255)"
    assert seen["dark"][0] != seen["light"][0]


def test_the_pages_of_states_and_of_runs_fit_and_complain_of_nothing(browser, tmp_path):
    pages = {"states": render_states(comparison()), "runs": render_runs(compare({"a": comparison()}))}
    for name, text in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(text)
        for width in WIDTHS.values():
            page = browser.new_page(viewport={"width": width, "height": 844})
            complaints: list[str] = []
            page.on("console", lambda message, to=complaints: to.append(message.text))
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
            assert complaints == []
            labels = [_boxes(svg) for svg in page.locator("svg").all()]
            assert labels and not any(_meet(boxes) for boxes in labels)
            page.close()


def _boxes(svg):
    """Return where each text of a drawing stands."""
    return [box for text in svg.locator("text").all() if (box := text.bounding_box())]


def _meet(boxes):
    """Say whether two boxes lie over one another by more than a pixel."""
    pairs = ((a, b) for place, a in enumerate(boxes) for b in boxes[place + 1 :])
    return any(
        a[at] + 1 < b[at] + b[size] and b[at] + 1 < a[at] + a[size]
        for a, b in pairs
        for at, size in (("x", "width"),)
        if a["y"] + 1 < b["y"] + b["height"] and b["y"] + 1 < a["y"] + a["height"]
    )
