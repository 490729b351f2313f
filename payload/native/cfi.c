// SPDX-License-Identifier: MIT
#include "payload/native/cfi.h"

#include <string.h>

enum {
    REG_RBP = 6,
    REG_RSP = 7,
    REG_RA = 16,
    STATES_MAX = 8,
    PE_OMIT = 0xff,
};

/* ---- bounded reading ---- */

struct cursor {
    const uint8_t *at, *end;
    bool failed;
};

static uint64_t take_uint(struct cursor *c, size_t n_bytes)
{
    uint64_t value = 0;
    if (c->failed || (size_t)(c->end - c->at) < n_bytes) {
        c->failed = true;
        return 0;
    }
    memcpy(&value, c->at, n_bytes); /* little-endian */
    c->at += n_bytes;
    return value;
}

static uint64_t take_uleb(struct cursor *c)
{
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
        uint64_t byte = take_uint(c, 1);
        if (shift < 64)
            value |= (byte & 0x7f) << shift;
        if (c->failed || !(byte & 0x80))
            return value;
    }
}

static int64_t take_sleb(struct cursor *c)
{
    uint64_t value = 0;
    for (unsigned shift = 0;;) {
        uint64_t byte = take_uint(c, 1);
        if (shift < 64)
            value |= (byte & 0x7f) << shift;
        shift += 7;
        if (c->failed)
            return 0;
        if (byte & 0x80)
            continue;
        if (shift < 64 && (byte & 0x40))
            value |= ~(uint64_t)0 << shift;
        return (int64_t)value;
    }
}

static void skip(struct cursor *c, uint64_t n_bytes)
{
    if (c->failed || (uint64_t)(c->end - c->at) < n_bytes)
        c->failed = true;
    else
        c->at += n_bytes;
}

/* A pointer in one of the DW_EH_PE encodings; indirect ones are not for code addresses. */
static uint64_t take_encoded(struct cursor *c, uint8_t encoding, uint64_t data_base)
{
    uint64_t base = 0, value;
    switch (encoding & 0x70) {
    case 0x00:
        break;
    case 0x10: /* DW_EH_PE_pcrel */
        base = (uint64_t)c->at;
        break;
    case 0x30: /* DW_EH_PE_datarel */
        base = data_base;
        break;
    default:
        c->failed = true;
        return 0;
    }
    switch (encoding & 0x0f) {
    case 0x00:
    case 0x04:
    case 0x0c:
        value = take_uint(c, 8);
        break;
    case 0x01:
        value = take_uleb(c);
        break;
    case 0x09:
        value = (uint64_t)take_sleb(c);
        break;
    case 0x02:
        value = take_uint(c, 2);
        break;
    case 0x0a:
        value = (uint64_t)(int64_t)(int16_t)take_uint(c, 2);
        break;
    case 0x03:
        value = take_uint(c, 4);
        break;
    case 0x0b:
        value = (uint64_t)(int64_t)(int32_t)take_uint(c, 4);
        break;
    default:
        c->failed = true;
        return 0;
    }
    return base + value;
}

static bool cursor_at(const struct tm_cfi_module *module, uint64_t addr, struct cursor *ret)
{
    if (addr < module->read_start || addr >= module->read_end)
        return false;
    *ret = (struct cursor){(const uint8_t *)addr, (const uint8_t *)module->read_end, false};
    return true;
}

/* ---- one function's program ---- */

/* Where one register of the caller is. */
enum where { SAME, AT_CFA, AT_RBP, UNDEFINED, ELSEWHERE };
struct place {
    enum where where;
    int64_t offset_bytes;
};

struct state {
    enum { CFA_REG, CFA_DEREF, CFA_OTHER } cfa;
    uint64_t cfa_reg;
    int64_t cfa_offset_bytes;
    struct place rbp, ra;
};

struct cie {
    uint64_t code_align;
    int64_t data_align;
    uint64_t ra_reg;
    uint8_t pointer_encoding;
    bool has_augmentation, signal_frame;
    struct cursor program;
};

struct compile {
    const struct tm_cfi_module *module;
    tm_cfi_sink *sink;
    void *data;
    uint64_t gap_pc; /* where the last function ended; 0: none */
    uint32_t last_rule, last_offset;
    bool any, stopped;
};

