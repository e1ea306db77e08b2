"""ResNet-18 and ResNet-34 feature maps, without torchvision.

torchvision requires an exact version of torch, and with any other one even Lightning fails to
import. Of torchvision, a policy needs no more than these two small networks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

BLOCKS_PER_STAGE = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
N_FEATURES = 512


class FrozenBatchNorm(nn.Module):
    """Batch normalisation with fixed statistics and fixed affine parameters.

    The statistics of small batches are unreliable, so detectors (DETR,
    https://arxiv.org/abs/2005.12872) and ACT keep the ones of ImageNet.

    Args:
        num_features: Number of channels of the feature map.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(num_features))
        self.register_buffer("bias", torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise a feature map, (B, C, H, W), without changing its shape."""
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, training=False
        )


def group_norm(num_features: int) -> nn.GroupNorm:
    """Create a normalisation layer that needs neither pretrained statistics nor large batches.

    Args:
        num_features: Number of channels of the feature map, a multiple of 32.

    Returns:
        Group normalisation with 32 groups (Wu and He 2018, https://arxiv.org/abs/1803.08494).
    """
    return nn.GroupNorm(32, num_features)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al. 2015, https://arxiv.org/abs/1512.03385).

    Args:
        in_features: Number of input channels.
        features: Number of output channels.
        stride: Stride of the first convolution and of the shortcut.
        dilation: Dilation of both convolutions.
        norm: Function that creates a normalisation layer for a number of channels.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        stride: int,
        dilation: int,
        norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_features, features, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn1 = norm(features)
        self.conv2 = nn.Conv2d(
            features, features, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = norm(features)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_features != features:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_features, features, 1, stride, bias=False), norm(features)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_features, H, W) to (B, features, H / stride, W / stride)."""
        out = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.downsample(x), inplace=True)


class ResNet(nn.Module):
    """The convolutional part of a ResNet, with torchvision's parameter names.

    Args:
        name: Name of the network, "resnet18" or "resnet34".
        norm: Normalisation: "frozen_batch_norm" for pretrained weights, or "group_norm".
        replace_final_stride_with_dilation: Whether the last stage keeps stride 16 and dilates its
            convolutions instead, which makes a feature map with four times as many pixels.
    """

    def __init__(
        self, name: str, norm: str, *, replace_final_stride_with_dilation: bool = False
    ) -> None:
        super().__init__()
        make_norm: Callable[[int], nn.Module] = (
            FrozenBatchNorm if norm == "frozen_batch_norm" else group_norm
        )
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = make_norm(64)
        in_features = 64
        for stage, n_blocks in enumerate(BLOCKS_PER_STAGE[name]):
            features = 64 * 2**stage
            dilate = stage == 3 and replace_final_stride_with_dilation  # noqa: PLR2004 - the last
            blocks = []
            for block in range(n_blocks):
                stride = 2 if block == 0 and stage > 0 and not dilate else 1
                # The input of the first block is the feature map of the previous stage, undilated.
                dilation = 2 if dilate and block > 0 else 1
                blocks.append(BasicBlock(in_features, features, stride, dilation, make_norm))
                in_features = features
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Compute the feature map of the last stage.

        Args:
            image: Normalised images, (B, 3, H, W).

        Returns:
            Feature map, (B, 512, H / 32, W / 32), rounded up; H / 16 and W / 16 if the last stride
            is replaced with dilation.
        """
        x = functional.relu(self.bn1(self.conv1(image)), inplace=True)
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        for stage in range(4):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x
