"""Memory, operations and collectives of a compiled program.

Operations are counted in the text of the optimized program, in which loops are computations of
their own. Products are counted in the program's jaxpr, since the compiler counts a loop once.
"""

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax


class Memory(NamedTuple):
    """Bytes that a program needs on each device.

    Attributes:
        arguments: Of its arguments.
        temporaries: Of its intermediate results.
        outputs: Of the results that do not reuse the buffer of an argument.
    """

    arguments: int
    temporaries: int
    outputs: int

    @property
    def peak(self) -> int:
        """The sum of all."""
        return sum(self)


def memory(compiled: jax.stages.Compiled) -> Memory | None:
    """Returns the compiler's count for a program, or None if it reports none."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    return Memory(
        found.argument_size_in_bytes,
        found.temp_size_in_bytes,
        found.output_size_in_bytes - found.alias_size_in_bytes,
    )


def needed(training: Memory, evaluation: Memory) -> int:
    """Returns the bytes that a run needs on each device.

    While parameters are evaluated, the rest of the state that training takes stays on the device.
    """
    rest = max(0, training.arguments - evaluation.arguments)
    return max(training.peak, evaluation.peak + rest)


_COLLECTIVES = re.compile(
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast"
    r"|ragged-all-to-all|send|recv)(-start)?$"
)
# What neither moves data nor computes by itself; `-done` waits for what `-start` has begun.
_FREE = frozenset(
    (
        *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
        *("while", "conditional", "call", "partition-id", "replica-id", "add-dependency"),
        *("opt-barrier", "async-start", "async-update", "iota"),
    )
)
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([a-z][\w\-]*)\(")
_TRIPS = re.compile(r'"?known_trip_count"?:\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:to_apply|calls|body|true_computation|false_computation)=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class _Line(NamedTuple):
    operation: str
    text: str


class Operations:
    """The operations of a compiled program: GPU kernels, fusions of a TPU, and the like."""

    def __init__(self, text: str):
        """Parses the text of an optimized program (`jax.stages.Compiled.as_text`)."""
        self._lines: dict[str, list[_Line]] = {}
        name = self._entry = ""
        for line in text.splitlines():
            if head := _HEAD.match(line):
                name = head[2]
                self._entry = name if head[1] else self._entry
                self._lines[name] = []
            elif line.startswith("}"):
                name = ""
            elif name and (match := _OPERATION.match(line.strip())):
                self._lines[name].append(_Line(match[1], line))

    def collectives(self) -> int:
        """Returns how many operations exchange data between devices."""
        every = (line for lines in self._lines.values() for line in lines)
        return sum(bool(_COLLECTIVES.match(line.operation)) for line in every)

    def of_step(self) -> int:
        """Returns how many operations one step runs.

        A step is the body of the outermost loop whose number of iterations is not known when the
        program is compiled, or the whole program if there is none.
        """
        return self._count(self._step())

    def of_inner_loops(self) -> int:
        """Returns how many of the operations of a step are in its loops, those over layers."""
        loops = (line for line in self._reached(self._step()) if line.operation == "while")
        return sum(self._of_line(line) for line in loops)

    def _step(self) -> str:
        """Returns the name of the computation that is one step."""
        waiting = [self._entry]
        while waiting:
            name = waiting.pop(0)
            for line in self._reached(name):
                if line.operation == "while":
                    body = _called(line)[0]
                    if self._trips(line) is None:
                        return body
                    waiting.append(body)
        return self._entry

    def _trips(self, loop: _Line) -> int | None:
        """Returns how often a loop runs, or None if the program does not say."""
        if known := _TRIPS.search(loop.text):
            return int(known[1])
        # The compiler for TPU does not state it: there it is what the loop's counter is below.
        condition = self._lines.get(_CONDITION.findall(loop.text)[0], [])
        bounds = [line for line in condition if line.operation == "constant"]
        if len(bounds) == 1 and condition[-1].operation == "compare":
            return int(re.findall(r"constant\((\d+)\)", bounds[0].text)[0])
        return None

    def _reached(self, name: str) -> Iterable[_Line]:
        """Yields the lines of a computation and of those that it calls, but for loops' bodies."""
        for line in self._lines.get(name, ()):
            yield line
            if line.operation in ("call", "async-start", "conditional"):
                for called in _called(line):
                    yield from self._reached(called)

    def _count(self, name: str) -> int:
        return sum(map(self._of_line, self._lines.get(name, ())))

    def _of_line(self, line: _Line) -> int:
        if line.operation == "while":
            return (self._trips(line) or 1) * self._count(_called(line)[0])
        if line.operation == "conditional":
            return max(map(self._count, _called(line)), default=0)
        if line.operation in ("call", "async-start"):
            return sum(map(self._count, _called(line)))
        return int(line.operation not in _FREE and not line.operation.endswith("-done"))


def _called(line: _Line) -> list[str]:
    """Returns the computations that a line runs; of a loop its body alone."""
    if line.operation == "while":
        return re.findall(r"body=%?([\w.\-]+)", line.text)
    if branches := _BRANCHES.search(line.text):
        return [name.strip().lstrip("%") for name in branches[1].split(",")]
    return _CALLED.findall(line.text)


def operations_of_products(jaxpr: Any) -> int:
    """Returns the multiplications and additions of all matrix products and convolutions.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.training.compiled_text import operations_of_products
        >>> def layers(x, kernels):
        ...     return jax.lax.scan(lambda x, kernel: (x @ kernel, None), x, kernels)[0]
        >>> operations_of_products(jax.make_jaxpr(layers)(jnp.ones((7, 5)), jnp.ones((3, 5, 5))))
        1050

    Args:
        jaxpr: A closed or open jaxpr. A loop of unknown length counts once, and of the branches of
            a condition the one with the fewest operations.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        operands = [variable.aval for variable in equation.invars]
        if equation.primitive.name == "dot_general":
            contracted, _ = equation.params["dimension_numbers"][0]
            each = math.prod(operands[0].shape[axis] for axis in contracted)
            total += 2 * equation.outvars[0].aval.size * each
        elif equation.primitive.name == "conv_general_dilated":
            numbers = equation.params["dimension_numbers"]
            outputs = operands[1].shape[numbers.rhs_spec[0]]
            total += 2 * equation.outvars[0].aval.size * (operands[1].size // outputs)
        elif equation.primitive.name == "cond":
            total += min(map(operations_of_products, equation.params["branches"]))
        else:
            inner = (value for value in equation.params.values() if _is_jaxpr(value))
            repeated = equation.params.get("length", 1)
            total += repeated * sum(map(operations_of_products, inner))
    return total


def _is_jaxpr(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")
