"""EncoderLayer, a drop-in for nn.TransformerEncoderLayer, and `optimize`, which puts it there."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from common import gemm, native
from transformer_dm import masks
from transformer_dm.options import PLANS, Activation, Options, Plan, Rates, drops, rates_of
from transformer_dm.reference import layer as reference

__all__ = ["EncoderLayer", "Optimized", "optimize"]

_NATIVE = (torch.float32, torch.bfloat16)
_TORCH_ONLY = (torch.float64,)
_FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
}


class EncoderLayer(nn.Module):
    """An nn.TransformerEncoderLayer whose training step moves a third of the data.

    Arguments, parameters, their names and first values, and results are those of torch's layer but
    for these: dropout may be four rates, for the attention, after it, in the hidden part and after
    linear 2; batch_first is True unless told otherwise; which elements are dropped comes from a
    counter (see philox.py), with one seed a call drawn from torch's default generator; a query
    whose keys are all masked gets zeros from the attention instead of NaN; is_causal needs no
    mask, and if it is given the mask is not looked at; hooks on the parts never run.

    plan: see transformer_dm.options; "unfused" needs no compiler
    recompute_activation: keep 4 N values less a token, for a few percent more time
    deterministic: results have the same bits for any number of threads; so they have inside
        common.gemm.deterministic() and with torch.use_deterministic_algorithms(True)

    float32 and bfloat16 run in native code on the CPU; float64, and other devices, in plain torch.
    Under autocast the layer computes in the type of its parameters.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float | tuple[float, float, float, float] = 0.1,
        activation: str | Callable[[Tensor], Tensor] = functional.relu,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = True,
        norm_first: bool = False,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        plan: Plan = "flash",
        recompute_activation: bool = False,
        deterministic: bool = False,
    ) -> None:
        super().__init__()
        if d_model <= 0 or nhead <= 0 or d_model % nhead:
            raise ValueError(
                f"d_model must be a positive multiple of nhead, got {d_model} and {nhead}"
            )
        if plan not in PLANS:
            raise ValueError(f"plan must be one of {', '.join(PLANS)}, got {plan!r}")
        known = _activation_name(activation)
        if known is None:
            raise ValueError(
                'activation must be "relu", "gelu", torch.nn.functional.relu or gelu, got '
                f"{activation!r}: keep nn.TransformerEncoderLayer for another"
            )
        attention, after_attention, hidden, after_linear2 = rates_of(dropout)
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        # In torch's order, so that one seed gives both layers the same values.
        self.self_attn = nn.MultiheadAttention(
            d_model, nhead, dropout=attention, bias=bias, batch_first=batch_first, **made
        )
        self.linear1 = nn.Linear(d_model, dim_feedforward, bias=bias, **made)
        self.dropout = nn.Dropout(hidden)
        self.linear2 = nn.Linear(dim_feedforward, d_model, bias=bias, **made)
        self.norm1 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made)
        self.norm2 = nn.LayerNorm(d_model, eps=layer_norm_eps, bias=bias, **made)
        self.dropout1 = nn.Dropout(after_attention)
        self.dropout2 = nn.Dropout(after_linear2)
        self.activation = _FUNCTIONS[known]
        self._activation = known
        self.norm_first = norm_first
        self.plan: Plan = plan
        self.recompute_activation = recompute_activation
        self.deterministic = deterministic

    @property
    def rates(self) -> Rates:
        """Dropout of the attention, after it, in the hidden part, and after linear 2."""
        return self.self_attn.dropout, self.dropout1.p, self.dropout.p, self.dropout2.p

    def extra_repr(self) -> str:
        return f"plan={self.plan!r}, activation={self._activation!r}, norm_first={self.norm_first}"

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """The layer's output, of src's shape.

        src: (B, L, d_model), or (L, B, d_model) unless batch_first
        src_mask: (L, L) or (B nhead, L, L), bool (True: may not attend) or added to the scores
        src_key_padding_mask: (B, L), bool (True: is padding) or added to the scores
        is_causal: no token attends to a later one

        Raises ValueError for a shape that does not fit, TypeError for a type, NotImplementedError
        for nested or sparse tensors and for a src_mask that requires a gradient.
        """
        attention, linear1, linear2 = self.self_attn, self.linear1, self.linear2
        norm1, norm2 = self.norm1, self.norm2
        parameters = (
            attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight,
            attention.out_proj.bias, linear1.weight, linear1.bias, linear2.weight, linear2.bias,
            norm1.weight, norm1.bias, norm2.weight, norm2.bias,
        )  # fmt: skip
        _check_src(src, attention.embed_dim, attention.batch_first)
        dtype, device = src.dtype, src.device
        for parameter in parameters:
            if parameter is not None and (
                parameter.dtype is not dtype or parameter.device != device
            ):
                raise _other_than_parameters(src, parameter)
        x = src if attention.batch_first else src.transpose(0, 1)
        heads = attention.num_heads
        if src_mask is not None or src_key_padding_mask is not None:
            masks.check(src_mask, src_key_padding_mask, x.shape[0], x.shape[1], heads)
            src_mask = None if is_causal else src_mask
        rates: Rates = self.rates if self.training else (0.0, 0.0, 0.0, 0.0)
        has_kernels = self.plan != "unfused" and dtype in _NATIVE and device.type == "cpu"
        options = Options(
            self.plan,
            heads,
            self._activation,
            rates,
            (norm1.eps, norm2.eps),
            self.norm_first,
            is_causal,
            self.recompute_activation,
            self.deterministic or (not torch.compiler.is_compiling() and gemm.is_deterministic()),
        )
        seed = _draw_seed() if drops(rates) else None
        if not has_kernels or x.numel() == 0:
            y = reference.encoder_layer(
                x, parameters, src_mask, src_key_padding_mask, options, seed
            )
        else:
            # Here, so that plan "unfused" does without the kernels.
            from transformer_dm import ops

            for name, mask in (
                ("src_mask", src_mask),
                ("src_key_padding_mask", src_key_padding_mask),
            ):
                if mask is not None and mask.requires_grad:
                    raise NotImplementedError(
                        f"the kernels give {name} no gradient, but it requires one: detach it, or "
                        'use plan="unfused"'
                    )
            try:
                y = ops.run(x, parameters, src_mask, src_key_padding_mask, options, seed)
            except (native.CompilerNotFound, native.NativeBuildError) as error:
                error.add_note('without kernels a layer runs with plan="unfused"')
                raise
        return y if attention.batch_first else y.transpose(0, 1)

    @classmethod
    def from_torch(
        cls,
        layer: nn.TransformerEncoderLayer,
        *,
        plan: Plan = "flash",
        recompute_activation: bool = False,
        deterministic: bool = False,
    ) -> EncoderLayer:
        """A layer that computes what torch's does, on the same Parameter objects.

        Raises ValueError saying why if it cannot.
        """
        reason = _why_not(layer)
        if reason is not None:
            raise ValueError(f"this layer cannot be replaced: {reason}")
        attention = layer.self_attn
        made = cls(
            attention.embed_dim,
            attention.num_heads,
            layer.linear1.out_features,
            (attention.dropout, layer.dropout1.p, layer.dropout.p, layer.dropout2.p),
            layer.activation,
            layer.norm1.eps,
            attention.batch_first,
            layer.norm_first,
            attention.in_proj_bias is not None,
            device="meta",
            plan=plan,
            recompute_activation=recompute_activation,
            deterministic=deterministic,
        )
        made.norm2.eps = layer.norm2.eps
        _share(layer, made)
        return made

    def to_torch(self) -> nn.TransformerEncoderLayer:
        """Torch's layer on the same Parameter objects."""
        made = nn.TransformerEncoderLayer(
            self.self_attn.embed_dim,
            self.self_attn.num_heads,
            self.linear1.out_features,
            self.dropout.p,
            self.activation,
            self.norm1.eps,
            self.self_attn.batch_first,
            self.norm_first,
            self.self_attn.in_proj_bias is not None,
            device="meta",
        )
        made.self_attn.dropout, made.dropout1.p, _, made.dropout2.p = self.rates
        made.norm2.eps = self.norm2.eps
        _share(self, made)
        return made


