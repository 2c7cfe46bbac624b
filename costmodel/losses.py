"""What training lowers: the paper's MAPE, the error of logarithms, and a loss of ranks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

LossName = Literal["mape", "log", "ndcg"]


def loss(name: LossName, predicted: Tensor, measured: Tensor, program: Tensor) -> Tensor:
    """A number to lower. All arguments are (B,); program numbers the programs."""
    match name:
        case "mape":
            return mape(predicted, measured)
        case "log":
            return log_error(predicted, measured)
        case "ndcg":
            return lambda_ndcg(predicted, measured, program)
    raise ValueError(f"loss must be mape, log or ndcg, got {name!r}")


def mape(predicted: Tensor, measured: Tensor) -> Tensor:
    """100 mean(|y - p| / y)."""
    return 100 * ((measured - predicted).abs() / measured).mean()


def log_error(predicted: Tensor, measured: Tensor) -> Tensor:
    """Mean of |log p - log y|: being twice too fast costs as much as being twice too slow."""
    return (predicted.log() - measured.log()).abs().mean()


def lambda_ndcg(predicted: Tensor, measured: Tensor, program: Tensor) -> Tensor:
    """LambdaLoss for nDCG (Wang et al., CIKM 2018), over pairs of schedules of one program.

    Each pair in the wrong order costs log2(1 + exp(-(s_i - s_j))) times what exchanging the two
    would change in nDCG; s is the logarithm of the predicted, a gain the measured speedup.
    """
    scores = predicted.log()
    same = program[:, None] == program[None, :]
    with torch.no_grad():
        # Ranks within each program, from 0.
        above = same & (scores[None, :] > scores[:, None])
        discount = 1 / torch.log2(2.0 + above.sum(dim=1))
        better = same & (measured[None, :] > measured[:, None])
        best = measured / torch.log2(2.0 + better.sum(dim=1))
        ideal = torch.zeros_like(measured).index_add(0, program, best)[program]
        gain = measured / ideal
        weight = (gain[:, None] - gain[None, :]).abs()
        weight = weight * (discount[:, None] - discount[None, :]).abs()
        wanted = same & (measured[:, None] > measured[None, :])
    difference = scores[:, None] - scores[None, :]
    cost = torch.nn.functional.softplus(-difference) / torch.log(torch.tensor(2.0))
    n_programs = len(torch.unique(program))
    return (cost * weight)[wanted].sum() / n_programs
