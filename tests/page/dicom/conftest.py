"""The page of a service that may ask a real Orthanc: the one of the tests of DICOMweb."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from medshadow.service.dicomweb_line import CREDENTIALS

_path = Path(__file__).parents[2] / "service" / "dicom" / "conftest.py"
_spec = spec_from_file_location("medshadow_tests_orthanc", _path)
_fixtures = module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

_orthanc = _fixtures._orthanc
orthanc = _fixtures.orthanc
dicomweb = _fixtures.dicomweb
person = _fixtures.person
photograph = _fixtures.photograph
study = _fixtures.study


@pytest.fixture(scope="session")
def clinic(serve, archive, _orthanc):
    """Drawn lesions, for who is on this machine, and Orthanc."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CREDENTIALS, ":".join(_orthanc.auth))
        root = f"{_orthanc.root}/dicom-web"
        return serve(archive("lesions"), insecure_local=True, dicomweb=root)