static uint32_t pack(const struct state *state, bool signal_frame)
{
    int64_t offset = state->cfa_offset_bytes, saved = 0;
    uint32_t kind;
    if (state->ra.where == UNDEFINED)
        return TM_CFI_END;
    if (signal_frame || state->ra.where != AT_CFA || state->ra.offset_bytes != -8 ||
        state->cfa == CFA_OTHER)
        return TM_CFI_UNKNOWN;
    if (state->cfa == CFA_DEREF)
        kind = TM_CFI_RBP_DEREF;
    else if (state->cfa_reg == REG_RSP)
        kind = TM_CFI_RSP;
    else if (state->cfa_reg == REG_RBP)
        kind = TM_CFI_RBP;
    else
        return TM_CFI_UNKNOWN;
    if (kind == TM_CFI_RBP_DEREF) {
        /* The saved rbp is where rbp points to; 0 says so here, because it is never unchanged. */
        if (state->rbp.where != AT_RBP || state->rbp.offset_bytes != 0)
            return TM_CFI_UNKNOWN;
    } else if (state->rbp.where == AT_CFA) {
        saved = state->rbp.offset_bytes;
        if (saved == 0)
            return TM_CFI_UNKNOWN;
    } else if (state->rbp.where != SAME) {
        return TM_CFI_UNKNOWN;
    }
    /* Whatever it says, the return address lies on the stack. */
    if (offset % 8 != 0 || saved % 8 != 0 || (kind == TM_CFI_RSP && offset < 8))
        return TM_CFI_UNKNOWN;
    offset /= 8;
    saved /= 8;
    if (offset < -(1 << (TM_CFI_OFFSET_BITS - 1)) || offset >= 1 << (TM_CFI_OFFSET_BITS - 1) ||
        saved < -(1 << (TM_CFI_SAVED_BITS - 1)) || saved >= 1 << (TM_CFI_SAVED_BITS - 1))
        return TM_CFI_UNKNOWN;
    return kind | ((uint32_t)offset & ((1u << TM_CFI_OFFSET_BITS) - 1)) << 3 |
           (uint32_t)saved << (32 - TM_CFI_SAVED_BITS);
}

static void emit(struct compile *c, uint64_t pc, uint32_t rule)
{
    if (pc < c->module->start || pc > c->module->end || c->stopped)
        return;
    uint32_t offset = (uint32_t)(pc - c->module->start);
    if (c->any && (rule == c->last_rule || offset < c->last_offset))
        return;
    if (!c->sink(c->data, (struct tm_cfi_row){offset, rule}))
        c->stopped = true;
    c->any = true;
    c->last_rule = rule;
    c->last_offset = offset;
}

/* Between functions is nothing, which is worth a row only where it is more than padding. */
static void close_gap(struct compile *c, uint64_t next_pc)
{
    enum { PADDING_BYTES = 64 };
    if (c->gap_pc != 0 && (next_pc < c->gap_pc || next_pc - c->gap_pc > PADDING_BYTES))
        emit(c, c->gap_pc, TM_CFI_UNKNOWN);
    c->gap_pc = 0;
}

/* A location expression of "breg6 n" is rbp + n, of "breg6 n, deref" what lies there. */
static void take_expression(struct cursor *c, int64_t *ret_offset, bool *ret_deref, bool *ret_ok)
{
    uint64_t n_bytes = take_uleb(c);
    struct cursor expression = {c->at, c->at, false};
    skip(c, n_bytes);
    *ret_ok = *ret_deref = false;
    *ret_offset = 0;
    if (c->failed)
        return;
    expression.end = expression.at + n_bytes;
    if (take_uint(&expression, 1) != 0x76) /* DW_OP_breg6 */
        return;
    *ret_offset = take_sleb(&expression);
    if (expression.at < expression.end)
        *ret_deref = take_uint(&expression, 1) == 0x06; /* DW_OP_deref */
    *ret_ok = !expression.failed && expression.at == expression.end;
}

static struct place *place_of(struct state *state, const struct cie *cie, uint64_t reg)
{
    if (reg == cie->ra_reg)
        return &state->ra;
    return reg == REG_RBP ? &state->rbp : NULL;
}

static void set_place(struct state *state, const struct cie *cie, uint64_t reg, enum where where,
                      int64_t offset_bytes)
{
    struct place *place = place_of(state, cie, reg);
    if (place != NULL)
        *place = (struct place){where, offset_bytes};
}

