"""The page from an image to its answer, in a real browser."""

import base64
import re
from urllib.parse import urlsplit

import pydicom
import pytest
from PIL import Image
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, VLPhotographicImageStorage, generate_uid

SIZES = pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)])


def is_in_sight(page, selector):
    """Whether all of an element lies inside the window."""
    box = page.locator(selector).bounding_box()
    size = page.viewport_size
    return box is not None and box["y"] >= 0 and box["y"] + box["height"] <= size["height"]


@SIZES
def test_what_must_not_be_missed_is_always_in_sight(visit, lesions, look_up, width, height):
    page = visit(lesions, width=width, height=height)
    assert "drawn by MedShadow, no patient's image" in page.inner_text(".archive")
    look_up(page, lesions.queries[0])
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert is_in_sight(page, ".research")
    assert "Research use only" in page.inner_text(".research")
    assert is_in_sight(page, ".archive")
    size = rf"{len(lesions.cases)} images of \d+ distinct cases"
    assert re.search(size, page.inner_text(".archive"))
    nearest = "#nearest .case" if width == 1280 else ".nearest-bar"
    assert is_in_sight(page, nearest)
    assert "nearest malignant" in page.inner_text(nearest).lower()


@SIZES
def test_nothing_is_wider_than_the_window(visit, lesions, look_up, width, height):
    page = visit(lesions, width=width, height=height)
    wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(wider)
    look_up(page, lesions.queries[0])
    assert not page.evaluate(wider)


def test_cases_say_what_they_are_and_how_that_is_known(visit, lesions, look_up):
    page = visit(lesions)
    look_up(page, lesions.queries[0])
    cards = page.locator(".grid .case")
    assert cards.count() == 16
    text = cards.first.inner_text()
    assert "Rank 1" in text
    assert re.search(r"Similarity\s+-?[01]\.\d\d", text)
    assert re.search(r"Established by (histology|follow-up|consensus|confocal)", text)
    malignant = page.locator(".grid .case-malignant")
    assert malignant.count() > 0
    for card in malignant.all():
        assert "MALIGNANT" in card.inner_text()
    # Each diagnosis has a shape of its own besides its colour.
    looks = page.eval_on_selector_all(
        ".grid .diagnosis",
        "all => all.map(one => [one.innerText, one.querySelector('use').getAttribute('href')])",
    )
    assert len({shape for _, shape in looks}) == len({name for name, _ in looks}) > 1


def test_a_share_is_never_called_a_probability(visit, lesions, look_up):
    page = visit(lesions)
    look_up(page, lesions.queries[0])
    vote = page.inner_text(".vote")
    assert "Share in this archive, not a probability" in vote
    assert re.search(r"\d+ of 16\s+\d+\W\d+ %", vote)
    assert "No probability" in vote
    counted = page.locator(".share-malignant .count").inner_text()
    assert counted == f"{page.locator('.grid .case-malignant').count()} of 16"


def test_warnings_come_before_everything_else(visit, lesions, look_up):
    page = visit(lesions)
    page.set_input_files("#image", lesions.queries[0])
    page.fill('[name="min:age"]', "60")
    page.select_option('[name="is:sex"]', "female")
    page.select_option('[name="k"]', "64")
    page.click("#look > button")
    page.wait_for_selector('[data-code="few_cases"]')
    assert page.title().startswith("Check first")
    assert page.locator("#alerts").get_attribute("role") == "alert"
    assert page.locator("main > *").first.get_attribute("id") == "alerts"
    top = page.locator("#alerts").bounding_box()
    assert top["y"] + top["height"] <= page.locator(".desk").bounding_box()["y"]


def test_a_filter_keeps_the_nearest_malignant_case(visit, lesions, look_up):
    page = visit(lesions)
    look_up(page, lesions.queries[0])
    page.click(".change summary")
    page.select_option('[name="is:labels"]', "nv")
    page.click("#look > button")
    page.wait_for_selector('[data-code="malignant_outside_filter"]')
    assert set(page.locator(".grid .case-name").all_inner_texts()) == {"melanocytic naevus nv"}
    assert "Does not meet the filter" in page.inner_text("#nearest")
    # Its rank is not one among the cases beside it.
    assert re.search(r"rank \d+ without the filter", page.inner_text("#nearest"))
    assert "Only cases with diagnosis melanocytic naevus: " in page.inner_text("#found")
    # All of them are naevi because that was asked for: their number is no vote.
    assert page.inner_text("#vote-title") == "Vote held back"
    assert not page.locator(".shares").is_visible()


def test_filters_are_the_archives_own_columns(visit, lesions):
    page = visit(lesions)
    names = page.eval_on_selector_all("#look [name]", "all => all.map(one => one.name)")
    assert {"is:labels", "min:age", "max:age", "is:sex", "is:localization"} <= set(names)
    offered = page.locator('[name="is:sex"] option').all_inner_texts()
    assert {"any", "female", "male"} <= set(offered)


