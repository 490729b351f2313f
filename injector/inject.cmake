# The way in (inject.h), as a library of its own so that the tests of the mechanism can link it.
add_library(tm-inject STATIC
    errors.c
    arch_x86_64.c
    inject.c
    inject_boot.c
    inject_call.c
    inject_landing.c
    inject_libc.c
    inject_look.c
    inject_place.c
    inject_safe.c
    inject_seccomp.c
    inject_step.c
    inject_stub_x86_64.c
    inject_tracee.c
    inject_unwind.c
    inject_worker.c)
target_link_libraries(tm-inject PUBLIC tm-inspect)
# The stub is copied into another process: nothing may be in it that needs the rest of us.
set_source_files_properties(inject_stub_x86_64.c PROPERTIES COMPILE_OPTIONS
    "-O2;-fPIC;-fno-stack-protector;-fno-sanitize=all;-fno-jump-tables;-mgeneral-regs-only;-fno-tree-loop-distribute-patterns;-fcf-protection=none;-fno-omit-frame-pointer;-Wno-pedantic")