static void restore_place(struct state *state, const struct cie *cie, const struct state *initial,
                          uint64_t reg)
{
    struct place *place = place_of(state, cie, reg);
    if (place == &state->ra)
        *place = initial->ra;
    else if (place != NULL)
        *place = initial->rbp;
}

static void define_cfa_expression(struct cursor *c, struct state *state)
{
    bool deref, ok;
    int64_t offset;
    take_expression(c, &offset, &deref, &ok);
    state->cfa = ok && deref ? CFA_DEREF : CFA_OTHER;
    state->cfa_offset_bytes = offset;
}

static void define_place_expression(struct cursor *c, struct state *state, const struct cie *cie,
                                    bool is_value)
{
    uint64_t reg = take_uleb(c);
    bool deref, ok;
    int64_t offset;
    take_expression(c, &offset, &deref, &ok);
    set_place(state, cie, reg, ok && !deref && !is_value ? AT_RBP : ELSEWHERE, offset);
}

/* What changes registers' rules and the CFA; false: an instruction that nobody knows. */
static bool execute_rule(struct cursor *c, uint8_t op, struct state *state, const struct cie *cie,
                         const struct state *initial)
{
    uint64_t reg;
    switch (op) {
    case 0x05: /* DW_CFA_offset_extended */
        reg = take_uleb(c);
        set_place(state, cie, reg, AT_CFA, (int64_t)take_uleb(c) * cie->data_align);
        return true;
    case 0x06: /* DW_CFA_restore_extended */
        restore_place(state, cie, initial, take_uleb(c));
        return true;
    case 0x07: /* DW_CFA_undefined */
        set_place(state, cie, take_uleb(c), UNDEFINED, 0);
        return true;
    case 0x08: /* DW_CFA_same_value */
        set_place(state, cie, take_uleb(c), SAME, 0);
        return true;
    case 0x09: /* DW_CFA_register */
        set_place(state, cie, take_uleb(c), ELSEWHERE, 0);
        take_uleb(c);
        return true;
    case 0x0c: /* DW_CFA_def_cfa */
        state->cfa = CFA_REG;
        state->cfa_reg = take_uleb(c);
        state->cfa_offset_bytes = (int64_t)take_uleb(c);
        return true;
    case 0x0d: /* DW_CFA_def_cfa_register */
        state->cfa = CFA_REG;
        state->cfa_reg = take_uleb(c);
        return true;
    case 0x0e: /* DW_CFA_def_cfa_offset */
        state->cfa_offset_bytes = (int64_t)take_uleb(c);
        return true;
    case 0x0f: /* DW_CFA_def_cfa_expression */
        define_cfa_expression(c, state);
        return true;
    case 0x10: /* DW_CFA_expression */
    case 0x16: /* DW_CFA_val_expression */
        define_place_expression(c, state, cie, op == 0x16);
        return true;
    case 0x11: /* DW_CFA_offset_extended_sf */
        reg = take_uleb(c);
        set_place(state, cie, reg, AT_CFA, take_sleb(c) * cie->data_align);
        return true;
    case 0x12: /* DW_CFA_def_cfa_sf */
        state->cfa = CFA_REG;
        state->cfa_reg = take_uleb(c);
        state->cfa_offset_bytes = take_sleb(c) * cie->data_align;
        return true;
    case 0x13: /* DW_CFA_def_cfa_offset_sf */
        state->cfa_offset_bytes = take_sleb(c) * cie->data_align;
        return true;
    case 0x14: /* DW_CFA_val_offset */
    case 0x15: /* DW_CFA_val_offset_sf */
        set_place(state, cie, take_uleb(c), ELSEWHERE, 0);
        take_uleb(c); /* as long as the signed one */
        return true;
    case 0x2e: /* DW_CFA_GNU_args_size */
        take_uleb(c);
        return true;
    case 0x2f: /* DW_CFA_GNU_negative_offset_extended */
        reg = take_uleb(c);
        set_place(state, cie, reg, AT_CFA, -(int64_t)take_uleb(c) * cie->data_align);
        return true;
    default:
        return false;
    }
}

struct program {
    struct compile *compile; /* NULL: a CIE's, nothing is emitted */
    const struct cie *cie;
    const struct state *initial;
    uint64_t pc, end;
    struct state saved[STATES_MAX];
    uint32_t n_saved;
};

