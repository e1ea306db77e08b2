"""ResNet feature maps without torchvision."""

import pytest
import torch

from getiaction.policies.act.resnet import ResNet


@pytest.mark.parametrize(
    ("name", "n_parameters"), [("resnet18", 11_166_912), ("resnet34", 21_267_648)]
)
def test_frozen_norms_are_no_parameters(name: str, n_parameters: int) -> None:
    """With frozen norms only convolutions learn: torchvision's count without the rest."""
    backbone = ResNet(name, "frozen_batch_norm")
    assert sum(p.numel() for p in backbone.parameters()) == n_parameters


def test_frozen_norms_do_not_follow_the_batch() -> None:
    """Training leaves the statistics alone, and one image's features do not depend on others."""
    backbone = ResNet("resnet18", "frozen_batch_norm")
    before = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    images = torch.randn(3, 3, 64, 64)
    together = backbone.train()(images)
    torch.testing.assert_close(together[:1], backbone(images[:1]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dict(backbone.named_buffers()), before)


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "group_norm"])
def test_the_stride_is_32(norm: str) -> None:
    """The feature map has a 32nd of the image's height and width, rounded up."""
    assert ResNet("resnet18", norm)(torch.rand(2, 3, 65, 96)).shape == (2, 512, 3, 3)


@pytest.mark.parametrize("name", ["resnet18", "resnet34"])
def test_dilation_replaces_the_last_stride(name: str) -> None:
    """With dilation the map is twice as high and wide, and the same weights see as far around."""
    plain = ResNet(name, "group_norm")
    dilated = ResNet(name, "group_norm", replace_final_stride_with_dilation=True)
    dilated.load_state_dict(plain.state_dict())
    assert dilated(torch.rand(1, 3, 64, 96)).shape == (1, 512, 4, 6)
    dilations = [
        module.dilation for module in dilated.layer4.modules() if hasattr(module, "dilation")
    ]
    assert (2, 2) in dilations


def test_norm_keeps_inputs_apart_from_scratch() -> None:
    """Without pretrained weights, group norm separates inputs better than frozen identity norms."""
    torch.manual_seed(0)
    images = torch.rand(8, 3, 64, 64)

    def spread(norm: str) -> float:
        features = ResNet("resnet18", norm)(images).flatten(1)
        return (features.std(0).norm() / features.norm(dim=1).mean()).item()

    assert spread("group_norm") > spread("frozen_batch_norm")
