"""An image that is named on the DICOM server, and its answer stored there, from the page."""

import pytest

REFUSED = ("status of 4", "status of 5", "htmx:")


@pytest.fixture
def page(visit, clinic, orthanc):
    """The page of a service that may ask Orthanc."""
    return visit(clinic, expected=REFUSED)


def name(page, reference):
    page.fill("#reference", reference)
    page.click("#look > button")


def error_beside_the_field(page):
    page.wait_for_selector("#reference[aria-invalid]")
    field, error = page.locator("#reference"), page.locator("#reference-error")
    assert error.get_attribute("id") in field.get_attribute("aria-describedby").split()
    below = error.bounding_box()["y"] - field.bounding_box()["y"]
    assert 0 < below < 80
    return error.inner_text()


def test_an_instance_is_looked_up_and_its_report_stored(
    page, clinic, dicomweb, photograph, person, study, violations, screenshot
):
    reference = dicomweb.store(photograph(31))
    assert violations(page) == []
    screenshot(page, "dicom-start", full_page=True)
    name(page, f"{dicomweb.url}/{reference}")
    page.wait_for_selector("#answer")
    assert "40 px, from the DICOM server" in page.inner_text(".query figcaption")
    assert page.url == clinic.url
    assert page.input_value("#reference") == ""
    # Other filters, the same image: it still is the server's.
    page.click(".change summary")
    page.select_option('[name="k"]', "8")
    page.click("#look > button")
    page.wait_for_selector("#answer:has-text('8 nearest')")
    screenshot(page, "dicom-answer")
    assert violations(page) == []
    page.click("text=Store as DICOM report")
    page.wait_for_selector("[data-stored]")
    assert "own study" in page.inner_text("[data-stored]")
    assert page.evaluate("document.activeElement.hasAttribute('data-stored')")
    assert page.locator("text=Store as DICOM report").count() == 0
    report = dicomweb.instances(study)
    assert len(report) == 2
    header = dicomweb.header(next(one for one in report if one != reference), ["Modality"])
    assert header.Modality == "SR"
    assert page.url == clinic.url
    shown = page.inner_text("body")
    assert not [word for word in person if word in shown]


def test_what_is_wrong_stands_beside_the_field(page, clinic, dicomweb, study, look_up):
    look_up(page, clinic.queries[0])
    page.click(".change summary")
    for reference, words in (
        ("studies/1.2", "expected studies/UID/series/UID/instances/UID"),
        (f"http://127.0.0.1:1/studies/{study}/series/1/instances/1", "names another server"),
        (f"studies/{study}/series/1.2/instances/1.3", "holds no such instance"),
    ):
        name(page, reference)
        page.wait_for_function(
            "words => document.querySelector('#reference-error').textContent.includes(words)",
            arg=words,
        )
        assert words in error_beside_the_field(page)
        assert page.evaluate("document.activeElement.id") == "reference"
        # What was found before still stands, and may be read.
        assert page.locator(".grid .case").count() == 16
    page.fill("#reference", "s")
    assert page.locator("#reference[aria-invalid]").count() == 0
    assert page.inner_text("#reference-error") == ""


def test_without_scripts_too(visit, clinic, dicomweb, photograph):
    page = visit(clinic, script=False, expected=REFUSED)
    name(page, "studies/1.2")
    assert "expected studies/UID" in error_beside_the_field(page)
    assert page.input_value("#reference") == "studies/1.2"
    name(page, dicomweb.store(photograph(32)))
    page.wait_for_selector("#answer")
    assert page.url == f"{clinic.url}lookup"
    assert page.locator(".grid .case").count() == 16


def test_a_file_and_an_instance_are_not_looked_up_together(page, visit, clinic):
    page.fill("#reference", "studies/1.2")
    page.set_input_files("#image", clinic.queries[0])
    assert page.input_value("#reference") == ""
    page.fill("#reference", "studies/1.2")
    assert page.evaluate("document.querySelector('#image').files.length") == 0
    assert page.inner_text("[data-chosen]") == ""
    # Without scripts nothing keeps them apart before they are sent.
    plain = visit(clinic, script=False, expected=REFUSED)
    plain.set_input_files("#image", clinic.queries[0])
    name(plain, "studies/1.2")
    assert "not both" in error_beside_the_field(plain)


def test_a_file_after_an_instance_is_not_the_server_s(page, clinic, dicomweb, photograph, look_up):
    name(page, dicomweb.store(photograph(33)))
    page.wait_for_selector("#answer")
    assert page.locator("text=Store as DICOM report").is_visible()
    page.click(".change summary")
    look_up(page, clinic.queries[0])
    page.wait_for_selector(".query:has-text('225 px')")
    assert "DICOM server" not in page.inner_text(".query")
    assert page.locator("text=Store as DICOM report").count() == 0


def test_a_report_that_cannot_be_stored_is_told_and_the_warnings_stay(
    page, dicomweb, photograph, orthanc, study
):
    import requests

    page.select_option('[name="is:sex"]', "female")
    page.select_option('[name="k"]', "64")
    name(page, dicomweb.store(photograph(34)))
    page.wait_for_selector('[data-code="few_cases"]')
    before = page.locator("#alerts .warning").all_inner_texts()
    assert before
    for one in requests.get(f"{orthanc.root}/studies", auth=orthanc.auth, timeout=20).json():
        requests.delete(f"{orthanc.root}/studies/{one}", auth=orthanc.auth, timeout=20)
    page.click("text=Store as DICOM report")
    page.wait_for_selector('#alerts [data-code="error"]')
    assert "no such instance" in page.inner_text('#alerts [data-code="error"]')
    assert page.locator("#alerts .warning:not([data-code=error])").all_inner_texts() == before
    assert page.locator("text=Store as DICOM report").is_visible()


def test_without_a_server_there_is_no_field(visit, lesions):
    assert visit(lesions).locator("#reference").count() == 0