static void advance(struct program *p, const struct state *state, uint64_t units)
{
    if (p->compile != NULL)
        emit(p->compile, p->pc, pack(state, p->cie->signal_frame));
    p->pc += units * p->cie->code_align;
}

/* Runs the instructions; false where one is not understood: the rest of the function is unknown. */
static bool run(struct program *p, struct cursor c, struct state *state)
{
    while (c.at < c.end && !c.failed && p->pc < p->end) {
        uint8_t op = (uint8_t)take_uint(&c, 1), low = op & 0x3f;
        if (op >> 6 == 1) { /* DW_CFA_advance_loc */
            advance(p, state, low);
        } else if (op >> 6 == 2) { /* DW_CFA_offset */
            set_place(state, p->cie, low, AT_CFA, (int64_t)take_uleb(&c) * p->cie->data_align);
        } else if (op >> 6 == 3) { /* DW_CFA_restore */
            restore_place(state, p->cie, p->initial, low);
        } else if (op == 0x00) {               /* DW_CFA_nop */
        } else if (op >= 0x02 && op <= 0x04) { /* DW_CFA_advance_loc1, 2, 4 */
            advance(p, state, take_uint(&c, (size_t)1 << (op - 2)));
        } else if (op == 0x0a) { /* DW_CFA_remember_state */
            if (p->n_saved == STATES_MAX)
                return false;
            p->saved[p->n_saved++] = *state;
        } else if (op == 0x0b) { /* DW_CFA_restore_state */
            if (p->n_saved == 0)
                return false;
            *state = p->saved[--p->n_saved];
        } else if (!execute_rule(&c, op, state, p->cie, p->initial)) {
            return false;
        }
    }
    return !c.failed;
}

/* ---- entries ---- */

/* The augmentation string's letters; false: one that changes what follows in an unknown way. */
static bool take_augmentation(struct cursor *c, struct cie *cie, const char *letters)
{
    for (; *letters != '\0'; letters++) {
        if (*letters == 'R') {
            cie->pointer_encoding = (uint8_t)take_uint(c, 1);
        } else if (*letters == 'L') {
            take_uint(c, 1);
        } else if (*letters == 'P') {
            uint8_t encoding = (uint8_t)take_uint(c, 1);
            take_encoded(c, encoding & 0x7f, 0);
        } else if (*letters == 'S') {
            cie->signal_frame = true;
        } else {
            return false;
        }
    }
    return !c->failed;
}

/* Header of a CIE or FDE at `addr`: a cursor on its body, behind the CIE pointer. */
static bool open_entry(const struct tm_cfi_module *module, uint64_t addr, struct cursor *ret,
                       uint64_t *ret_id_addr, uint32_t *ret_id)
{
    if (!cursor_at(module, addr, ret))
        return false;
    uint64_t n_bytes = take_uint(ret, 4);
    if (n_bytes == 0xffffffff)
        n_bytes = take_uint(ret, 8);
    if (ret->failed || n_bytes < 4 || n_bytes > (uint64_t)(ret->end - ret->at))
        return false;
    ret->end = ret->at + n_bytes;
    *ret_id_addr = (uint64_t)ret->at;
    *ret_id = (uint32_t)take_uint(ret, 4);
    return !ret->failed;
}

static bool open_cie(const struct tm_cfi_module *module, uint64_t addr, struct cie *ret)
{
    struct cursor c;
    uint64_t id_addr;
    uint32_t id;
    if (!open_entry(module, addr, &c, &id_addr, &id) || id != 0)
        return false;
    *ret = (struct cie){0};
    uint64_t version = take_uint(&c, 1);
    const char *augmentation = (const char *)c.at;
    while (!c.failed && take_uint(&c, 1) != 0)
        ;
    if (c.failed || (version != 1 && version != 3))
        return false;
    ret->code_align = take_uleb(&c);
    ret->data_align = take_sleb(&c);
    ret->ra_reg = version == 1 ? take_uint(&c, 1) : take_uleb(&c);
    if (augmentation[0] == 'z') {
        ret->has_augmentation = true;
        uint64_t n_bytes = take_uleb(&c);
        struct cursor data = c;
        skip(&c, n_bytes);
        if (c.failed)
            return false;
        data.end = c.at;
        if (!take_augmentation(&data, ret, augmentation + 1))
            return false;
    } else if (augmentation[0] != '\0') {
        return false;
    }
    ret->program = c;
    return !c.failed && ret->ra_reg == REG_RA;
}

