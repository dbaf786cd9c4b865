"""axe-core, the keyboard, print, and pictures of the page in each scheme and size."""

import re

import pytest

LOOKS = pytest.mark.parametrize("scheme", ["light", "dark"])
SIZES = pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])


@LOOKS
@SIZES
def test_axe_finds_nothing_serious(
    visit, lesions, look_up, violations, screenshot, scheme, width, height
):
    page = visit(lesions, width=width, height=height, scheme=scheme)
    screenshot(page, f"start-{width}-{scheme}")
    assert violations(page) == []
    look_up(page, lesions.queries[0])
    page.check(".grid li:nth-child(2) .judge-relevant input", force=True)
    page.evaluate("window.scrollTo(0, 0)")
    screenshot(page, f"answer-{width}-{scheme}")
    page.eval_on_selector_all("details", "all => all.forEach(one => { one.open = true })")
    assert violations(page) == []
    page.click("#nearest [data-compare]")
    screenshot(page, f"compare-{width}-{scheme}")
    assert violations(page) == []
    page.click("[data-close]")
    page.click("#again")
    page.wait_for_selector(".withheld")
    assert violations(page) == []


@LOOKS
def test_axe_finds_nothing_serious_where_one_signs_in(visit, eyes, violations, scheme):
    assert violations(visit(eyes, scheme=scheme)) == []


def test_axe_would_find_something(visit, lesions, violations):
    page = visit(lesions)
    page.evaluate("document.querySelector('#look').append(document.createElement('input'))")
    assert "label" in [rule for rule, _ in violations(page)]


def test_a_lookup_needs_no_mouse(visit, lesions):
    page = visit(lesions)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "image"
    page.set_input_files("#image", lesions.queries[0])
    while page.evaluate("document.activeElement.className") != "button":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer")
    # A screen reader goes on where the answer begins.
    page.wait_for_function("document.activeElement.id === 'answer'")


def test_the_summary_on_paper_leaves_nothing_out(visit, lesions, look_up, screenshot):
    page = visit(lesions, width=794, height=1123)
    look_up(page, lesions.queries[0])
    page.emulate_media(media="print")
    assert "Research use only" in page.inner_text(".research")
    assert page.locator(".archive").is_visible()
    assert page.locator(".grid .case").count() == 16
    assert page.locator("#nearest .case").is_visible()
    assert re.search(r"Searched 20\d\d-\d\d-\d\d", page.inner_text(".origin"))
    for control in (".case-acts", ".again", ".change", "[data-print]", ".nearest-bar"):
        assert not page.locator(control).first.is_visible()
    light = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(light) == "rgb(255, 255, 255)"
    screenshot(page, "print", full_page=True)


def test_the_print_button_prints(visit, lesions, look_up):
    page = visit(lesions)
    look_up(page, lesions.queries[0])
    page.evaluate("window.print = () => { window.printed = true }")
    page.click("[data-print]")
    assert page.evaluate("window.printed")
