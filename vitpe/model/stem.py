"""A convolutional stem: what lies around a patch's pixels, found before there are tokens."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, linear

from vitpe.config import LAYER_NORM_EPS, STEM_STRIDE, ModelConfig


class ConvStem(nn.Module):
    """Patches (B, N, C·P·P) of a grid → features (B, N, D), added to the patch projection's.

    3 × 3 convolutions of stride 2 to width, 2 · width and 4 · width channels, a pre-norm residual block of two more,
    and a linear map of the P/8 × P/8 features in each patch (arXiv:2106.14881; "Hybrid Architecture" in
    arXiv:2010.11929). Unlike a patch projection these filters are shared among all pixels and see beyond a patch's
    border, which a model otherwise has to learn from many more images. The block's second convolution starts at zero.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.grid_size, self.patch_size, self.in_chans = config.grid_size, config.patch_size, config.in_chans
        width = config.stem_width
        self.conv1 = _Convolution(config.in_chans, width, stride=2)
        self.conv2 = _Convolution(width, 2 * width, stride=2)
        self.conv3 = _Convolution(2 * width, 4 * width, stride=2)
        self.norm = nn.LayerNorm(4 * width, eps=LAYER_NORM_EPS)
        self.conv4 = _Convolution(4 * width, 4 * width)
        self.conv5 = _Convolution(4 * width, 4 * width)
        nn.init.zeros_(self.conv5.weight)
        num_values = 4 * width * (config.patch_size // STEM_STRIDE) ** 2
        self.proj_weight = _weight(config.embed_dim, num_values)
        self.proj_bias = nn.Parameter(torch.zeros(config.embed_dim))

    def forward(self, patches: Tensor) -> Tensor:
        (rows, columns), p, side = self.grid_size, self.patch_size, self.patch_size // STEM_STRIDE
        b = patches.shape[0]
        images = patches.view(b, rows, columns, self.in_chans, p, p).permute(0, 3, 1, 4, 2, 5)
        x = images.reshape(b, self.in_chans, rows * p, columns * p).contiguous(memory_format=torch.channels_last)
        for conv in (self.conv1, self.conv2, self.conv3):
            x = gelu(conv(x))
        normed = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        x = x + self.conv5(gelu(self.conv4(normed)))
        x = x.permute(0, 2, 3, 1).reshape(b, rows, side, columns, side, -1).transpose(2, 3)
        return linear(x.reshape(b, rows * columns, -1), self.proj_weight, self.proj_bias)


class _Convolution(nn.Module):
    """3 × 3, zero-padded. The weight is a matrix, (out, in · 9), so that Muon takes it as it is."""

    def __init__(self, in_chans: int, out_chans: int, stride: int = 1) -> None:
        super().__init__()
        self.in_chans, self.stride = in_chans, stride
        self.weight = _weight(out_chans, in_chans * 9)
        self.bias = nn.Parameter(torch.zeros(out_chans))

    def forward(self, features: Tensor) -> Tensor:
        weight = self.weight.view(-1, self.in_chans, 3, 3).contiguous(memory_format=torch.channels_last)
        return conv2d(features, weight, self.bias, self.stride, padding=1)


def _weight(num_out: int, num_in: int) -> nn.Parameter:
    """A matrix that keeps the variance of its inputs (LeCun et al. 1998, "Efficient BackProp", section 4.6)."""
    weight = nn.Parameter(torch.empty(num_out, num_in))
    nn.init.trunc_normal_(weight, std=num_in**-0.5)
    return weight
