// SPDX-License-Identifier: MIT
/*
 * The stack of a stopped thread, from .eh_frame alone. libdwfl could do this, but works every
 * frame out anew; here the rules of a pc are kept, so that a recursion of thousands of frames
 * costs as little as its depth in memory reads. Runs in the worker while a thread is stopped.
 */
#include "injector/inject_unwind.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <string.h>

#include "inspect/memory.h"

#define MAX_FRAMES 200000u
#define CACHE_BYTES 65536u
#define CACHE_WAYS 4u
#define STACK_DEPTH 16u
#define PAGE_BYTES 4096u

struct unwind_module {
    const struct tm_module *module;
    Dwarf_CFI *cfi;
    enum tm_frame_kind kind;
    tm_symbols *functions; /* of TM_FRAME_LIBC and TM_FRAME_MALLOC only */
};

/* How to find one register of the caller, as libdw gives it. */
struct reg_rule {
    enum { RULE_UNDEFINED, RULE_SAME, RULE_EXPR } kind;
    const Dwarf_Op *ops;
    size_t n_ops;
    Dwarf_Op own[3];
};

struct pc_rules {
    Dwarf_Frame *frame; /* NULL: there are none for this pc */
    const Dwarf_Op *cfa;
    size_t n_cfa;
    bool is_signal;
    struct reg_rule regs[TM_ARCH_DWARF_REGS];
};

struct memory_way {
    uint64_t addr;
    size_t n_bytes;
    char bytes[CACHE_BYTES];
};

struct tm_unwinder {
    tm_modules *modules;
    struct unwind_module *items; /* parallel to modules->items */
    GHashTable *rules;           /* pc -> struct pc_rules */
    unsigned next_way;
    struct memory_way ways[CACHE_WAYS];
};

/* The library that brings malloc is whichever defines it besides libc and ld.so. The executable
 * is left out: a Python with an allocator linked in would have no other frames at all. */
static bool brings_malloc(tm_modules *modules, struct tm_module *module,
                          const struct tm_module *exe)
{
    uint64_t addr;
    return module != exe && tm_module_export_addr(modules, module, "malloc", &addr) &&
           tm_module_export_addr(modules, module, "free", &addr);
}

static enum tm_frame_kind kind_of(tm_modules *modules, struct tm_module *module,
                                  const struct tm_inject_libc *libc, const struct tm_module *exe)
{
    const char *slash = strrchr(module->path, '/');
    const char *name = slash != NULL ? slash + 1 : module->path;
    if (module == libc->libc || g_str_has_prefix(name, "libpthread"))
        return TM_FRAME_LIBC;
    if (module == libc->ldso || g_str_has_prefix(name, "libdl.") ||
        g_str_has_prefix(name, "libdl-"))
        return TM_FRAME_LDSO;
    if (strcmp(name, "[vdso]") == 0)
        return TM_FRAME_VDSO;
    return brings_malloc(modules, module, exe) ? TM_FRAME_MALLOC : TM_FRAME_OTHER;
}

static void free_rules(void *data)
{
    struct pc_rules *rules = data;
    free(rules->frame);
    g_free(rules);
}

tm_unwinder *tm_unwinder_new(tm_modules *modules, const struct tm_inject_libc *libc)
{
    tm_unwinder *self = g_new0(tm_unwinder, 1);
    const struct tm_module *exe = tm_modules_find_exe(modules);
    self->modules = modules;
    self->items = g_new0(struct unwind_module, modules->count);
    self->rules = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, free_rules);
    for (size_t i = 0; i < modules->count; i++) {
        struct tm_module *module = &modules->items[i];
        self->items[i].module = module;
        if (!tm_module_open(modules, module, NULL))
            continue;
        self->items[i].cfi = dwarf_getcfi_elf(module->elf->elf);
        self->items[i].kind = kind_of(modules, module, libc, exe);
        if (self->items[i].kind == TM_FRAME_LIBC || self->items[i].kind == TM_FRAME_MALLOC)
            self->items[i].functions = tm_elf_functions(module->elf);
    }
    return self;
}

