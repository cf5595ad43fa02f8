"""From a kernel's graph to machine code: legalising rewrites, LLVM IR, objects."""
