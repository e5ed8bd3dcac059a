"""TIR functions to C text: TVM's ``c`` target writes the bodies, its prelude is replaced by ours."""

from __future__ import annotations

import re

import tvm
from tvm import tirx
from tvm.tirx import transform

_DEFINITION = re.compile(r"^TVM_DLL void (\w+)\(([^)]*)\) \{\n(.*?)^\}$", re.MULTILINE | re.DOTALL)
_READ_ONLY = re.compile(r"^in\d+$|^words$|^ints$|^halves$|^bytes$")


def emit_functions(module: tvm.IRModule) -> dict[str, str]:
    """C definitions by name, ``static``, read-only parameters ``const``."""
    target = tvm.target.Target("c")
    passes = [
        transform.BindTarget(target),
        transform.StmtSimplify(),
        transform.FlattenBuffer(),
        transform.NarrowDataType(32),
        transform.LowerIntrin(),
        transform.StmtSimplify(),
    ]
    with tvm.transform.PassContext(opt_level=3):
        lowered = tvm.transform.Sequential(passes)(module)
    text = tvm.get_global_func("target.build.c")(lowered, target).inspect_source()
    functions = {match[1]: _definition(*match.groups()) for match in _DEFINITION.finditer(text)}
    missing = {variable.name_hint for variable, f in module.functions.items() if isinstance(f, tirx.PrimFunc)} - {
        *functions
    }
    if missing:
        raise RuntimeError(f"TVM's C for {sorted(missing)} has a form this version of sgsc_micro does not know")
    return functions


def _definition(name: str, parameters: str, body: str) -> str:
    """``static void name(const int8_t *in0, ...)`` with the body as TVM wrote it.

    A layer of zeros reads nothing: parameters without a use are marked, or the compiler would refuse them.
    """
    declared, unused = [], []
    for parameter in parameters.split(", "):
        pointer, parameter_name = parameter.split("* ")
        const = "const " if _READ_ONLY.match(parameter_name) else ""
        declared.append(f"{const}{pointer} *{parameter_name}")
        if not re.search(rf"\b{parameter_name}\b", body):
            unused.append(f"  (void){parameter_name};\n")
    return f"static void {name}({', '.join(declared)})\n{{\n{''.join(unused)}{body}}}\n"
