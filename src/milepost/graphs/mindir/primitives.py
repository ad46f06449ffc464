"""The signatures of MindSpore's primitives, as facts: arguments in order, attributes. Nothing is computed here.

One line per primitive: ``arguments > results : attributes``. Those with ``*`` after the name are of the older kind, whose
settings are attributes; of the others, everything is an argument, a tensor or a literal. An argument with ``+`` is a
tuple of tensors.

Source: what `mindspore.export` of MindSpore 2.10.0 writes, and the documentation of `mindspore.ops.primitive`.
"""
# ruff: noqa: E501 - a line is a primitive

from __future__ import annotations

from dataclasses import dataclass

_LINES = """
Conv2D* x w > output : mode out_channel kernel_size pad_mode pad pad_list stride dilation group groups format
BiasAdd input_x bias data_format > output
BatchNorm input_x scale bias mean variance is_training epsilon momentum data_format > output_x batch_mean batch_variance reserve_space_1 reserve_space_2
LayerNorm input_x gamma beta begin_norm_axis begin_params_axis epsilon > output_x mean variance
MaxPool3D* x > output : kernel_size strides pad_mode pad_list ceil_mode format
AvgPool3D* input > output : kernel_size strides pad_mode pad pad_list ceil_mode count_include_pad divisor_override format
AdaptiveAvgPool2D* x > y : output_size
MatMul input mat2 transpose_a transpose_b > output
BatchMatMul x y transpose_a transpose_b > output
Gather input_params input_indices axis batch_dims > output
ReduceMean x axis keep_dims > output
ReduceSum x axis keep_dims skip_mode > output
ReduceMax x axis keep_dims > output
ReduceMin x axis keep_dims > output
Softmax input axis > output
LogSoftmax logits axis > output
Add input other > output
Sub input other > output
Mul input other > output
RealDiv x y > output
Maximum input other > output
Minimum input other > output
Pow input exponent > output
Equal input other > output
NotEqual input other > output
Greater input other > output
GreaterEqual input other > output
Less input other > output
LessEqual input other > output
LogicalAnd x y > output
LogicalOr x y > output
LogicalNot input > output
Select condition input other > output
ReLU input > output
ReLU6 x > output
Sigmoid input > output
Tanh input > output
SiLU input > output
HSwish input > output
HSigmoid input > output
Erf input > output
Exp input > output
Expm1 input > output
Log* x > y : base scale shift
Sqrt x > output
Rsqrt input > output
Square input > output
Reciprocal x > output
Neg input > output
Abs input > output
Sign input > output
Sin input > output
Cos input > output
Floor input > output
Ceil input > output
Reshape input shape > output
Transpose input input_perm > output
BroadcastTo input shape > output
Tile input dims > output
Concat tensors+ axis > output
Stack* x+ > y : axis num N
StridedSlice input_x begin end strides begin_mask end_mask ellipsis_mask new_axis_mask shrink_axis_mask > output
Pad* x > y : paddings
Cast input_x dtype > output
"""


@dataclass(frozen=True)
class Primitive:
    """The signature of one primitive."""

    name: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    attributes: tuple[str, ...]
    is_older: bool


def _primitive(line: str) -> Primitive:
    head, _, attributes = line.partition(" : ")
    called, _, results = head.partition(" > ")
    name, *arguments = called.split()
    names = tuple(argument.rstrip("+") for argument in arguments)
    return Primitive(name.rstrip("*"), names, tuple(results.split()), tuple(attributes.split()), name.endswith("*"))


PRIMITIVES = {primitive.name: primitive for primitive in map(_primitive, _LINES.strip().splitlines())}
"""Name -> signature."""