class Optimized(NamedTuple):
    """What `optimize` did.

    module:     the model, its layers replaced
    replaced:   names of the layers that were
    left_alone: name of each transformer layer that was not, and why
    """

    module: nn.Module
    replaced: tuple[str, ...]
    left_alone: dict[str, str]


def optimize(module: nn.Module, *, inplace: bool = False, **options: Any) -> Optimized:
    """Replace every nn.TransformerEncoderLayer that EncoderLayer can stand in for.

    inplace: change `module` itself, else a deep copy; parameters are kept, not copied again
    options: plan, recompute_activation and deterministic, as EncoderLayer takes them

    A module that is such a layer itself is returned as its replacement.
    """
    if not inplace:
        module = copy.deepcopy(module)
    replaced: list[str] = []
    left_alone: dict[str, str] = {}
    made: dict[nn.Module, EncoderLayer] = {}  # one layer used in two places stays one
    for name, found in list(module.named_modules(remove_duplicate=False)):
        if not isinstance(found, nn.TransformerEncoderLayer):
            continue
        reason = _why_not(found)
        if reason is not None:
            left_alone[name] = reason
            continue
        if found not in made:
            made[found] = EncoderLayer.from_torch(found, **options)
        replaced.append(name)
        if not name:
            module = made[found]
            break
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, made[found])
    for found in module.modules():
        # Torch's encoder decided when it was made to pack padded batches into nested tensors.
        if isinstance(found, nn.TransformerEncoder) and any(
            isinstance(layer, EncoderLayer) for layer in found.layers
        ):
            found.enable_nested_tensor = found.use_nested_tensor = False
    return Optimized(module, tuple(replaced), left_alone)


