"""A compiled program, read from XLA's text: what each kernel computes and moves."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

Kind = Literal["product", "attention", "fusion"]

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "tf32": 4, "f32": 4, "f64": 8, "token": 0}
_FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "partition-id",
    "iota",
}
_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_LOOKS = {"slice", "dynamic-slice", "gather"}
_DEAR = {"exponential", "exponential-minus-one", "log", "log-plus-one", "tanh", "erf"}
_DEAR |= {"power", "cosine", "sine"}
_PLAIN = {"add", "subtract", "multiply", "divide", "maximum", "minimum", "select", "compare"}
_PLAIN |= {"convert", "negate", "abs", "and", "or", "xor", "shift-right-logical", "shift-left"}
_PLAIN |= {"sqrt", "rsqrt"}


class Product(NamedTuple):
    """What a matrix product multiplies; the pairs are of its two operands."""

    dtypes: tuple[str, str]
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    contracting: tuple[tuple[int, ...], tuple[int, ...]]
    """The dimensions summed over."""
    batch: tuple[tuple[int, ...], tuple[int, ...]]
    """The dimensions both have, a product for each of their indices."""

    @property
    def flops(self) -> float:
        """Floating-point operations, a multiplication and an addition counted as two."""
        left, right = (math.prod(shape) for shape in self.shapes)
        return 2.0 * left * right / self._along(self.contracting) / self._along(self.batch)

    @property
    def narrow(self) -> bool:
        """Whether rows, columns or what is summed over are fewer than 128: far from peak."""
        summed, batch = self._along(self.contracting), self._along(self.batch)
        sides = [math.prod(shape) / (summed * batch) for shape in self.shapes]
        return min(summed, *sides) < 128

    def _along(self, dimensions: tuple[tuple[int, ...], tuple[int, ...]]) -> int:
        return math.prod(self.shapes[0][n] for n in dimensions[0])


class Work(NamedTuple):
    """One kernel: what one call does, and how often a step calls it."""

    kind: Kind
    name: str
    flops: float
    bytes: float
    operations: float
    """Scalar operations of a fusion's elements, such as additions."""
    dear: float
    """Those of many instructions each, such as exponentials."""
    times: float
    product: Product | None = None
    """The largest product in the kernel."""

    @property
    def float32(self) -> bool:
        """Whether the kernel multiplies matrices of float32."""
        return self.product is not None and "f32" in self.product.dtypes


class Collective(NamedTuple):
    """What devices exchange: a device's part of one call, and how often a step calls it."""

    kind: str
    bytes: float
    """What one device has before or after, whichever is more: the whole of what is gathered."""
    times: float


def from_plain(values: list[Any]) -> Work:
    """A `Work` that has been through JSON."""
    work = Work(*values)
    if work.product is None:
        return work
    (a, b), *pairs = work.product
    shapes, contracting, batch = ((tuple(left), tuple(right)) for left, right in pairs)
    product = Product((a, b), shapes, contracting, batch)
    return work._replace(product=product)


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    arguments: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.arguments)


_Computation = dict[str, _Instruction]


def works(text: str) -> list[Work]:
    """The kernels a step runs; loops are multiplied out where XLA knows how often they turn."""
    computations, entry = _parse(text)
    return [
        _work(computations, *call)
        for call in _walk(computations, entry, 1.0)
        if not call[0].opcode.startswith(_COLLECTIVES)
    ]


def collectives(text: str) -> list[Collective]:
    """What the devices of a step exchange; loops are multiplied out as in `works`."""
    computations, entry = _parse(text)
    found = []
    for it, table, times in _walk(computations, entry, 1.0):
        if it.opcode.startswith(_COLLECTIVES) and not it.opcode.endswith("-done"):
            before = sum(_size(table[name].type) for name in it.operands if name in table)
            after = _size(it.type)
            # What begins an exchange has the type of both, but for all-reduce, where they are one.
            if it.opcode.endswith("-start") and it.opcode != "all-reduce-start":
                after -= before
            kind = next(name for name in _COLLECTIVES if it.opcode.startswith(name))
            found.append(Collective(kind, max(before, after), times))
    return found


