"""A weighted operator that adds its result to another activation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tvm import relax

from sgsc_micro.passes.operators.arithmetic import Add
from sgsc_micro.passes.operators.base import Operand, Operator, Pieces
from sgsc_micro.passes.operators.weighted import Weighted
from sgsc_micro.storage import Packing

Read = Callable[[Pieces], tuple[Operator, list[Operand]]]


@dataclass(frozen=True, eq=False)
class Residual(Operator):
    """add(weighted(x), other), or add(other, weighted(x)) where ``number`` is 1; inputs (x, other).

    The weighted operator's int8 result is what it was alone, and the add gets just that.
    """

    overwrites: ClassVar[tuple[int, ...]] = (1,)
    weighted: Weighted
    add: Add
    number: int

    @property
    def composite(self) -> str:  # type: ignore[override]
        """See :class:`Operator`."""
        return composite_of(type(self.weighted), type(self.add))

    def scratch_bytes(self, output: Sequence[int], packing: Packing) -> int:
        """The weighted operator's, and behind it what it gives at the pixels of one turn."""
        return self.weighted.scratch_bytes(output, packing) + self.weighted.result_bytes(output)

    def emit(self, builder: relax.BlockBuilder, *inputs: relax.Expr) -> relax.Expr:
        """The QDQ pieces of both, one after the other."""
        x, other = inputs
        operands = [builder.emit(self.weighted.emit(builder, x)), other]
        return self.add.emit(builder, *(operands if self.number == 0 else reversed(operands)))

    @staticmethod
    def read(weighted: Read, add: Read, pieces: Pieces) -> tuple[Operator, list[Operand]]:
        """From a composite function of the operators that these read."""
        first, second = pieces.parts()
        (producer, inner), (adder, summands) = weighted(first), add(second)
        assert isinstance(producer, Weighted) and isinstance(adder, Add)
        (result,) = (var for var, value in first.values.items() if value.op.name == "relax.quantize")
        number = int(not (isinstance(summands[0], relax.Var) and summands[0].same_as(result)))
        return Residual(producer, adder, number), [*inner, summands[1 - number]]


def composite_of(weighted: type[Weighted], add: type[Add]) -> str:
    """The name of their composite function, e.g. sgsc.conv2d_add."""
    return f"{weighted.composite}_{add.relax_op}"