# ---- What can be replaced ----

_PARTS: dict[str, type[nn.Module]] = {
    "self_attn": nn.MultiheadAttention,
    "linear1": nn.Linear,
    "dropout": nn.Dropout,
    "linear2": nn.Linear,
    "norm1": nn.LayerNorm,
    "norm2": nn.LayerNorm,
    "dropout1": nn.Dropout,
    "dropout2": nn.Dropout,
}


def _why_not(layer: nn.TransformerEncoderLayer) -> str | None:
    """Why EncoderLayer cannot stand in for this one; None if it can."""
    if type(layer) is not nn.TransformerEncoderLayer:
        return f"{type(layer).__name__} is a subclass, which may compute something else"
    for name, kind in _PARTS.items():
        part = getattr(layer, name, None)
        if type(part) is not kind:
            return f"{name} is {type(part).__name__}, not {kind.__name__}"
    if _activation_name(layer.activation) is None:
        return f"its activation is {layer.activation!r}, neither ReLU nor GELU"
    attention = layer.self_attn
    if attention.bias_k is not None or attention.add_zero_attn:
        return "its attention adds keys of its own"
    if not attention._qkv_same_embed_dim:
        return "its keys or values have a width of their own"
    for name, part in layer.named_modules():
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks:
            return f"hooks are registered on {name or 'it'}, and would no longer run"
        if nn.utils.parametrize.is_parametrized(part):
            return f"{name or 'it'} is parametrized"
    names = {name for name, _ in layer.named_parameters()}
    biases = {name for name in _names() if name.endswith("bias")}
    if names not in (set(_names()), set(_names()) - biases):
        return f"its parameters are {sorted(names)}"
    if layer.state_dict().keys() != names:
        return "it has buffers or other state"
    tensors = list(layer.parameters())
    if len({(tensor.dtype, tensor.device) for tensor in tensors}) > 1:
        return "its parameters have several types or devices"
    dtype, device = tensors[0].dtype, tensors[0].device
    if dtype not in _NATIVE:
        return f"its parameters are {dtype}, and only float32 and bfloat16 have kernels"
    if device.type not in ("cpu", "meta"):
        return f"it is on {device}, and the kernels are for the CPU"
    return None


def _names() -> tuple[str, ...]:
    stems = ("self_attn.out_proj.", "linear1.", "linear2.", "norm1.", "norm2.")
    return (
        "self_attn.in_proj_weight",
        "self_attn.in_proj_bias",
        *(stem + kind for stem in stems for kind in ("weight", "bias")),
    )


def _activation_name(activation: object) -> Activation | None:
    if activation in ("relu", functional.relu, torch.relu) or type(activation) is nn.ReLU:
        return "relu"
    if activation in ("gelu", functional.gelu):
        return "gelu"
    if type(activation) is nn.GELU and activation.approximate == "none":
        return "gelu"
    return None


def _share(source: nn.Module, target: nn.Module) -> None:
    """Give target the parameters of source, and its mode of training."""
    for name, parameter in source.named_parameters():
        parent, _, child = name.rpartition(".")
        setattr(target.get_submodule(parent), child, parameter)
    target.train(source.training)


# ---- Checks ----


def _check_src(src: Tensor, d_model: int, batch_first: bool) -> None:
    if src.is_nested or src.layout is not torch.strided:
        kind = "nested" if src.is_nested else f"{src.layout}"
        raise NotImplementedError(
            f"src must be a dense tensor, got a {kind} one: pad it (to_padded_tensor, to_dense) "
            "and pass src_key_padding_mask"
        )
    if src.dim() != 3 or src.shape[-1] != d_model:
        wanted = "(B, L, d_model)" if batch_first else "(L, B, d_model)"
        raise ValueError(
            f"src must have shape {wanted} with d_model = {d_model}, got {tuple(src.shape)}"
        )
    if src.dtype not in _NATIVE and src.dtype not in _TORCH_ONLY:
        raise TypeError(
            f"src must be float32, bfloat16 or, in plain torch, float64; got {src.dtype}"
        )


def _other_than_parameters(src: Tensor, parameter: Tensor) -> Exception:
    if parameter.dtype is not src.dtype:
        return TypeError(
            f"src and the parameters must have one type, got {src.dtype} and {parameter.dtype}"
        )
    return ValueError(
        f"src and the parameters must be on one device, got {src.device} and {parameter.device}"
    )


def _draw_seed() -> Tensor:
    """As philox.draw_seed, but a tensor, so that a compiled graph draws anew at every call."""
    return torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device="cpu")
