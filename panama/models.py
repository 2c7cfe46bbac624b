"""Sizes of models that are trained: parameters, whose gradients are summed."""

from __future__ import annotations

from common.spelling import did_you_mean

# Convolutional networks: trainable parameters of torchvision.models (its documentation lists them
# under "num_params" of the ImageNet weights). bert_large: the uncased model with its pooler, by its
# shapes (24 layers of 1024, 30522 words; Devlin et al., 2019, say 340 M).
PARAMETERS = {
    "mobilenet_v2": 3_504_872,
    "alexnet": 61_100_840,
    "resnet50": 25_557_032,
    "resnet152": 60_192_808,
    "vgg16": 138_357_544,
    "bert_large": 335_141_888,
}

#: Bytes of one gradient on the wire.
BYTES_OF_FORMAT = {"fp32": 4, "bf16": 2, "int32": 4}


def gradient_bytes(model: str, fmt: str) -> int:
    """Bytes of a model's gradients; ValueError listing the names for one unknown."""
    if model not in PARAMETERS:
        raise ValueError(
            f"unknown model {model!r}{did_you_mean(model, PARAMETERS)}; "
            f"there are {', '.join(PARAMETERS)}, or say bytes="
        )
    return PARAMETERS[model] * BYTES_OF_FORMAT[fmt]