void tm_unwinder_free(tm_unwinder *unwinder)
{
    if (unwinder == NULL)
        return;
    g_hash_table_unref(unwinder->rules);
    for (size_t i = 0; i < unwinder->modules->count; i++) {
        if (unwinder->items[i].cfi != NULL)
            dwarf_cfi_end(unwinder->items[i].cfi);
        tm_symbols_free(unwinder->items[i].functions);
    }
    g_free(unwinder->items);
    g_free(unwinder);
}

static void load_section(const tm_elf *elf, const char *name)
{
    GElf_Shdr header;
    const Elf_Data *data = tm_elf_section(elf, name, &header);
    const volatile uint8_t *bytes = data != NULL ? data->d_buf : NULL;
    for (size_t at = 0; bytes != NULL && at < data->d_size; at += PAGE_BYTES)
        (void)bytes[at];
}

void tm_unwinder_load(const tm_unwinder *unwinder)
{
    for (size_t i = 0; i < unwinder->modules->count; i++) {
        if (unwinder->items[i].cfi == NULL)
            continue;
        load_section(unwinder->modules->items[i].elf, ".eh_frame_hdr");
        load_section(unwinder->modules->items[i].elf, ".eh_frame");
    }
}

void tm_unwinder_forget_memory(tm_unwinder *unwinder)
{
    for (unsigned i = 0; i < CACHE_WAYS; i++)
        unwinder->ways[i].n_bytes = 0;
}

bool tm_unwinder_read(tm_unwinder *unwinder, uint64_t addr, void *buffer, size_t n_bytes)
{
    for (unsigned i = 0; i < CACHE_WAYS; i++) {
        const struct memory_way *way = &unwinder->ways[i];
        if (addr >= way->addr && addr - way->addr + n_bytes <= way->n_bytes) {
            memcpy(buffer, way->bytes + (addr - way->addr), n_bytes);
            return true;
        }
    }
    /* The walk goes to higher addresses; a page in front is kept for red zones. */
    struct memory_way *way = &unwinder->ways[unwinder->next_way++ % CACHE_WAYS];
    way->addr = addr & ~4095ull;
    ssize_t n = tm_memory_read_some(unwinder->modules->pid, way->addr, way->bytes, CACHE_BYTES);
    way->n_bytes = n > 0 ? (size_t)n : 0;
    if (addr - way->addr + n_bytes > way->n_bytes)
        return false;
    memcpy(buffer, way->bytes + (addr - way->addr), n_bytes);
    return true;
}

static struct unwind_module *find_module(const tm_unwinder *self, uint64_t pc)
{
    const struct tm_module *module = tm_modules_find(self->modules, pc);
    return module != NULL ? &self->items[module - self->modules->items] : NULL;
}

const tm_symbols *tm_unwinder_functions_at(const tm_unwinder *unwinder, uint64_t addr,
                                           uint64_t *ret_value)
{
    const struct unwind_module *found = find_module(unwinder, addr);
    if (found == NULL || found->functions == NULL)
        return NULL;
    *ret_value = addr - found->module->bias;
    return found->functions;
}

static void fill_reg_rule(Dwarf_Frame *frame, int number, struct reg_rule *ret)
{
    Dwarf_Op *ops = NULL;
    if (dwarf_frame_register(frame, number, ret->own, &ops, &ret->n_ops) != 0)
        ret->kind = RULE_UNDEFINED;
    else if (ret->n_ops > 0)
        ret->kind = RULE_EXPR;
    else
        ret->kind = ops == NULL ? RULE_SAME : RULE_UNDEFINED;
    ret->ops = ops;
}

