import pytest
from monai.transforms import Compose

from medshadow.transforms import dermatology_transforms, fundus_transforms, preset


def test_presets_are_found_by_name():
    assert preset("dermatology") is dermatology_transforms
    assert preset("fundus") is fundus_transforms
    even = [type(step).__name__ for step in preset("fundus_even")(32, train=False).transforms]
    plain = [type(step).__name__ for step in preset("fundus")(32, train=False).transforms]
    assert set(even) - set(plain) == {"EvenIlluminationd"}
    assert isinstance(preset("dermatology")(32, False), Compose)


@pytest.mark.parametrize("name", ["Dermatology", "", "os.system"])
def test_an_unknown_name_lists_those_there_are(name):
    with pytest.raises(
        ValueError,
        match=rf"no transform preset '{name}'; .*\['dermatology', 'fundus', 'fundus_even'\]",
    ):
        preset(name)
