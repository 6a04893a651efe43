"""A compiled program, read from XLA's text: what each kernel computes and moves."""

import json
import math
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

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
_LOOKS = {"slice", "dynamic-slice", "gather"}
_DEAR = {"exponential", "tanh", "log", "power", "rsqrt", "sqrt", "cosine", "sine", "divide", "erf"}
_PLAIN = {"add", "subtract", "multiply", "maximum", "minimum", "select", "compare", "convert"}
_PLAIN |= {"negate", "abs", "and", "or", "xor", "shift-right-logical", "shift-left"}


class Work(NamedTuple):
    """One kernel: what one call does, and how often a step calls it."""

    kind: Kind
    name: str
    flops: float
    bytes: float
    operations: float
    """Scalar operations of a fusion's elements, dear ones (exponentials and such) counted as 10."""
    dtypes: str
    """Of a product, the types of what it multiplies, such as `bf16 x bf16`."""
    times: float
    narrow: bool = False
    """Of a product, whether the largest has a side below 128: such run far from peak."""


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
    return list(_walk(computations, entry, 1.0))


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


def _walk(computations: dict[str, _Computation], name: str, times: float) -> Iterator[Work]:
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
        elif it.opcode == "custom-call" and "fmha" in it.rest:
            yield Work(
                "attention", it.name, _attention_flops(it, table), _moved(it, table), 0, "", times
            )
        else:
            yield _kernel(computations, table, it, times)


def _kernel(
    computations: dict[str, _Computation], table: _Computation, it: _Instruction, times: float
) -> Work:
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
    operations = sum(_operations(x) for x in inside.values())
    flops = sum(_product_flops(x, body) for x, body in products)
    dtypes, narrow = "", False
    if products:
        x, body = max(products, key=lambda pair: _product_flops(*pair))
        dtypes = " x ".join(_arrays(body[n].type)[0][0] for n in x.operands[:2] if n in body)
        narrow = _narrow(x, body)
    kind: Kind = "product" if products else "fusion"
    return Work(kind, it.name, flops, moved, operations, dtypes, times, narrow)


def _narrow(x: _Instruction, body: _Computation) -> bool:
    """Whether rows, columns or what is summed over are fewer than 128."""
    if x.opcode != "dot":
        return False
    sides = []
    for name, side in zip(x.operands, ("lhs", "rhs"), strict=True):
        shape = _arrays(body[name].type)[0][1]
        fixed = {
            what: _numbers(rf"{side}_{what}_dims=\{{([\d,]*)\}}", x.rest)
            for what in ("batch", "contracting")
        }
        taken = fixed["batch"] + fixed["contracting"]
        sides.append(math.prod(shape[n] for n in fixed["contracting"]))
        sides.append(math.prod(n for i, n in enumerate(shape) if i not in taken))
    return min(sides) < 128


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(n) for n in re.findall(r"\d+", found.group(1))] if found else []


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


def _operations(x: _Instruction) -> float:
    arrays = _arrays(x.type)
    elements = math.prod(arrays[0][1]) if arrays else 0
    return elements * (10 if x.opcode in _DEAR else 1 if x.opcode in _PLAIN else 0)


def _product_flops(x: _Instruction, body: _Computation) -> float:
    out = max((math.prod(shape) for _, shape in _arrays(x.type)), default=0)
    left = _arrays(body[x.operands[0]].type)[0][1] if x.operands[0] in body else []
    dims = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.rest)
    if dims is None:  # a call of cuBLAS says it in its own words
        dims = re.search(r'lhs_contracting_dimensions":\[([\d,"]*)\]', x.rest)
    contracted = [int(n) for n in re.findall(r"\d+", dims.group(1))] if dims else []
    return 2.0 * out * math.prod(left[n] for n in contracted if n < len(left))


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
