"""The signatures of GE's operators, as facts: slots in order, attributes with their kinds. Nothing is computed here.

One line per operator: name, eras, ``inputs > outputs : attributes``. ``*`` after the name: added by early 2021;
``**``: later; none: in the set of mid 2020. ``name?`` is optional, ``name*`` any number (written name0, name1, ...);
``name!kind`` is a required attribute, ``name=kind`` an optional one; kinds: i int, f float, b bool, s string, t tensor,
dt data type, Li and Lf lists of int and float, LLi lists of lists of int.

Source: Huawei's Graph Engine, operator prototype headers of 2020 to 2025.
"""
# ruff: noqa: E501 - a line is an operator

from __future__ import annotations

from dataclasses import dataclass

_LINES = """
Data x > y : index=i
Const > y : value=t
Constant > y : value=t
Conv2D x filter bias? offset_w? > y : strides!Li pads!Li dilations=Li groups=i data_format=s offset_x=i
BatchNorm x scale offset mean? variance? > y batch_mean batch_variance reserve_space_1 reserve_space_2 reserve_space_3? : epsilon=f data_format=s is_training=b exponential_avg_factor=f
LayerNorm x gamma beta > y mean variance : begin_norm_axis=i begin_params_axis=i epsilon=f
MaxPoolV3* x > y : ksize!Li strides!Li padding_mode=s pads=Li data_format=s global_pooling=b ceil_mode=b
AvgPoolV2* x > y : ksize!Li strides!Li padding_mode=s pads=Li data_format=s global_pooling=b ceil_mode=b exclusive=b divisor_override=i
Pooling x > y : mode=i global_pooling=b window=Li stride=Li pad=Li dilation=Li ceil_mode=i data_format=s
AdaptiveAvgPool2d* x > y : output_size!Li
ReduceMeanD x > y : axes!Li keep_dims=b noop_with_empty_axes=b
ReduceSumD x > y : axes!Li keep_dims=b
ReduceMaxD x > y : axes!Li keep_dims=b
ReduceMinD x > y : axes!Li keep_dims=b
MatMulV2 x1 x2 bias? offset_w? > y : transpose_x1=b transpose_x2=b offset_x=i
BatchMatMul x1 x2 > y : adj_x1=b adj_x2=b
BatchMatMulV2* x1 x2 bias? offset_w? > y : adj_x1=b adj_x2=b offset_x=i
Add x1 x2 > y :
Sub x1 x2 > y :
Mul x1 x2 > y :
RealDiv x1 x2 > y :
Maximum x1 x2 > y :
Minimum x1 x2 > y :
Pow x1 x2 > y :
Relu x > y :
Relu6 x > y :
LeakyRelu x > y : negative_slope=f
Elu x > y : alpha=f scale=f input_scale=f
Selu x > y :
Sigmoid x > y :
Tanh x > y :
Swish** x > y : scale=f
HardSwish** x > y :
HardSigmoid* input_x > output_y : alpha=f beta=f
ClipByValue x clip_value_min clip_value_max > y :
Abs x > y :
Neg x > y :
Exp x > y : base=f scale=f shift=f
Log x > y : base=f scale=f shift=f
Sqrt x > y :
Rsqrt x > y :
Square x > y :
Reciprocal x > y :
Sign x > y :
Erf x > y :
Sin x > y :
Cos x > y :
Floor x > y :
Ceil x > y :
SoftmaxV2 x > y : axes=Li half_to_float=b
LogSoftmaxV2 logits > logsoftmax : axes=Li
Reshape x shape > y : axis=i num_axes=i
Squeeze x > y : axis=Li
Unsqueeze x > y : axes=Li
TransposeD x > y : perm!Li
GatherV2 x indices axis > y : batch_dims=i is_preprocessed=b negative_index_support=b
Cast x > y : dst_type!i
ConcatD x* > y : concat_dim!i N=i
SplitVD x > y* : size_splits!Li split_dim!i num_split!i
StridedSliceD x > y : begin!Li end!Li strides!Li begin_mask=i end_mask=i ellipsis_mask=i new_axis_mask=i shrink_axis_mask=i
Pack x* > y : axis=i N=i
Unpack x > y* : num!i axis=i
TileD x > y : multiples!Li
BroadcastToD x > y : shape!Li
PadD x > y : paddings!LLi
SelectV2 condition then else > result :
Equal x1 x2 > y :
NotEqual x1 x2 > y :
Greater x1 x2 > y :
GreaterEqual x1 x2 > y :
Less x1 x2 > y :
LessEqual x1 x2 > y :
LogicalAnd x1 x2 > y :
LogicalOr x1 x2 > y :
LogicalNot x > y :
NetOutput x* > y* :
"""


@dataclass(frozen=True)
class Slot:
    """One input or output of an operator."""

    name: str
    is_optional: bool
    is_dynamic: bool


@dataclass(frozen=True)
class Prototype:
    """The signature of one operator: `attributes` maps a name to its kind, `required` are those without a default."""

    name: str
    era: str
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    attributes: dict[str, str]
    required: frozenset[str]


def _slots(text: str) -> tuple[Slot, ...]:
    return tuple(Slot(word.rstrip("?*"), word.endswith("?"), word.endswith("*")) for word in text.split())


def _prototype(line: str) -> Prototype:
    head, _, attributes = line.partition(" :")
    operator, _, slots = head.partition(" ")
    inputs, _, outputs = slots.partition(">")
    kinds, required = {}, set()
    for word in attributes.split():
        name, kind = word.replace("!", "=").split("=")
        kinds[name] = kind
        if "!" in word:
            required.add(name)
    era = {0: "2020", 1: "2021", 2: "2025"}[operator.count("*")]
    return Prototype(operator.rstrip("*"), era, _slots(inputs), _slots(outputs), kinds, frozenset(required))


PROTOTYPES = {prototype.name: prototype for prototype in map(_prototype, _LINES.strip().splitlines())}
"""Operator -> its signature."""
