"""TIR -> object code with plain C symbols that needs no TVM at run time.

TVM 0.27 has no option for this; the passes are those of its own TIR pipelines, with the step that would wrap each
function in TVM's calling convention replaced by one that turns buffer parameters into pointers.
"""

import tempfile
from pathlib import Path

import tvm
from tvm import s_tir, tirx

from bnncc.targets.target import Target


@tirx.transform.prim_func_pass(opt_level=0, name="bnncc.BuffersToPointers")
class _BuffersToPointers:
    """f(Buffer a, ...) -> int32 f(T* a, ...)."""

    def transform_function(self, func: tirx.PrimFunc, mod: tvm.IRModule, ctx: object) -> tirx.PrimFunc:
        params, declarations = [], []
        for param in func.params:
            if tirx.is_buffer_var(param):
                pointer = tirx.Var(param.name, tirx.buffer_data_pointer_type(param))
                params.append(pointer)
                declarations.append(tirx.DeclBuffer(param, data=pointer))
            else:
                params.append(param)
        body = tirx.stmt_seq(*declarations, func.body)
        return tirx.PrimFunc(params, body, func.ret_type if _returns(func) else tvm.ir.PrimType("int32"), func.attrs)


def _returns(func: tirx.PrimFunc) -> bool:
    return isinstance(func.ret_type, tvm.ir.PrimType)


def _lowering(target: tvm.target.Target, schedulable: bool) -> tvm.ir.transform.Pass:
    """The passes from TIR to what LLVM's code generator takes. `schedulable` functions (those that TVM makes of
    operators without a kernel of ours) have blocks to lower first; their large temporaries become parameters before
    this (see workspace.py), so LowerTVMBuiltin, which would ask a runtime for memory, is left out for all."""
    t, s = tirx.transform, s_tir.transform
    first = [t.BindTarget(target)]
    if schedulable:
        first += [
            s.CanonicalizeLoop(),
            s.LowerInitBlock(),
            s.PlanAndUpdateBufferAllocationLocation(),
            s.ConvertBlocksToOpaque(),
            s.CompactBufferAllocation(),
            s.LowerMatchBuffer(),
            s.StmtSimplify(),
            s.LowerOpaqueBlock(),
        ]
    return tvm.ir.transform.Sequential(
        [
            *first, s.UnifyThreadBinding(), t.StmtSimplify(), t.FlattenBuffer(), t.NarrowDataType(32),
            t.VectorizeLoop(True),
            t.UnrollLoop(), t.StmtSimplify(), t.RemoveNoOp(), t.CommonSubexprElim(), t.AnnotateEntryFunc(),
            _BuffersToPointers(), t.LowerIntrin(),
        ]
    )  # fmt: skip


def compile_object(
    functions: dict[str, tirx.PrimFunc], target: Target, form: str = "o", schedulable: bool = False, imports: str = ""
) -> bytes:
    """Machine code of `functions`, each exported under its key; form "o" (object), "s" (assembly) or "ll" (LLVM IR).

    Every function returns int32 0 and takes its buffers as pointers. `imports` is LLVM IR text that they may call.
    """
    llvm = tvm.target.Target(target.llvm)
    named = {name: func.with_attr("global_symbol", name) for name, func in functions.items()}
    with tvm.transform.PassContext(opt_level=3):
        module = _lowering(llvm, schedulable)(tvm.IRModule(named))
        if imports:
            # Attached last: the passes above drop a pragma that governs nothing they can see.
            name, func = next((name.name_hint, func) for name, func in module.functions.items())
            body = tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", tvm.ir.StringImm(imports), func.body)
            module[name] = tirx.PrimFunc(func.params, body, func.ret_type, func.attrs)
        library = tvm.get_global_func("target.build.llvm")(module, llvm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"kernels.{form}"
        library.write_to_file(str(path))
        return path.read_bytes()
