"""Signing in to an archive of eyes: several diseases a case, left and right."""

import pytest

READER = "reader-token-of-the-tests"


@pytest.fixture
def signed_in(visit, eyes):
    """The page of the eyes, for who knows the token."""
    page = visit(eyes, expected=("status of 401",))
    assert page.url.endswith("/login")
    page.fill("#token", "a-token-that-is-not-known")
    page.keyboard.press("Enter")
    page.wait_for_selector("[role=alert]")
    assert "not known" in page.inner_text("[role=alert]")
    page.fill("#token", READER)
    page.keyboard.press("Enter")
    page.wait_for_selector("#look")
    return page


def test_a_stranger_learns_nothing_and_a_reader_can_leave(signed_in):
    signed_in.click(".person button")
    signed_in.wait_for_selector("#token")
    assert signed_in.locator(".archive").count() == 0
    assert [one["name"] for one in signed_in.context.cookies()] == ["medshadow-visit"]


def test_an_eye_is_looked_up_with_its_side(signed_in, eyes, look_up):
    left = next(path for path in eyes.queries if path.stem.endswith("_left"))
    look_up(signed_in, left)
    # Nobody said which eye: that is the first thing to read.
    assert signed_in.locator('[data-code="which_eye"]').count() == 1
    signed_in.click(".change summary")
    signed_in.check('[name="laterality"][value="left"]', force=True)
    signed_in.select_option('[name="k"]', "64")
    signed_in.click("#look > button")
    signed_in.wait_for_selector(".query:has-text('left eye')")
    assert signed_in.locator('[data-code="which_eye"]').count() == 0
    assert "sight-threatening" in signed_in.inner_text("#nearest").lower()
    facts = signed_in.locator(".grid .case").first.inner_text()
    assert " eye" in facts
    assert "Findings: " in facts
    several = signed_in.locator(".grid .case-name:has(.diagnosis:nth-child(2))")
    assert several.count() > 0
    # Against an eye of the other side the comparison says that they mirror each other.
    signed_in.click('.grid .case[data-eye="right"] [data-compare] >> nth=0')
    assert signed_in.locator("[data-mirror]").is_visible()
    signed_in.click("[data-close]")
    # Another image may show the other eye.
    signed_in.click(".change summary")
    signed_in.set_input_files("#image", eyes.queries[0])
    signed_in.wait_for_selector("[data-preview]:not([hidden])")
    assert signed_in.locator('[name="laterality"][value=""]').is_checked()