struct fde {
    struct cie cie;
    uint64_t pc, n_bytes;
    struct cursor program;
};

static bool open_fde(const struct tm_cfi_module *module, uint64_t addr, struct fde *ret)
{
    struct cursor c;
    uint64_t id_addr;
    uint32_t id;
    if (!open_entry(module, addr, &c, &id_addr, &id) || id == 0 ||
        !open_cie(module, id_addr - id, &ret->cie))
        return false;
    ret->pc = take_encoded(&c, ret->cie.pointer_encoding, 0);
    ret->n_bytes = take_encoded(&c, ret->cie.pointer_encoding & 0x0f, 0);
    if (ret->cie.has_augmentation)
        skip(&c, take_uleb(&c));
    ret->program = c;
    return !c.failed && ret->pc >= module->start && ret->pc < module->end &&
           ret->n_bytes <= module->end - ret->pc;
}

static void compile_fde(struct compile *compile, uint64_t addr)
{
    struct fde fde;
    if (!open_fde(compile->module, addr, &fde))
        return;
    close_gap(compile, fde.pc);
    struct state initial = {.cfa = CFA_OTHER}, state;
    struct program head = {.cie = &fde.cie, .initial = &initial, .pc = 0, .end = 1};
    bool ok = run(&head, fde.cie.program, &initial);
    state = initial;
    struct program body = {.compile = compile,
                           .cie = &fde.cie,
                           .initial = &initial,
                           .pc = fde.pc,
                           .end = fde.pc + fde.n_bytes};
    ok = ok && run(&body, fde.program, &state);
    if (body.pc < body.end)
        emit(compile, body.pc, ok ? pack(&state, fde.cie.signal_frame) : TM_CFI_UNKNOWN);
    compile->gap_pc = body.end;
}

/*
 * The header's search table: pairs of function start and FDE, sorted, of 32-bit
 * offsets from the header (DW_EH_PE_datarel | DW_EH_PE_sdata4). Every linker
 * writes this form; another one is not used.
 */
static bool open_table(const struct tm_cfi_module *module, struct cursor *ret, uint64_t *ret_count)
{
    if (!cursor_at(module, module->hdr_addr, ret) || module->end - module->start > UINT32_MAX)
        return false;
    uint64_t version = take_uint(ret, 1), frame_encoding = take_uint(ret, 1);
    uint64_t count_encoding = take_uint(ret, 1), table_encoding = take_uint(ret, 1);
    if (ret->failed || version != 1 || table_encoding != 0x3b || count_encoding == PE_OMIT)
        return false;
    take_encoded(ret, (uint8_t)frame_encoding, module->hdr_addr);
    *ret_count = take_encoded(ret, (uint8_t)count_encoding, module->hdr_addr);
    return !ret->failed && *ret_count <= (uint64_t)(ret->end - ret->at) / 8;
}

/* The next pair of the table. */
static void take_pair(struct cursor *c, uint64_t hdr_addr, uint64_t *ret_pc, uint64_t *ret_fde)
{
    *ret_pc = hdr_addr + (uint64_t)(int64_t)(int32_t)take_uint(c, 4);
    *ret_fde = hdr_addr + (uint64_t)(int64_t)(int32_t)take_uint(c, 4);
}

bool tm_cfi_compile(const struct tm_cfi_module *module, tm_cfi_sink *sink, void *data)
{
    struct compile compile = {.module = module, .sink = sink, .data = data};
    struct cursor c;
    uint64_t count, pc, fde_addr;
    if (!open_table(module, &c, &count))
        return false;
    for (uint64_t i = 0; i < count && !compile.stopped; i++) {
        take_pair(&c, module->hdr_addr, &pc, &fde_addr);
        compile_fde(&compile, fde_addr);
    }
    close_gap(&compile, UINT64_MAX);
    return compile.any && !compile.stopped;
}

uint64_t tm_cfi_function_bytes(const struct tm_cfi_module *module, uint64_t pc)
{
    struct cursor c;
    struct fde fde;
    uint64_t count, start, fde_addr;
    if (!open_table(module, &c, &count))
        return 0;
    for (uint64_t i = 0; i < count; i++) {
        take_pair(&c, module->hdr_addr, &start, &fde_addr);
        if (start == pc)
            return open_fde(module, fde_addr, &fde) ? fde.n_bytes : 0;
    }
    return 0;
}
