"""What a model's figures stand beside."""

from medshadow.data import ham10k_cases, split_cases, write_phantoms
from medshadow.networks import Embedder, backbone
from medshadow.workflows.evaluation import baselines


def test_a_backbone_without_weights_stands_beside_the_majority_alone(tmp_path, caplog):
    cases = ham10k_cases(write_phantoms(tmp_path, lesions=30, progress=False))
    table = split_cases(cases, {"training": 0.5, "test": 0.5})
    preprocess = {"preset": "dermatology", "size": 32}
    embedder = Embedder(backbone("resnet18", pretrained=False), 8, preprocess=preprocess)
    found = baselines(embedder.eval(), table, bootstrap=0)
    assert {name.split("/")[0] for name in found} == {"majority"}
    assert 0 < found["majority/recall_at_1"] < 1
    assert "resnet18 comes without weights" in caplog.text