def _parse(text: str) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    entry, current = "", {}  # type: str, _Computation
    for line in text.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            name = line.removeprefix("ENTRY ").split(" ", 1)[0].lstrip("%")
            current = computations[name] = {}
            if line.startswith("ENTRY"):
                entry = name
        elif line.startswith("  ") and " = " in line:
            instruction = _instruction(line.strip())
            current[instruction.name] = instruction
    return computations, entry


def _instruction(line: str) -> _Instruction:
    name, after = line.removeprefix("ROOT ").split(" = ", 1)
    end = _closing(after, 0) + 1 if after.startswith("(") else after.index(" ")
    kind, after = after[:end], after[end:].lstrip()
    opens = after.index("(")
    closes = _closing(after, opens)
    arguments = after[opens + 1 : closes]
    return _Instruction(name.lstrip("%"), kind, after[:opens], arguments, after[closes + 1 :])


def _closing(text: str, start: int) -> int:
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if depth == 0:
            return index
    raise ValueError(f"no closing bracket in {text[start : start + 80]!r}")


def _arrays(kind: str) -> list[tuple[str, list[int]]]:
    """Element type and shape of each array of a type."""
    found = re.findall(r"\b([a-z]+[0-9]*(?:e\dm\d\w*)?)\[([0-9,]*)\]", kind)
    return [(dtype, [int(n) for n in shape.split(",") if n]) for dtype, shape in found]


def _size(kind: str) -> float:
    return sum(_width(dtype) * math.prod(shape) for dtype, shape in _arrays(kind))


def _width(dtype: str) -> float:
    if dtype in _BYTES:
        return _BYTES[dtype]
    bits = re.search(r"\d+", dtype)
    return int(bits.group()) / 8 if bits else 4


def _called(instruction: _Instruction) -> list[str]:
    names = re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", instruction.rest)
    for group in re.findall(r"branch_computations=\{([^}]*)\}", instruction.rest):
        names += re.findall(r"%?([\w.\-]+)", group)
    return names


def _walk(
    computations: dict[str, _Computation], name: str, times: float
) -> Iterator[tuple[_Instruction, _Computation, float]]:
    """Each call of a kernel or a collective, where it stands, and how often it is made."""
    table = computations[name]
    for it in table.values():
        if it.opcode in _FREE:
            continue
        if it.opcode == "while":
            turns = re.search(r'known_trip_count":\{"n":"(\d+)"', it.rest)
            count = int(turns.group(1)) if turns else 1
            for body in re.findall(r"body=%?([\w.\-]+)", it.rest):
                yield from _walk(computations, body, times * count)
        elif it.opcode in ("call", "conditional", "async-start"):
            for called in _called(it):
                yield from _walk(computations, called, times)
        else:
            yield it, table, times


def _work(
    computations: dict[str, _Computation], it: _Instruction, table: _Computation, times: float
) -> Work:
    if it.opcode == "custom-call" and "fmha" in it.rest:
        flops = _attention_flops(it, table)
        return Work("attention", it.name, flops, _moved(it, table), 0, 0, times)
    if it.opcode != "fusion":
        inside = {it.name: it}
        products = [(it, table)] if it.opcode == "dot" or "__cublas" in it.rest else []
        moved = _moved(it, table)
    else:
        inside, products, moved = {}, [], _size(it.type)
        for called in _called(it):
            for body in _nested(computations, called):
                inside |= body
                products += [(x, body) for x in body.values() if x.opcode == "dot"]
            moved = _fusion_bytes(it, table, computations[called])
    plain, dear = (
        sum(_elements(x) for x in inside.values() if x.opcode in ops) for ops in (_PLAIN, _DEAR)
    )
    found = [product for x, body in products if (product := _product(x, body)) is not None]
    flops = sum(product.flops for product in found)
    largest = max(found, key=lambda product: product.flops, default=None)
    kind: Kind = "product" if found else "fusion"
    return Work(kind, it.name, flops, moved, plain, dear, times, largest)


