"""Models trained inside an experiment, and the one that was trained before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from costmodel.ensemble import Ensemble
    from costmodel.features import Representation
    from costmodel.losses import LossName
    from costmodel.train import Samples

#: From the paper's model to what knows least.
NETWORKS = ("recursive", "flat_lstm", "feed_forward")
SYSTEMS = (*NETWORKS, "gradient_boosting", "constant", "best_constant")


def trained_before(path: str) -> Ensemble:
    """The model of a checkpoint; "default" is the one that comes with the package."""
    from costmodel.checkpoints import load_model

    return load_model(path)


def predicted(
    system: str,
    train: Samples,
    validation: Samples | None,
    test: Samples,
    *,
    seed: int,
    epochs: int,
    batch: int,
    loss: LossName = "mape",
    representation: Representation = "compact",
) -> NDArray[np.float32]:
    """(n,) speedups of the test set by one of SYSTEMS, trained on the training set.

    Networks have the widths of the model that comes with the package.
    best_constant knows the test set: no constant has a lower MAPE on it.
    """
    import attrs
    import torch

    from costmodel import baselines
    from costmodel.checkpoints import THREE_FIT
    from costmodel.model import CostModel
    from costmodel.train import TrainConfig
    from costmodel.train import train as fit

    if system == "constant":
        return baselines.Constant.median_of(train.speedups).predict_trees(test.trees)
    if system == "best_constant":
        return baselines.Constant.best_of(test.speedups).predict_trees(test.trees)
    if system == "gradient_boosting":
        boosting = baselines.GradientBoosting(seed).fit(train.trees, train.speedups)
        return boosting.predict_trees(test.trees)
    kinds = (CostModel, baselines.FlatLSTM, baselines.FeedForward)
    kind = next(kind for kind in kinds if kind.kind == system)
    torch.manual_seed(seed)
    model = kind(attrs.evolve(THREE_FIT, representation=representation))
    config = TrainConfig(loss=loss, epochs=epochs, batch=batch, seed=seed)
    fit(model, train, config, validation=validation)
    return model.predict_trees(test.trees)