def test_an_image_can_be_dropped_or_pasted(visit, lesions):
    page = visit(lesions)
    content = base64.b64encode(lesions.queries[0].read_bytes()).decode()
    for kind, carrier in (("drop", "dataTransfer"), ("paste", "clipboardData")):
        page.evaluate(
            """([content, kind, carrier]) => {
                const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
                const data = new DataTransfer();
                data.items.add(new File([bytes], "Doe^John.jpg", {type: "image/jpeg"}));
                const Kind = kind === "drop" ? DragEvent : ClipboardEvent;
                const how = {bubbles: true, cancelable: true, [carrier]: data};
                document.body.dispatchEvent(new Kind(kind, how));
            }""",
            [content, kind, carrier],
        )
        page.wait_for_selector("[data-preview]:not([hidden])")
        assert page.evaluate("document.querySelector('#image').files[0].name") == "image.jpg"
    page.keyboard.press("Enter")
    page.wait_for_selector("#answer")


def test_a_dicom_file_is_looked_up_and_shown(visit, lesions, look_up, tmp_path):
    path = tmp_path / "photograph.dcm"
    write_dicom(path, Image.open(lesions.queries[0]))
    page = visit(lesions)
    look_up(page, path)
    assert page.locator(".grid .case").count() == 16
    shown = page.locator(".query img")
    assert shown.evaluate("one => one.naturalWidth") == 300


def test_nothing_that_names_a_case_or_a_file_leaves_in_a_url(visit, lesions, look_up):
    page = visit(lesions)
    urls, bodies = [], []
    page.on("request", lambda request: urls.append(request.url))
    page.on("request", lambda request: bodies.append(request.post_data_buffer or b""))
    look_up(page, lesions.queries[0])
    page.check(".grid li:nth-child(2) .judge-relevant input", force=True)
    page.click("#again")
    page.wait_for_selector(".withheld")
    asked = [url for url in urls if not url.startswith("data:")]
    assert asked
    assert all(not urlsplit(url).query for url in asked)
    assert not [url for url in asked for case in lesions.cases if case in url]
    assert not [body for body in bodies if lesions.queries[0].name.encode() in body]


def test_without_scripts_the_lookup_works_all_the_same(visit, lesions):
    page = visit(lesions, script=False)
    page.set_input_files("#image", lesions.queries[0])
    page.click("#look > button")
    page.wait_for_selector("#answer")
    assert page.locator(".grid .case").count() == 16
    assert page.locator("#nearest .case").count() == 1
    # What would do nothing without scripts is not offered.
    page.locator("[data-print]").wait_for(state="hidden")
    page.check(".grid li:nth-child(2) .judge-relevant input", force=True)
    page.click("#again")
    page.wait_for_selector(".withheld")


def test_what_is_no_image_is_refused_in_words(visit, lesions, look_up, tmp_path):
    path = tmp_path / "letter.png"
    path.write_bytes(b"Dear colleague")
    page = visit(lesions, expected=("status of 422", "htmx:"))
    page.set_input_files("#image", path)
    page.click("#look > button")
    page.wait_for_selector('#alerts [data-code="error"]')
    assert "image" in page.inner_text("#alerts")
    assert page.locator("#look").is_visible()
    look_up(page, lesions.queries[0])
    assert page.locator('[data-code="error"]').count() == 0


def test_a_service_that_is_gone_is_told(visit, lesions):
    page = visit(lesions, expected=("ERR_FAILED", "htmx:"))
    page.route("**/lookup", lambda route: route.abort())
    page.set_input_files("#image", lesions.queries[0])
    page.click("#look > button")
    page.wait_for_selector('#alerts [data-code="error"]')
    assert "Nothing was looked up" in page.inner_text("#alerts")


def test_the_watch_on_the_page_sees_a_request_to_another_host(visit, lesions):
    page = visit(lesions)
    page.evaluate("fetch('http://elsewhere.invalid/').catch(() => null)")
    page.wait_for_timeout(200)
    assert any("elsewhere.invalid" in fault for fault in visit.faults)
    visit.faults.clear()


def write_dicom(path, picture):
    """A photograph as DICOM, with a name in its header."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = VLPhotographicImageStorage
    data.SOPClassUID = VLPhotographicImageStorage
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.PatientName = "Doe^John"
    data.Modality = "XC"
    data.BurnedInAnnotation = "NO"
    data.Rows, data.Columns = picture.height, picture.width
    data.SamplesPerPixel, data.PlanarConfiguration = 3, 0
    data.PhotometricInterpretation = "RGB"
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit, data.PixelRepresentation = 7, 0
    data.PixelData = picture.convert("RGB").tobytes()
    data.save_as(path, enforce_file_format=True)