static const struct pc_rules *get_rules(tm_unwinder *self, const struct unwind_module *module,
                                        uint64_t pc)
{
    gint64 key = (gint64)pc;
    struct pc_rules *rules = g_hash_table_lookup(self->rules, &key);
    if (rules != NULL)
        return rules;
    rules = g_new0(struct pc_rules, 1);
    g_hash_table_insert(self->rules, g_memdup2(&key, sizeof(key)), rules);
    Dwarf_Op *cfa = NULL;
    if (module->cfi == NULL ||
        dwarf_cfi_addrframe(module->cfi, pc - module->module->bias, &rules->frame) != 0) {
        rules->frame = NULL;
        return rules;
    }
    dwarf_frame_info(rules->frame, NULL, NULL, &rules->is_signal);
    if (dwarf_frame_cfa(rules->frame, &cfa, &rules->n_cfa) != 0)
        rules->n_cfa = 0;
    rules->cfa = cfa;
    for (int i = 0; i < TM_ARCH_DWARF_REGS; i++)
        fill_reg_rule(rules->frame, i, &rules->regs[i]);
    return rules;
}

struct machine {
    tm_unwinder *self;
    const uint64_t *regs;
    uint64_t cfa;
    uint64_t stack[STACK_DEPTH];
    unsigned depth;
    bool is_value; /* DW_OP_stack_value, or a register: the result is no address */
};

static bool push(struct machine *m, uint64_t value)
{
    if (m->depth == STACK_DEPTH)
        return false;
    m->stack[m->depth++] = value;
    return true;
}

static bool binary(struct machine *m, uint8_t atom)
{
    if (m->depth < 2)
        return false;
    uint64_t right = m->stack[--m->depth], left = m->stack[--m->depth];
    switch (atom) {
    case DW_OP_plus:
        return push(m, left + right);
    case DW_OP_minus:
        return push(m, left - right);
    case DW_OP_mul:
        return push(m, left * right);
    case DW_OP_and:
        return push(m, left & right);
    case DW_OP_or:
        return push(m, left | right);
    case DW_OP_shl:
        return push(m, right < 64 ? left << right : 0);
    case DW_OP_shr:
        return push(m, right < 64 ? left >> right : 0);
    case DW_OP_ge:
        return push(m, (int64_t)left >= (int64_t)right);
    case DW_OP_gt:
        return push(m, (int64_t)left > (int64_t)right);
    case DW_OP_le:
        return push(m, (int64_t)left <= (int64_t)right);
    case DW_OP_lt:
        return push(m, (int64_t)left < (int64_t)right);
    case DW_OP_eq:
        return push(m, left == right);
    case DW_OP_ne:
        return push(m, left != right);
    default:
        return false;
    }
}

static bool dereference(struct machine *m)
{
    uint64_t value;
    if (m->depth == 0 || !tm_unwinder_read(m->self, m->stack[m->depth - 1], &value, sizeof(value)))
        return false;
    m->stack[m->depth - 1] = value;
    return true;
}

/* The operations that .eh_frame uses on real systems; any other ends the walk as incomplete. */
static bool step(struct machine *m, const Dwarf_Op *op)
{
    uint8_t atom = op->atom;
    if (atom >= DW_OP_lit0 && atom <= DW_OP_lit31)
        return push(m, atom - DW_OP_lit0);
    if (atom >= DW_OP_breg0 && atom < DW_OP_breg0 + TM_ARCH_DWARF_REGS)
        return push(m, m->regs[atom - DW_OP_breg0] + op->number);
    if (atom >= DW_OP_reg0 && atom < DW_OP_reg0 + TM_ARCH_DWARF_REGS) {
        m->is_value = true;
        return push(m, m->regs[atom - DW_OP_reg0]);
    }
    switch (atom) {
    case DW_OP_call_frame_cfa:
        return push(m, m->cfa);
    case DW_OP_bregx:
        return op->number < TM_ARCH_DWARF_REGS && push(m, m->regs[op->number] + op->number2);
    case DW_OP_regx:
        m->is_value = true;
        return op->number < TM_ARCH_DWARF_REGS && push(m, m->regs[op->number]);
    case DW_OP_addr:
    case DW_OP_const1u:
    case DW_OP_const1s:
    case DW_OP_const2u:
    case DW_OP_const2s:
    case DW_OP_const4u:
    case DW_OP_const4s:
    case DW_OP_const8u:
    case DW_OP_const8s:
    case DW_OP_constu:
    case DW_OP_consts:
        return push(m, op->number);
    case DW_OP_plus_uconst:
        return m->depth > 0 && push(m, m->stack[--m->depth] + op->number);
    case DW_OP_deref:
        return dereference(m);
    case DW_OP_dup:
        return m->depth > 0 && push(m, m->stack[m->depth - 1]);
    case DW_OP_drop:
        return m->depth > 0 && m->depth-- > 0;
    case DW_OP_stack_value:
        m->is_value = true;
        return m->depth > 0;
    case DW_OP_nop:
        return true;
    default:
        return binary(m, atom);
    }
}