def _product(x: _Instruction, body: _Computation) -> Product | None:
    """The product of a `dot` or of a call of cuBLAS; none where XLA does not say its operands."""
    names = x.operands[:2]
    if len(names) < 2 or any(name not in body for name in names):
        return None
    (left,), (right,) = (_arrays(body[name].type)[:1] for name in names)
    dimensions = {
        what: (_dimensions(x, f"lhs_{what}"), _dimensions(x, f"rhs_{what}"))
        for what in ("contracting", "batch")
    }
    return Product((left[0], right[0]), (tuple(left[1]), tuple(right[1])), **dimensions)


def _dimensions(x: _Instruction, what: str) -> tuple[int, ...]:
    """`lhs_contracting_dims={1}` of a dot, `"lhs_contracting_dimensions":["1"]` of cuBLAS."""
    found = re.search(rf'{what}_dim(?:s=\{{([\d,]*)\}}|ensions":\[([\d,"]*)\])', x.rest)
    return tuple(int(n) for n in re.findall(r"\d+", found.group())) if found else ()


def _nested(computations: dict[str, _Computation], name: str) -> Iterator[_Computation]:
    body = computations[name]
    yield body
    for x in body.values():
        if x.opcode in ("fusion", "call"):
            for called in _called(x):
                yield from _nested(computations, called)


def _moved(it: _Instruction, table: _Computation) -> float:
    """Bytes read and written by an instruction that is no fusion."""
    out = _size(it.type)
    inputs = [_size(table[name].type) for name in it.operands if name in table]
    if it.opcode in _LOOKS:
        return 2 * out
    if it.opcode == "dynamic-update-slice":
        return 2 * inputs[1]
    if it.opcode == "scatter":
        return 3 * inputs[-1]
    return out + sum(inputs)


def _fusion_bytes(it: _Instruction, table: _Computation, body: _Computation) -> float:
    """Inputs and outputs; of an array that is only sliced or updated in place, the part alone."""
    users: dict[str, list[_Instruction]] = {}
    for x in body.values():
        for name in x.operands:
            users.setdefault(name, []).append(x)

    def ends(name: str) -> Iterator[tuple[str, _Instruction]]:
        for user in users.get(name, []):
            if user.opcode in ("bitcast", "reshape"):
                yield from ends(user.name)
            else:
                yield name, user

    written, updates = _size(it.type), 0.0
    for x in body.values():
        if x.opcode in ("dynamic-update-slice", "scatter"):
            written -= _size(x.type)
            updates += _size(body[x.operands[-1 if x.opcode == "scatter" else 1]].type)
    total = max(written, 0.0) + 2 * updates
    parameters = {int(x.arguments): x for x in body.values() if x.opcode == "parameter"}
    for index, name in enumerate(it.operands):
        if name not in table:
            continue
        whole = _size(table[name].type)
        part = 0.0
        for source, user in ends(parameters[index].name):
            if user.opcode in _LOOKS and user.operands[0] == source:
                part += _size(user.type)
            elif user.opcode in ("dynamic-update-slice", "scatter") and user.operands[0] == source:
                part += 0.0
            else:
                part = whole
        total += min(part, whole)
    return total


def _elements(x: _Instruction) -> int:
    arrays = _arrays(x.type)
    return math.prod(arrays[0][1]) if arrays else 0


def _attention_flops(it: _Instruction, table: _Computation) -> float:
    """Of cuDNN's attention: two products forward, five backward, where positions are seen.

    Operands are q [B, T, H, K] and k [B, S, N, K].
    """
    config = json.loads(it.rest[it.rest.index("backend_config=") + len("backend_config=") :])
    facts = config["cudnn_fmha_backend_config"]
    (B, T, H, K), (_, S, *_) = (_arrays(table[name].type)[0][1] for name in it.operands[:2])
    causal, window = "CAUSAL" in facts["mask_type"], int(facts.get("sliding_window_length", 0))
    seen = S * (T + 1) / 2 if causal else T * S
    if window:
        seen = min(seen, T * window * (1 if causal else 2))
    return 2.0 * B * H * K * seen * (5 if "Backward" in it.rest else 2)
