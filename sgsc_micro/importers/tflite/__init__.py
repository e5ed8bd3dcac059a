"""int8 TFLite models into Relax QDQ, to be computed as tflite-micro computes them."""

from __future__ import annotations

from pathlib import Path

import tvm
from tvm import relax

from sgsc_micro.errors import SgscError
from sgsc_micro.importers.tflite.convert import COMPUTING, Scope
from sgsc_micro.importers.tflite.model import DAMAGED, Model, Operator, Refused, Tensor, read_bytes, read_model
from sgsc_micro.importers.tflite.moves import MOVING
from sgsc_micro.importers.tflite.shapes import fold_shapes
from sgsc_micro.ir import shape_of, with_rounding

__all__ = ["from_tflite"]

_CONVERTERS = {**COMPUTING, **MOVING}


def from_tflite(path: Path) -> tvm.IRModule:
    """The network in a .tflite file as one Relax module of rounding ``tflite``.

    Errors: ``SgscError`` for a file that is no model, or with every operator that cannot be taken in one list.
    """
    return import_model(read_bytes(path), str(path))


def import_model(content: bytes, source: str) -> tvm.IRModule:
    """The same from a file's bytes; ``source`` names them in errors."""
    return _Importer(read_model(content, source), source).run()


class _Importer:
    """One walk over the operators; a refused one is noted, its outputs stood in for, and the walk goes on."""

    def __init__(self, model: Model, source: str) -> None:
        self.model = fold_shapes(model)
        self.source = source
        self.scope = Scope(relax.BlockBuilder())
        self.refusals: list[str] = []

    def run(self) -> tvm.IRModule:
        self._check_kind()
        builder, source = self.scope.builder, self.model.input
        x = relax.Var("x", relax.TensorType(source.shape, "float32"))
        with builder.function("main", [x]):
            with builder.dataflow():
                self._enter(x, source)
                for operator in self._computed():
                    self._convert(operator)
                result = builder.emit_output(self._leave(x))
            builder.emit_func_output(result)
        if self.refusals:
            count = "1 thing" if len(self.refusals) == 1 else f"{len(self.refusals)} things"
            listed = "".join(f"\n  {refusal}" for refusal in self.refusals)
            raise SgscError(
                f"{self.source}: {count} cannot be taken:{listed}",
                hint="docs/operators.md lists what can; change the network, or its conversion",
            )
        module = relax.transform.DeadCodeElimination(["main"])(builder.finalize())
        return with_rounding(module, "tflite")

    def _check_kind(self) -> None:
        """A float or dynamic-range model would be refused at every operator; one line says more."""
        computing = [op for op in self.model.operators if op.kind in COMPUTING and op.kind not in ("QUANTIZE",)]
        floats = [op for op in computing if op.outputs and op.outputs[0].dtype == "float32"]
        if not floats or len(floats) < len(computing):
            return
        weights = {t.dtype for op in floats for t in op.inputs if t is not None and t.values is not None}
        kind = "a dynamic-range model (int8 weights, float32 activations)" if "int8" in weights else "a float model"
        raise SgscError(
            f"{self.source}: {kind}: nothing in it computes on int8",
            hint="convert it with full integer quantisation (a representative dataset, TFLITE_BUILTINS_INT8)",
        )

    def _computed(self) -> list[Operator]:
        """All but a last DEQUANTIZE to the network's float output."""
        operators = list(self.model.operators)
        if operators and operators[-1].kind == "DEQUANTIZE" and self.model.output in operators[-1].outputs:
            operators.pop()
        return operators

    def _enter(self, x: relax.Var, source: Tensor) -> None:
        try:
            self.scope.values[source.index] = x if source.dtype == "float32" else self.scope.quantized(x, source)
        except Refused as refusal:
            self.refusals.append(f"input: {refusal}")
            self.scope.values[source.index] = self._stand_in(source)

    def _leave(self, x: relax.Var) -> relax.Var:
        last, sink = self.model.operators[-1:], self.model.output
        try:
            if last and last[0].kind == "DEQUANTIZE" and sink in last[0].outputs:
                sink = last[0].input(0)
            return self.scope.real(sink)
        except Refused as refusal:
            self.refusals.append(f"output: {refusal}")
            return x

    def _convert(self, operator: Operator) -> None:
        try:
            results = self._results(operator)
        except Refused as refusal:
            written = ", ".join(f"'{tensor.name}'" for tensor in operator.outputs)
            self.refusals.append(f"operator {operator.index} {operator.kind} ({written}): {refusal}")
            results = [self._stand_in(tensor) for tensor in operator.outputs]
        for tensor, result in zip(operator.outputs, results, strict=True):
            self.scope.values[tensor.index] = result

    def _results(self, operator: Operator) -> list[relax.Expr]:
        convert = _CONVERTERS.get(operator.kind)
        if convert is None:
            raise Refused("cannot be compiled")
        for tensor in operator.inputs:
            if tensor is not None and tensor.dtype in ("float32", "int16", "uint8", "float16"):
                entry = tensor is self.model.input and operator.kind == "QUANTIZE"
                if not entry:
                    raise Refused(f"reads {tensor}, which is {tensor.dtype}: only int8 is computed on")
        try:
            made = convert(self.scope, operator)
        except (*DAMAGED, tvm.error.InternalError) as error:
            raise Refused(f"makes no sense: {str(error).strip().splitlines()[-1]}") from error
        results = made if isinstance(made, list) else [made]
        if len(results) != len(operator.outputs):
            raise Refused(f"makes {len(results)} outputs, {len(operator.outputs)} are stated")
        for tensor, result in zip(operator.outputs, results, strict=True):
            if tensor.dtype != "int8":
                raise Refused(f"writes {tensor}, which is {tensor.dtype}: only int8 is computed")
            if shape_of(result) != tensor.shape:
                raise Refused(f"makes {list(shape_of(result))}, {list(tensor.shape)} is stated for {tensor}")
        return results

    def _stand_in(self, tensor: Tensor) -> relax.Var:
        """For a tensor nobody computed, so that its readers can be looked at too."""
        return self.scope.emit(relax.op.zeros(tensor.shape, "int8"))
