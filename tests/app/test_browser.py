"""The app in headless Chromium, at the width of a telephone and of a screen."""

import io
import shutil

import numpy as np
import pytest
from helpers.dark_disc import disc, picture
from helpers.mri_files import write_brats2015
from helpers.served import served
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch, served(tmp_path_factory.mktemp("app") / "root", patch) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[390, 1280])
def page(request, browser, address):
    context = browser.new_context(viewport={"width": request.param, "height": 900})
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.outside, page.errors = [], []
    here = address, "data:", "blob:"
    page.on("request", lambda one: None if one.url.startswith(here) else page.outside.append(one.url))
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.goto(address)
    page.get_by_role("button", name="Segment", exact=True).wait_for()
    yield page
    assert page.outside == []
    assert page.errors == []
    context.close()


def segment(page, *files, model="dark"):
    if model != "dark":
        page.get_by_label("Model", exact=True).click()
        page.get_by_role("option", name=model, exact=True).click()
    page.locator("input[type=file]").first.set_input_files([str(file) for file in files])
    page.locator("#status", has_text="ready").wait_for()
    page.get_by_role("button", name="Segment", exact=True).click()
    page.locator("#status", has_text="Segmented").wait_for()
    page.locator("#views img").first.wait_for()


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_picture_is_segmented_and_its_mask_lies_over_it(page, tmp_path):
    picture().save(tmp_path / "scan.png")
    segment(page, tmp_path / "scan.png")
    assert page.locator("#views img").count() == 2
    assert fits(page)
    links = page.locator("a[download]").all()
    assert all(page.request.get(link.get_attribute("href")).ok for link in links if link.is_visible())
    shown = Image.open(io.BytesIO(page.locator("#views img").nth(1).screenshot())).convert("RGB")
    colours = np.asarray(shown.resize((90, 60))).astype(int)
    orange = (colours[..., 0] - colours[..., 2]) > 60
    inside = disc()
    assert orange[inside].mean() > 0.7
    assert orange[~inside].mean() < 0.1
    page.get_by_text("Image alone").click()
    page.locator("#views figcaption", has_text="Image alone").wait_for()


def test_the_slider_of_samples_shows_the_sample(page, tmp_path):
    picture().save(tmp_path / "scan.png")
    segment(page, tmp_path / "scan.png")
    page.get_by_label("range slider for Sample").press("ArrowRight")
    page.locator("#views figcaption", has_text="Sample 2 of 3").wait_for()
    assert page.get_by_role("radio", name="Sample").is_checked()


def test_a_wide_table_of_the_card_scrolls_and_breaks_no_word(page):
    page.get_by_text("Model card").click()
    cell = page.locator("#card td").first
    cell.wait_for()
    lines = "range.selectNodeContents(cell); return range.getClientRects().length"
    assert cell.evaluate(f"cell => {{ const range = document.createRange(); {lines} }}") == 1
    assert fits(page)


def test_a_volume_shows_three_planes(page, tmp_path):
    write_brats2015(tmp_path, ["case"])
    files = [path for path in (tmp_path / "case").iterdir() if "OT" not in path.name]
    segment(page, *files, model="bright")
    assert page.locator("#views img").count() == 3
    for plane in ("Axial", "Coronal", "Sagittal"):
        assert page.locator("#views figcaption", has_text=f"{plane}, plane").count() == 1
    assert fits(page)


def test_a_corrected_mask_holds_what_was_painted(page, tmp_path):
    picture(400, 300).save(tmp_path / "scan.png")
    segment(page, tmp_path / "scan.png")
    page.get_by_text("Correct the mask").click()
    page.get_by_role("button", name="Load the mask").click()
    page.locator("#correction", has_text="Editing").wait_for()
    page.wait_for_timeout(2000)  # the editor draws
    page.locator("#editor").scroll_into_view_if_needed()
    box = page.locator("#editor canvas").last.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=8)
    page.mouse.up()
    page.get_by_role("button", name="Keep the corrected mask").click()
    page.locator("#correction", has_text="Kept scan. The data set has 1 image.").wait_for()
    assert "diffmedseg train" in page.locator("#correction").inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the data set (.zip)").click()
    shutil.unpack_archive(download.value.path(), tmp_path / "corrected", "zip")
    mask = np.asarray(Image.open(tmp_path / "corrected" / "masks" / "scan.png")) > 0
    assert mask[disc(400, 300)].mean() > 0.9
    assert mask[145:156, 200:206].mean() > 0.5  # the middle, where the brush began
    assert not disc(400, 300)[145:156, 200:206].any()
