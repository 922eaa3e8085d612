"""What a compiled program executes, counted in the text of its optimized HLO, with loops multiplied out.

XLA's own cost analysis takes the body of a loop once. Here each instruction counts as often as it is executed:

- *operations*: fusions, products, copies, collectives …, whatever the device starts on its own; a pair of start and
  done is one. Not counted: parameters, constants, tuples and their parts, bitcasts, the conditions of loops.
- *flops*: of products and convolutions, two for each multiply-add; taps on padding and on dilation's zeros are none.
  None in all where a library of CUDA does some of them, whose own are not known.
- *bytes*: what operations read and write, of a slice or an update in place that slice alone; ``off_chip`` is the part
  that is not in a TPU's own vector memory (memory space 1 or above in a layout).
- *cycles*: a TPU's compiler writes an estimate beside most operations; the sum.
- *collectives*: of each kind how many, and the bytes that one device gives to them.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

import numpy as np

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_BYTES = {"pred": 1, "c64": 8, "c128": 16, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"(\w+)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) (?:\([^\n]*\) -> [^\n]*)?\{$")
_OPERATION = re.compile(r" ([a-z][\w\-]*)\(")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a type."""

    dtype: str
    shape: tuple[int, ...]
    off_chip: bool

    @property
    def bytes(self) -> int:
        """Without the padding of tiles."""
        bits = re.search(r"\d+", self.dtype)
        size = _BYTES[self.dtype] if self.dtype in _BYTES else int(bits[0]) / 8 if bits else 0
        return math.ceil(size * math.prod(self.shape))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a computation."""

    name: str
    kind: str
    arrays: tuple[Array, ...]  # of the result; several of a tuple
    operands: tuple[str, ...]
    text: str  # all that stands behind the kind
    root: bool

    def called(self, role: str) -> str | None:
        """The name of the computation that it calls as ``body``, ``calls``, …"""
        found = re.search(rf"\b{role}=%?([\w.\-]+)", self.text)
        return found[1] if found else None


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """All computations by name, and the name of the first."""

    computations: dict[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Counts:
    """What one run executes; see the module's first lines."""

    operations: int
    flops: float | None
    bytes: float
    off_chip_bytes: float
    cycles: int | None
    collectives: dict[str, dict[str, int]]


