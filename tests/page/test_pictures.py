"""The pictures of docs/lookup.md, of drawn lesions, by a service as it is: ONNX Runtime and all.

They are made anew by this file; CONTRIBUTING.md says how.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from medshadow.data import ham10k_cases, split_cases, write_phantoms
from medshadow.data.ham10k import DIAGNOSES
from medshadow.networks import Embedder, Whitening
from medshadow.retrieval import encode_cases

DOCS = Path(__file__).parents[2] / "docs" / "images"
WIDTH, HEIGHT = 1280, 800
# Of 16 cases half an archive of seven diagnoses would be right by chance at best.
FAIR = 0.7


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A store of drawn lesions and a model fitted to them: folder, images that it does not hold."""
    from medshadow.workflows import build_store

    folder = tmp_path_factory.mktemp("gallery")
    root = write_phantoms(folder / "drawn", lesions=240, progress=False)
    table = split_cases(ham10k_cases(root), {"training": 0.6, "validation": 0.3, "test": 0.1}, 0)
    table = replace(table, source="drawn by MedShadow, no patient's image")
    known, validation, asked = map(table.section, ("training", "validation", "test"))
    embedder = Embedder("efficientnet-lite0", preprocess={"preset": "dermatology", "size": 128})
    features = encode_cases(embedder.without_head(), known, progress=False)
    embedder.end_with(Whitening.fit(features, list(known.frame["label"]), 64))
    embedder.save(folder / "model")
    build_store(
        embedder,
        known,
        folder / "cases.db",
        diagnosis_names=DIAGNOSES,
        validation=validation,
        progress=False,
    ).close()
    return folder, asked


@pytest.fixture(scope="module")
def fair(gallery):
    """The image of which as many of the cases found are right as of the middle one of all."""
    from medshadow.retrieval import CaseLookup, CaseStore

    folder, asked = gallery
    with CaseStore(folder / "cases.db") as store:
        lookup = CaseLookup(store, Embedder.load(folder / "model"))
        right = []
        for image, label in zip(asked.frame["image"], asked.frame["label"], strict=True):
            hits = lookup.lookup(image, k=16).hits
            right.append((sum(hit.label == label for hit in hits) / len(hits), image))
    middle, image = sorted(right)[len(right) // 2]
    assert middle >= FAIR
    return Path(image)


def test_the_documentation_s_pictures(
    gallery, fair, serve, visit, look_up, screenshot, caplog, integration
):
    for package in ("onnxruntime", "onnx", "onnxscript"):
        integration(find_spec(package) is not None, f"no {package}; the extra is service")
    service = serve((gallery[0], (fair,)), onnx=True, insecure_local=True)
    # The service warns where it cannot use ONNX Runtime.
    assert not [one for one in caplog.records if one.name.startswith("medshadow")]
    page = visit(service, width=WIDTH, height=HEIGHT)
    taken = [screenshot(page, "lookup_start", full_page=True)]
    look_up(page, fair)
    assert page.locator(".grid .case").count() == 16
    taken.append(screenshot(page, "lookup_answer"))
    page.click(".grid li:nth-child(1) [data-compare]")
    page.click("[data-explain]")
    page.wait_for_selector(".overlay >> nth=1")
    page.wait_for_function("[...document.images].every(one => one.complete)")
    taken.append(screenshot(page, "lookup_compare"))
    for path in taken:
        with Image.open(path) as picture:
            small = picture.convert("RGB").quantize(256)
        small.save(path, optimize=True)
        # Fonts differ between machines; another width means that the documentation is behind.
        with Image.open(DOCS / path.name) as documented:
            assert documented.width == small.width
