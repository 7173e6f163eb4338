"""The kernels of an update: their arithmetic and the bytes they read and write, counted from the program.

Nothing is compiled or run. The equations of the update are grouped into kernels by a rule of how far to fuse.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from experiments.engine.program import Program, update

# The update as operations on arrays -------------------------------------------------------------------

PRODUCT, RANDOM = "dot_general", "random_bits"
RESHAPED = {
    "broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "random_unwrap", "random_wrap", "reshape",
    "sharding_constraint", "squeeze", "stop_gradient", "transpose",
}  # fmt: skip
SLICED = {"dynamic_slice", "gather", "slice", "split"}
REDUCED = {"argmax", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_sum"}
SCALARS = 16  # numbers; smaller arrays, such as the learning rates of all arms, are computed where they are used
# Threefry-2x32 makes two words, of which JAX keeps the xor: 20 rounds of add, rotate and xor, 5 injections of 3 adds,
# 2 adds before. J. Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
THREEFRY = 20 * 3 + 5 * 3 + 2 + 1


@dataclass(eq=False)
class Value:
    """An array. `of`: the array of which it is another view; `made`: the operation that makes it, if any does;
    `shared`: whether it is the same for all arms."""

    size: int
    bytes: int
    shared: bool
    of: "Value | None" = None
    made: "Operation | None" = None

    @property
    def stored(self) -> "Value":
        return self.of.stored if self.of else self

    @property
    def small(self) -> bool:
        return self.stored.size <= SCALARS


@dataclass(eq=False)
class Operation:
    """An equation of the update. `count`: its arithmetic operations; `passed`: "forward", "backward" or neither;
    `attends`: whether it is a product of two activations, for each arm, image and head."""

    name: str
    reads: list[Value]
    writes: list[Value]
    count: float
    passed: str
    attends: bool


def one_update(program: Program) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """One update of one seed, all arms at once, as on a GPU: a function, and the shapes of its arguments."""

    def one(runs: Any, numbers: Any, data: Any, seed: Any, step: Any) -> Any:
        return update(program.optimizers, numbers, program._loss(data, seed, step), jax.vmap, None, runs)

    started = jax.eval_shape(program._start, program.numbers, program.data, program.seeds)
    runs = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape[1:], array.dtype), started)
    given = runs, program.numbers, program.data, program.seeds[0], np.int32(0)
    return one, jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), given)


def operations(program: Program) -> tuple[list[Operation], list[Value], list[Value]]:
    """The operations of `one_update`, and the new runs and losses."""
    one, arguments = one_update(program)
    with jax.set_mesh(program.placing.mesh):
        traced = jax.make_jaxpr(one)(*arguments).jaxpr
    held, found = len(jax.tree.leaves(arguments[0])), list[Operation]()
    given = [_value(v.aval, shared=i >= held) for i, v in enumerate(traced.invars)]
    results = _inlined(traced, given, "", found)
    return found, results[:held], results[held:]


def _inlined(jaxpr: Jaxpr, given: Sequence[Value], scopes: str, found: list[Operation]) -> list[Value]:
    """Appends the operations of `jaxpr`, with those of the functions that it calls, and returns its results."""
    known = dict(zip(jaxpr.invars, given, strict=True)) | {v: _value(v.aval, True) for v in jaxpr.constvars}

    def value(atom: Any) -> Value:
        return _value(atom.aval, True) if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.eqns:
        reads, inside = [*map(value, eqn.invars)], f"{scopes}/{eqn.source_info.name_stack}"
        called = [j for p in eqn.params.values() if isinstance(j := getattr(p, "jaxpr", p), Jaxpr)]
        if called and len(called[0].invars) == len(reads):
            assert "length" not in eqn.params, "a loop inside an update would be counted once"
            writes = _inlined(called[0], reads, inside, found)
        else:
            writes = [_value(v.aval, all(read.shared for read in reads)) for v in eqn.outvars]
            passed = "backward" if "transpose(" in inside else "forward" if "jvp(" in inside else ""
            attends = eqn.primitive.name == PRODUCT and len(eqn.params["dimension_numbers"][1][0]) > 1
            operation = Operation(eqn.primitive.name, reads, writes, _count(eqn), passed, attends)
            view = eqn.primitive.name in RESHAPED or (eqn.primitive.name != RANDOM and all(r.small for r in reads))
            for written in writes:
                of = reads[0] if view and reads and not written.small and not _narrower(written, reads[0]) else None
                written.made, written.of = operation, of
            found.append(operation)
        known |= zip(eqn.outvars, writes, strict=True)
    return [*map(value, jaxpr.outvars)]


def _value(aval: Any, shared: bool) -> Value:
    return Value(math.prod(aval.shape), math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 8), shared)


def _narrower(one: Value, other: Value) -> bool:
    """Whether a number takes fewer bytes: it is rounded where the other is made, and stored so."""
    return one.bytes * other.size < other.bytes * one.size


def _count(eqn: JaxprEqn) -> float:
    """A multiplication and an addition for each term of a product, and otherwise an operation for each number."""
    name, avals = eqn.primitive.name, [cast(Any, v.aval) for v in (*eqn.invars, *eqn.outvars)]
    sizes = [math.prod(aval.shape) for aval in avals]
    if name == PRODUCT:
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2.0 * sizes[-1] * math.prod(avals[0].shape[axis] for axis in contracted)
    if name == RANDOM:
        return float(THREEFRY * sizes[-1])
    return 0.0 if name in RESHAPED | SLICED else float(max(sizes) if name in REDUCED else sizes[-1])


# Its kernels, for several ways to fuse ----------------------------------------------------------------

PRODUCTS, FORWARD, BACKWARD, AVERAGES, NOISE, OPTIMIZERS = (
    "matrix products, forward and backward", "between them, forward", "between them, backward",
    "loss of the averages", "batch and dropout masks", "optimizers and averages",
)  # fmt: skip
PASSES = {"forward": FORWARD, "backward": BACKWARD}


class Kernel(NamedTuple):
    """Operations computed together: bytes read and written, and arithmetic by the unit that computes it."""

    term: str
    bytes: float
    counts: dict[str, float]


def terms(found: Sequence[Operation], runs: Sequence[Value]) -> dict[Operation, str]:
    """The term to which each operation belongs. The loss of the averages is what no new run depends on."""
    needed = {value.made for value in runs}
    for operation in reversed(found):
        if operation in needed:
            needed |= {value.made for value in operation.reads}

    def term(operation: Operation) -> str:
        if all(value.shared for value in operation.writes):
            return NOISE
        if operation.passed:
            return PRODUCTS if operation.name == PRODUCT else PASSES[operation.passed]
        return OPTIMIZERS if operation in needed else AVERAGES

    return {operation: term(operation) for operation in found}


def fused(
    found: Sequence[Operation],
    results: Sequence[Value],
    term: Mapping[Operation, str],
    ends: Set[str] = frozenset(),
    attention: bool = False,
) -> list[Kernel]:
    """The kernels of an update where a product is a kernel of its own, and all else is fused that can be.

    The depth of an operation is the number of products on the longest way to it, and of operations named in `ends`.
    Operations of equal depth are fused where they share an array: one reads what the other writes or reads.

    **Arguments:** `attention`: whether the products of attention are fused too.
    """
    alone = {operation for operation in found if operation.name == PRODUCT and not (attention and operation.attends)}
    term = {each: PASSES.get(each.passed, of) if each.attends and attention else of for each, of in term.items()}
    work = [operation for operation in found if not all(value.of for value in operation.writes)]
    readers: dict[Value, list[Operation]] = {}
    for operation in work:
        for value in operation.reads:
            readers.setdefault(value.stored, []).append(operation)
    depths = _depths(work, readers, alone | {operation for operation in work if operation.name in ends})
    root = {operation: operation for operation in work}
    first: dict[tuple[Value, int, str], Operation] = {}

    def top(operation: Operation) -> Operation:
        while root[operation] is not operation:
            operation = root[operation]
        return operation

    for operation in work:
        for value in (*(value.stored for value in operation.reads), *operation.writes):
            if operation not in alone and not value.small:
                other = first.setdefault((value, depths[operation], term[operation]), operation)
                root[top(operation)] = top(other)
    groups: dict[Operation, list[Operation]] = {}
    for operation in work:
        groups.setdefault(top(operation), []).append(operation)
    leaving = {value.stored for value in results}
    leaving |= {v for v, by in readers.items() if v.made and any(top(each) is not top(v.made) for each in by)}
    large = [group for group in groups.values() if any(not v.small for o in group for v in (*o.reads, *o.writes))]
    return [_kernel(group, term, leaving) for group in large]


def kernels_of(program: Program, ends: Set[str] = frozenset()) -> list[Kernel]:
    """Those of one update of a program, as `fused` groups them."""
    found, runs, losses = operations(program)
    return fused(found, [*runs, *losses], terms(found, runs), ends)


def _depths(
    work: Sequence[Operation], readers: Mapping[Value, Sequence[Operation]], ends: Set[Operation]
) -> dict[Operation, int]:
    depths: dict[Operation, int] = {}
    for operation in work:
        before = [made for value in operation.reads if (made := value.stored.made)]
        depths[operation] = max((depths[each] + (each in ends) for each in before), default=0)
    for operation in reversed(work):  # what depends on no product is computed where it is used
        if depths[operation] == 0 and operation not in ends:
            depths[operation] = min((depths[each] for v in operation.writes for each in readers.get(v, [])), default=0)
    return depths


def _kernel(group: Sequence[Operation], term: Mapping[Operation, str], leaving: Set[Value]) -> Kernel:
    inside, read = {*group}, dict[Value, float]()
    for operation in group:
        for value in {value.stored for value in operation.reads}:
            if value.made not in inside:
                read[value] = min(read.get(value, 0.0) + _read(operation, value), value.bytes)
    written = sum(value.bytes for operation in group for value in operation.writes if value in leaving)
    return Kernel(term[group[0]], sum(read.values()) + written, _counts(group))


def _read(operation: Operation, value: Value) -> float:
    """Bytes of `value` that an operation reads: of a slice, only those of the slice."""
    most = sum(written.bytes for written in operation.writes) if operation.name in SLICED else math.inf
    return min(value.bytes, most)


def _counts(group: Iterable[Operation]) -> dict[str, float]:
    counts = dict.fromkeys(("product", "random", "other"), 0.0)
    for operation in group:
        counts[{PRODUCT: "product", RANDOM: "random"}.get(operation.name, "other")] += operation.count
    return counts


def unfused(found: Sequence[Operation], term: Mapping[Operation, str]) -> list[Kernel]:
    """The kernels of an update where each operation is one, but changes of shape that move no bytes."""
    return [
        Kernel(term[each], sum(_read(each, v) for v in each.reads) + sum(v.bytes for v in each.writes), _counts([each]))
        for each in found
        if each.name not in ("reshape", "squeeze", "expand_dims")
    ]


def kept(found: Sequence[Operation]) -> float:
    """Bytes that the forward pass keeps for the backward pass of all arms."""
    backward = {value.stored for each in found if each.passed == "backward" for value in each.reads}
    return sum(v.bytes for v in backward if v.made and v.made.passed == "forward" and not v.shared)