def parse(text: str) -> Program:
    """The program of ``compiled.as_text()``.

    Raises:
      ValueError: a text without an entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        if current is None or not line.startswith(" "):
            head = _COMPUTATION.match(line)
            current = computations.setdefault(head[2], {}) if head else None
            entry = head[2] if head and head[1] else entry
        elif found := _INSTRUCTION.match(line):
            instruction = _instruction(found[2], found[3], root=bool(found[1]))
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text is not accepted; use the optimized HLO of a compiled program")
    return Program(computations, entry)


def _instruction(name: str, rest: str, *, root: bool) -> Instruction:
    operation = _OPERATION.search(f" {rest}" if rest.startswith("(") else rest, _end_of_type(rest))
    assert operation is not None, rest
    begin = operation.end() - (1 if rest.startswith("(") else 0)
    end = _closing(rest, begin)
    return Instruction(
        name,
        operation[1],
        tuple(_arrays(rest[: begin - len(operation[1]) - 1])),
        tuple(re.findall(r"%([\w.\-]+)", rest[begin:end])),
        rest[begin:],
        root,
    )


def _end_of_type(rest: str) -> int:
    return _closing(rest, 1) if rest.startswith("(") else 0


def _closing(text: str, begin: int) -> int:
    """Where the parenthesis closes that opened before ``begin``."""
    depth = 1
    for found in re.compile(r"[()]").finditer(text, begin):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.start()
    return len(text)


def _arrays(text: str) -> Iterator[Array]:
    for dtype, shape, layout in _ARRAY.findall(re.sub(r"/\*.*?\*/", "", text)):
        sizes = tuple(int(size.lstrip("<=")) for size in shape.split(",") if size)
        yield Array(dtype, sizes, not re.search(r"S\([1-9]", layout))


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int:
    """How often a while loop runs its body: what the compiler says, or the bound of its condition less the start.

    Raises:
      ValueError: a loop whose count is neither said nor from a constant up to a constant, one by one.
    """
    said = re.search(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)', loop.text)
    if said:
        return int(said[1])
    condition = program.computations[loop.called("condition") or ""]
    test = next(i for i in condition.values() if i.root)
    counter, bound = (condition.get(name) for name in test.operands) if len(test.operands) == 2 else (None, None)
    limit, index = _constant(bound), counter and re.search(r"\bindex=(\d+)", counter.text)
    start = computation.get(loop.operands[0])
    if "direction=LT" in test.text and limit is not None and index and start is not None and start.kind == "tuple":
        first = computation.get(start.operands[int(index[1])])
        while first is not None and first.kind in ("copy", "bitcast"):
            first = computation.get(first.operands[0])
        if (begin := _constant(first)) is not None:
            return max(0, limit - begin)
    raise ValueError(f"the loop {loop.name} is not accepted; its number of rounds is not a constant")


def _constant(instruction: Instruction | None) -> int | None:
    found = instruction and instruction.kind == "constant" and re.match(r"(-?\d+)\)", instruction.text)
    return int(found[1]) if found else None


def executed(program: Program) -> Iterator[tuple[Computation, Instruction, int]]:
    """All that is executed, each with its computation and how often; of a conditional, every branch."""

    def walk(name, times):
        computation = program.computations[name]
        for instruction in computation.values():
            if instruction.kind == "while":
                yield from walk(instruction.called("body"), times * trip_count(program, computation, instruction))
            elif instruction.kind in ("call", "async-start"):
                yield from walk(instruction.called("to_apply") or instruction.called("calls"), times)
            elif instruction.kind == "conditional":
                for branch in re.findall(r"%([\w.\-]+)", instruction.text.split("computations={")[-1].split("}")[0]):
                    yield from walk(branch, times)
            elif instruction.kind not in _FREE and not instruction.kind.endswith(("-done", "-update")):
                yield computation, instruction, times

    yield from walk(program.entry, 1)


def count(text: str) -> Counts:
    """Counts what the program of ``compiled.as_text()`` executes; errors are those of :func:`parse`."""
    program = parse(text)
    operations, flops, moved, off_chip, cycles = 0, 0.0, 0.0, 0.0, 0
    libraries = False
    collectives = collections.defaultdict(lambda: {"count": 0, "bytes": 0})
    for computation, instruction, times in executed(program):
        operations += times
        flops += times * _flops(program, computation, instruction)
        libraries |= 'custom_call_target="__cu' in instruction.text
        for size, outside in _traffic(program, computation, instruction):
            moved += times * size
            off_chip += times * size * outside
        estimate = re.search(r'"estimated_cycles":"(\d+)"', instruction.text)
        cycles += times * int(estimate[1]) if estimate else 0
        kind = instruction.kind.removesuffix("-start")
        if kind in _COLLECTIVES:
            given = [array for name in instruction.operands for array in computation[name].arrays]
            collectives[kind]["count"] += times
            collectives[kind]["bytes"] += times * sum(array.bytes for array in given)
    return Counts(operations, None if libraries else flops, moved, off_chip, cycles or None, dict(collectives))


def _flops(program: Program, computation: Computation, instruction: Instruction) -> float:
    inside = instruction.called("calls") if instruction.kind == "fusion" else None
    if inside:
        within = program.computations[inside]
        return sum(_flops(program, within, part) for part in within.values())
    if instruction.kind == "dot":
        left = computation[instruction.operands[0]].arrays[0].shape
        summed = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
        sizes = [left[int(d)] for d in summed[1].split(",") if d] if summed else []
        return 2 * math.prod(instruction.arrays[0].shape) * math.prod(sizes)
    return _convolution_flops(computation, instruction) if instruction.kind == "convolution" else 0


def _convolution_flops(computation: Computation, instruction: Instruction) -> float:
    left, right = (computation[name].arrays[0].shape for name in instruction.operands)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
    assert labels is not None, instruction.text
    of_left, of_right, of_result = labels.groups()
    result = instruction.arrays[0].shape
    window = re.search(r"window=\{([^}]*)\}", instruction.text)
    fields = dict(part.split("=") for part in window[1].split()) if window else {}
    pairs = result[of_result.index("b")] * right[of_right.index("i")] * right[of_right.index("o")]
    spatial = [label for label in of_right if label.isdigit()]
    for axis, label in enumerate(spatial):

        def of(field, default, axis=axis):
            return fields[field].split("x")[axis] if field in fields else default

        before = int(of("pad", "0_0").split("_")[0])
        spread, stride, step = (int(of(field, "1")) for field in ("lhs_dilate", "stride", "rhs_dilate"))
        outputs = np.arange(result[of_result.index(label)])[:, None] * stride
        taps = outputs + np.arange(right[of_right.index(label)]) * step - before
        real = (taps % spread == 0) & (taps >= 0) & (taps // spread < left[of_left.index(label)])
        pairs *= int(real.sum())
    return 2.0 * pairs


def _traffic(program: Program, computation: Computation, instruction: Instruction) -> Iterator[tuple[int, bool]]:
    """(bytes, whether they are off the chip) of every array that an operation reads or writes."""
    for place, name in enumerate(instruction.operands):
        for array in computation[name].arrays:
            yield min(array.bytes, _read(program, computation, instruction, place, array.bytes)), array.off_chip
    changed = _updated(program, computation, instruction)
    results = instruction.arrays
    if instruction.kind.endswith("-start") and len(results) > 1:  # (what is given, what is got, …)
        results = results[1:2]
    for array in results:
        yield (array.bytes if changed is None else min(changed, array.bytes)), array.off_chip


def _read(program: Program, computation: Computation, instruction: Instruction, place: int, whole: int) -> int:
    """Bytes that an instruction reads of an operand."""
    if instruction.kind in ("dynamic-slice", "slice", "slice-start", "gather") and place == 0:
        return min(array.bytes for array in instruction.arrays if array.bytes > 4 or len(instruction.arrays) == 1)
    if instruction.kind in ("dynamic-update-slice", "scatter") and place == 0:
        return 0
    inside = instruction.called("calls") if instruction.kind == "fusion" else None
    if not inside:
        return whole
    within = program.computations[inside]
    parameter = next(i.name for i in within.values() if i.kind == "parameter" and i.text.startswith(f"{place})"))
    users = [(i, p) for i in within.values() for p, name in enumerate(i.operands) if name == parameter]
    return sum(_read(program, within, user, p, whole) for user, p in users)


def _updated(program: Program, computation: Computation, instruction: Instruction) -> int | None:
    """Bytes that are written where the result is an operand changed in place."""
    if instruction.kind == "dynamic-update-slice":
        return computation[instruction.operands[1]].arrays[0].bytes
    inside = instruction.called("calls") if instruction.kind == "fusion" else None
    if not inside:
        return None
    within = program.computations[inside]
    root = next(i for i in within.values() if i.root)
    while root.kind == "bitcast":
        root = within[root.operands[0]]
    return _updated(program, within, root)