static bool evaluate(struct machine *m, const Dwarf_Op *ops, size_t n_ops, uint64_t *ret)
{
    m->depth = 0;
    m->is_value = false;
    for (size_t i = 0; i < n_ops; i++) {
        if (!step(m, &ops[i]))
            return false;
    }
    if (m->depth == 0)
        return false;
    *ret = m->stack[m->depth - 1];
    return true;
}

enum walk { WALK_ON, WALK_END, WALK_FAIL };

/* Replaces regs by the caller's. */
static enum walk step_out(tm_unwinder *self, const struct pc_rules *rules,
                          uint64_t regs[TM_ARCH_DWARF_REGS])
{
    struct machine m = {.self = self, .regs = regs};
    uint64_t next[TM_ARCH_DWARF_REGS] = {0}, cfa;
    if (rules->regs[TM_ARCH_DWARF_PC].kind == RULE_UNDEFINED)
        return WALK_END;
    if (rules->n_cfa == 0 || !evaluate(&m, rules->cfa, rules->n_cfa, &cfa))
        return WALK_FAIL;
    m.cfa = cfa;
    for (int i = 0; i < TM_ARCH_DWARF_REGS; i++) {
        const struct reg_rule *rule = &rules->regs[i];
        if (rule->kind == RULE_SAME)
            next[i] = regs[i];
        else if (rule->kind == RULE_EXPR &&
                 (!evaluate(&m, rule->ops, rule->n_ops, &next[i]) ||
                  (!m.is_value && !tm_unwinder_read(self, next[i], &next[i], sizeof(next[i])))))
            return WALK_FAIL;
    }
    /* The caller's stack pointer is the CFA, unless a signal frame says what it was. */
    if (!rules->is_signal) {
        if (cfa <= regs[TM_ARCH_DWARF_SP])
            return WALK_FAIL;
        next[TM_ARCH_DWARF_SP] = cfa;
    }
    memcpy(regs, next, sizeof(next));
    return regs[TM_ARCH_DWARF_PC] == 0 ? WALK_END : WALK_ON;
}

bool tm_unwinder_walk(tm_unwinder *unwinder, const uint64_t start_regs[TM_ARCH_DWARF_REGS],
                      GArray *frames)
{
    uint64_t regs[TM_ARCH_DWARF_REGS];
    bool exact_pc = true;
    memcpy(regs, start_regs, sizeof(regs));
    g_array_set_size(frames, 0);
    while (frames->len < MAX_FRAMES) {
        uint64_t pc = regs[TM_ARCH_DWARF_PC];
        const struct unwind_module *module = find_module(unwinder, pc);
        if (module == NULL)
            return false;
        /* A return address may be the first byte after the function: look at the call itself.
         * A signal frame's pc is exact, and so is that of what it interrupted. */
        const struct pc_rules *rules = get_rules(unwinder, module, exact_pc ? pc : pc - 1);
        if (rules->frame == NULL && !exact_pc)
            rules = get_rules(unwinder, module, pc);
        struct tm_frame frame = {.pc = pc,
                                 .sp = regs[TM_ARCH_DWARF_SP],
                                 .module = module->module,
                                 .kind = module->kind,
                                 .is_signal = rules->is_signal,
                                 .exact_pc = exact_pc};
        g_array_append_val(frames, frame);
        if (rules->frame == NULL)
            return false;
        enum walk walk = step_out(unwinder, rules, regs);
        if (walk != WALK_ON)
            return walk == WALK_END;
        exact_pc = rules->is_signal;
    }
    return false;
}
