"""The kernels of a program that XLA compiled for a GPU, read from its text."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

KINDS = TRITON, CUBLAS, LOOPS, SUMS, TRANSPOSES, COPIES, OTHERS = (
    "matrix products, by Triton", "matrix products, by cuBLAS", "fusions of elementwise operations",
    "fusions with a sum over an axis", "fusions with a transpose", "copies", "others",
)  # fmt: skip
COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*?\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
INSTRUCTION = re.compile(r"^ +(?:ROOT )?%(\S+) = (\(.*?\)|\S+) ([\w-]+)\((.*?)\)(.*)$", re.MULTILINE)
ARRAY = re.compile(r"\b(?:pred|[a-z]+(\d+))\[([\d,]*)\]")  # a type, with its bits, and a shape
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}  # no kernels: nothing is moved
SLICED = {"slice", "dynamic-slice", "gather"}


class Instruction(NamedTuple):
    name: str
    type: str
    operation: str
    arguments: str
    attributes: str

    @property
    def bytes(self) -> int:
        arrays = ARRAY.findall(self.type)
        return sum(int(bits or 8) // 8 * math.prod(map(int, re.findall(r"\d+", shape))) for bits, shape in arrays)

    @property
    def reads(self) -> list[str]:
        return re.findall(r"%([^\s,]+)", self.arguments)


class Kernel(NamedTuple):
    """`kind`: what computes it; `bytes`: what it reads and writes."""

    kind: str
    bytes: int


def kernels(hlo: str) -> list[Kernel]:
    """The kernels of a compiled program, from its text: each instruction of its main computation that moves bytes."""
    computations = COMPUTATION.findall(hlo)
    bodies = {
        entry or name: [Instruction(*each) for each in INSTRUCTION.findall(lines)]
        for entry, name, lines in computations
    }
    main = bodies["ENTRY "]
    assert not {"while", "call", "conditional"} & {each.operation for each in main}, "a loop would be counted once"
    sizes = {each.name: each.bytes for each in main}
    found = []
    for each in main:
        if each.operation not in FREE:
            calls = re.search(r"calls=%([^\s,]+)", each.attributes)
            body = bodies[calls[1]] if calls else []
            given = {int(inside.arguments): inside for inside in body if inside.operation == "parameter"}
            read = [_read(given[i], body) if given else sizes[name] for i, name in enumerate(each.reads)]
            found.append(Kernel(_kind(each, body), each.bytes + sum(read)))
    return found


def _read(array: Instruction, body: Sequence[Instruction]) -> int:
    """Bytes of `array` that the instructions of a kernel read: of a slice, only those of the slice."""

    def used(by: Instruction) -> int:
        if by.operation == "bitcast":
            return _read(by, body)
        return by.bytes if by.operation in SLICED else array.bytes

    return min(array.bytes, sum(used(each) for each in body if array.name in each.reads))


def _kind(kernel: Instruction, body: Sequence[Instruction]) -> str:
    inside = {each.operation for each in body}
    if "dot" in inside:
        return TRITON
    if "reduce" in inside:
        return SUMS
    if "kind=kLoop" in kernel.attributes:
        return LOOPS
    if "transpose" in inside:
        return TRANSPOSES
    if kernel.operation == "copy":
        return COPIES
    return CUBLAS if "cublas" in kernel.attributes else OTHERS
