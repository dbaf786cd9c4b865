"""Side by side, zoomed together, explained; marks and the search refined by them."""

import pytest


@pytest.fixture
def answered(visit, lesions, look_up):
    """The page with an answer."""
    page = visit(lesions)
    look_up(page, lesions.queries[0])
    return page


def places(page):
    """Where zoom and position have put the two pictures: scale and shift in whole pixels."""
    return page.eval_on_selector_all(
        "#compare .layers",
        """all => all.map(one => {
            const at = new DOMMatrix(getComputedStyle(one).transform);
            return `${at.a.toFixed(2)} ${Math.round(at.e)} ${Math.round(at.f)}`;
        })""",
    )


def level(page):
    return page.inner_text("[data-level]")


def compare(page, rank):
    page.click(f".grid li:nth-child({rank}) [data-compare]")
    page.wait_for_selector("#compare[open]")


def test_both_pictures_zoom_and_move_together(answered):
    compare(answered, 2)
    query, case = answered.locator("#compare .layers img").all()
    assert query.get_attribute("src") == answered.locator(".query img").get_attribute("src")
    chosen = answered.locator(".grid li:nth-child(2) .case-picture img")
    assert case.get_attribute("src") == chosen.get_attribute("src")
    seen = [places(answered)]
    view = answered.locator('.pane[data-side="case"] .view')
    box = view.bounding_box()
    answered.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4)
    answered.mouse.wheel(0, -400)
    answered.wait_for_function("document.querySelector('[data-level]').textContent !== '100 %'")
    seen.append(places(answered))
    answered.mouse.down()
    answered.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    answered.mouse.up()
    seen.append(places(answered))
    answered.click('[data-zoom="in"]')
    seen.append(places(answered))
    assert all(left == right for left, right in seen)
    assert len({left for left, _ in seen}) == len(seen)
    answered.click('[data-zoom="reset"]')
    assert places(answered) == seen[0]


def test_the_keyboard_does_all_that_the_mouse_does(answered):
    button = answered.locator(".grid li:nth-child(2) [data-compare]")
    button.focus()
    answered.keyboard.press("Enter")
    answered.wait_for_selector("#compare[open]")
    assert answered.evaluate("document.activeElement.id") == "compare-title"
    answered.focus('.pane[data-side="query"] .view')
    for key, zoom in (("+", "150 %"), ("+", "225 %"), ("-", "150 %")):
        answered.keyboard.press(key)
        assert level(answered) == zoom
    before = places(answered)
    answered.keyboard.press("ArrowRight")
    left, right = places(answered)
    assert left == right != before[0]
    answered.keyboard.press("0")
    assert level(answered) == "100 %"
    answered.keyboard.press("Escape")
    assert answered.locator("#compare[open]").count() == 0
    assert button.evaluate("one => one === document.activeElement")


def test_next_and_previous_go_through_the_cases(answered):
    compare(answered, 1)
    assert answered.locator('[data-step="-1"]').is_disabled()
    answered.click('[data-step="1"]')
    assert answered.inner_text("#compare-title").endswith("case of rank 2")
    answered.click('[data-judge="relevant"]')
    answered.click("[data-close]")
    assert answered.locator(".grid li:nth-child(2) .judge-relevant input").is_checked()
    compare(answered, 16)
    assert answered.locator('[data-step="1"]').is_disabled()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1024, 600), (390, 844)])
def test_the_comparison_hides_neither_the_notice_nor_the_archive(
    visit, lesions, look_up, screenshot, width, height
):
    page = visit(lesions, width=width, height=height)
    look_up(page, lesions.queries[0])
    compare(page, 2)
    page.click("[data-explain]")
    page.wait_for_selector(".overlay >> nth=1")
    terms = page.locator("#compare .terms")
    box = terms.bounding_box()
    assert 0 <= box["y"] <= box["y"] + box["height"] <= height
    text = terms.inner_text()
    assert "Research use only" in text
    assert f"{len(lesions.cases)} images of" in text
    assert "drawn by MedShadow" in text
    screenshot(page, f"explained-{width}")
    # What the tint means can be read beside the tint.
    assert page.locator("[data-explained]").bounding_box()["y"] < height


def test_a_malignant_case_is_marked_in_the_comparison_too(answered):
    answered.click("#nearest [data-compare]")
    assert "malignant" in answered.inner_text("#compare-title")
    assert answered.locator("#compare .pane-malignant").count() == 1
    answered.keyboard.press("Escape")
    assert answered.evaluate("document.activeElement.closest('#nearest') !== null")


def test_what_made_them_alike_is_laid_over_both_pictures(answered):
    compare(answered, 2)
    answered.click("[data-explain]")
    answered.wait_for_selector("[data-overlay]:not([hidden])")
    overlays = answered.locator("#compare .layers .overlay")
    assert overlays.count() == 2
    assert "say nothing about disease" in answered.inner_text("[data-explained]")
    plain = answered.locator("#compare .layers img:not(.overlay)")
    for overlay, picture in zip(overlays.all(), plain.all(), strict=True):
        shape = "one => (one.naturalWidth / one.naturalHeight).toFixed(1)"
        assert overlay.evaluate(shape) == picture.evaluate(shape)
    answered.click("[data-overlay]")
    assert not overlays.first.is_visible()
    answered.click("[data-overlay]")
    assert overlays.first.is_visible()
    # Another case must not keep the explanation of this one.
    answered.click('[data-step="1"]')
    assert overlays.count() == 0


def test_a_refined_search_shows_no_vote_and_says_why(answered):
    first = answered.locator(".grid .case").first.get_attribute("data-case")
    answered.check(".grid li:nth-child(1) .judge-not input", force=True)
    answered.check(".grid li:nth-child(3) .judge-relevant input", force=True)
    assert "1 marked relevant, 1 not" in answered.inner_text("[data-marked]")
    wanted = answered.locator(".grid li:nth-child(3) .case").get_attribute("data-case")
    answered.click("#again")
    answered.wait_for_selector(".withheld")
    assert answered.inner_text("#vote-title") == "No vote"
    assert "what was marked" in answered.inner_text(".withheld")
    assert answered.locator(".shares, .probability").count() == 0
    assert answered.locator("#nearest .case").count() == 1
    # The marks stay, on the cards or, where a case is gone, in the form.
    for case, value in ((first, "not"), (wanted, "relevant")):
        mark = f'[name="mark:{case}"][value="{value}"]'
        assert answered.locator(f"{mark}:checked, {mark}[type=hidden]").count() == 1
    answered.click(".button-link")
    answered.wait_for_selector(".shares")


def test_a_search_again_needs_a_case_marked_relevant(visit, lesions, look_up):
    page = visit(lesions, expected=("status of 422", "htmx:"))
    look_up(page, lesions.queries[0])
    page.check(".grid li:nth-child(1) .judge-not input", force=True)
    assert "at least one case as relevant" in page.inner_text("[data-marked]")
    page.click("#again")
    page.wait_for_selector('[data-code="error"]')
    assert "at least one case as relevant" in page.inner_text("#alerts")
    assert page.locator(".grid .case").count() == 16
