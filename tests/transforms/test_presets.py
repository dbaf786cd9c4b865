import pytest
from monai.transforms import Compose

from medshadow.transforms import dermatology_transforms, fundus_transforms, preset


def test_presets_are_found_by_name():
    assert preset("dermatology") is dermatology_transforms
    assert preset("fundus") is fundus_transforms
    assert isinstance(preset("dermatology")(32, False), Compose)


@pytest.mark.parametrize("name", ["Dermatology", "", "os.system"])
def test_an_unknown_name_lists_those_there_are(name):
    with pytest.raises(
        ValueError, match=rf"no transform preset '{name}'; .*\['dermatology', 'fundus'\]"
    ):
        preset(name)
