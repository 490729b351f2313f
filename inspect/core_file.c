// SPDX-License-Identifier: MIT
/*
 * A core file as a target. What the core left out (read-only parts of mapped
 * files) comes from the files that its NT_FILE note names, where these are the
 * same builds. A core may be cut, damaged or made up: every offset is checked
 * against the file, and no file of its choice is opened but regular ones.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "inspect/core_args.h"
#include "inspect/error.h"
#include "inspect/mapped_elf.h"
#include "inspect/target.h"

/* A part of the address space whose bytes are in the core. */
struct segment {
    uint64_t start_addr, end_addr; /* of what the file holds */
    uint64_t offset_bytes;
};

/* The whole extent of a PT_LOAD, with what the core does not hold. */
struct extent {
    uint64_t start_addr, end_addr;
    uint32_t flags; /* PF_* */
};

struct mapped_file {
    uint64_t start_addr, end_addr, offset_bytes;
    char *path;
};

typedef struct tm_core {
    char *path; /* NULL: bytes, without files */
    char *exe;  /* may be NULL */
    GBytes *bytes;
    const uint8_t *file;
    size_t file_bytes;
    Elf *elf;
    GArray *segments;    /* struct segment by address, not overlapping */
    GArray *extents;     /* struct extent */
    GArray *files;       /* struct mapped_file */
    uint64_t entry_addr; /* of the program; 0: not known */
    const uint8_t *auxv; /* in `elf`; NULL: not there */
    size_t auxv_bytes;
    tm_target *target; /* borrowed */
} tm_core;

static void core_free(void *data)
{
    tm_core *core = data;
    if (core == NULL)
        return;
    if (core->elf != NULL)
        elf_end(core->elf);
    for (guint i = 0; i < core->files->len; i++)
        g_free(g_array_index(core->files, struct mapped_file, i).path);
    g_array_unref(core->files);
    g_array_unref(core->segments);
    g_array_unref(core->extents);
    if (core->bytes != NULL)
        g_bytes_unref(core->bytes);
    g_free(core->path);
    g_free(core->exe);
    g_free(core);
}

/* ---- reading ---- */

static const struct segment *find_segment(const tm_core *core, uint64_t addr)
{
    guint low = 0, high = core->segments->len;
    const struct segment *segments = (const struct segment *)(const void *)core->segments->data;
    while (low < high) {
        guint middle = low + (high - low) / 2;
        if (segments[middle].end_addr <= addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low < core->segments->len && segments[low].start_addr <= addr ? &segments[low] : NULL;
}

static const void *core_peek(void *data, uint64_t addr, size_t n_bytes)
{
    tm_core *core = data;
    const struct segment *segment = find_segment(core, addr);
    if (segment == NULL || segment->end_addr - addr < n_bytes)
        return NULL;
    return core->file + segment->offset_bytes + (addr - segment->start_addr);
}

/* What the core left out, from the file that was mapped there. */
static size_t read_from_file(tm_core *core, uint64_t addr, void *buffer, size_t n_bytes)
{
    if (core->target->modules == NULL)
        return 0;
    struct tm_module *module = tm_modules_find(core->target->modules, addr);
    if (module == NULL || (module->elf == NULL && module->tried) ||
        !tm_module_open(core->target->modules, module, NULL))
        return 0;
    const struct tm_map *map = tm_maps_find(core->target->modules->maps, addr);
    /* Writable pages may have been changed: the file's bytes would be a guess. */
    if (map == NULL || map->path[0] == '\0' || map->perms[1] == 'w')
        return 0;
    if (n_bytes > map->end_addr - addr)
        n_bytes = map->end_addr - addr;
    ssize_t n = pread(module->elf->fd, buffer, n_bytes,
                      (off_t)(map->offset_bytes + (addr - map->start_addr)));
    return n < 0 ? 0 : (size_t)n;
}

static ssize_t core_read_some(void *data, uint64_t addr, void *buffer, size_t n_bytes)
{
    tm_core *core = data;
    size_t done = 0;
    while (done < n_bytes) {
        const struct segment *segment = find_segment(core, addr + done);
        size_t n = 0;
        if (segment != NULL) {
            n = MIN(n_bytes - done, segment->end_addr - (addr + done));
            memcpy((char *)buffer + done,
                   core->file + segment->offset_bytes + (addr + done - segment->start_addr), n);
        } else if (core->path != NULL) {
            n = read_from_file(core, addr + done, (char *)buffer + done, n_bytes - done);
        }
        if (n == 0)
            break;
        done += n;
    }
    return (ssize_t)done;
}

/* ---- the files that the core names ---- */

static bool is_program(const tm_core *core, const struct tm_module *module)
{
    return core->entry_addr >= module->start_addr && core->entry_addr < module->end_addr;
}

static tm_elf *open_file(void *data, const struct tm_module *module, GError **error)
{
    tm_core *core = data;
    const char *path = core->exe != NULL && is_program(core, module) ? core->exe : module->path;
    if (core->path == NULL || (module->deleted && path != core->exe)) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_NOT_FOUND, "%s has no file", path);
        return NULL;
    }
    /* A FIFO or a device of that name must not stop us, nor be woken by us. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat status;
    if (fd >= 0 && (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode))) {
        close(fd);
        fd = -1;
        errno = EINVAL;
    }
    if (fd < 0) {
        tm_inspect_set_errno(error, errno, "cannot open %s", path);
        return NULL;
    }
    tm_elf *elf = tm_elf_open_fd(fd, error);
    if (elf == NULL)
        return NULL;
    g_autofree char *expected = tm_mapped_elf_build_id(core->target, module->start_addr);
    g_autofree char *found = tm_elf_build_id(elf);
    if (expected != NULL && g_strcmp0(expected, found) != 0) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT,
                    "%s is not the file that the core was made with: its build-id is %s, the "
                    "core's is %s",
                    path, found != NULL ? found : "missing", expected);
        tm_elf_free(elf);
        return NULL;
    }
    return elf;
}

/* ---- parsing ---- */

static bool fail(const tm_core *core, GError **error, const char *what)
{
    g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT, "%s: %s", core->target->name,
                what);
    return false;
}

static bool add_load(tm_core *core, const GElf_Phdr *header, GError **error)
{
    /* The vsyscall page lies above user space; nothing of ours is there. */
    if (header->p_memsz == 0 || header->p_vaddr >> 47 != 0)
        return true;
    if (header->p_filesz > header->p_memsz || header->p_memsz >> 47 != 0)
        return fail(core, error, "a segment of the core is malformed");
    if (header->p_offset > core->file_bytes ||
        header->p_filesz > core->file_bytes - header->p_offset) {
        g_set_error(
            error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT,
            "%s: the core is truncated: it has %zu bytes, a segment reaches to %" G_GUINT64_FORMAT,
            core->target->name, core->file_bytes, header->p_offset + header->p_filesz);
        return false;
    }
    struct extent extent = {header->p_vaddr, header->p_vaddr + header->p_memsz, header->p_flags};
    struct segment segment = {header->p_vaddr, header->p_vaddr + header->p_filesz,
                              header->p_offset};
    g_array_append_val(core->extents, extent);
    if (header->p_filesz > 0)
        g_array_append_val(core->segments, segment);
    return true;
}

static uint64_t word(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    return value;
}

/* NT_FILE, as fs/binfmt_elf.c of Linux writes it: count, page size, (start, end, page offset) of
 * each, then the names, each ended by NUL. */
static void read_files(tm_core *core, const uint8_t *note, size_t n_bytes)
{
    if (n_bytes < 16)
        return;
    uint64_t count = word(note), page_bytes = word(note + 8);
    if (count > (n_bytes - 16) / 24)
        return;
    const uint8_t *name = note + 16 + count * 24, *end = note + n_bytes;
    for (uint64_t i = 0; i < count && name < end; i++) {
        const uint8_t *row = note + 16 + i * 24;
        size_t name_bytes = strnlen((const char *)name, (size_t)(end - name));
        if (name + name_bytes == end)
            return;
        struct mapped_file file = {word(row), word(row + 8), word(row + 16) * page_bytes,
                                   g_strdup((const char *)name)};
        g_array_append_val(core->files, file);
        name += name_bytes + 1;
    }
}

/* struct elf_prpsinfo of 64-bit Linux, include/uapi/linux/elfcore.h. */
enum { PRPSINFO_PID = 24, PRPSINFO_PPID = 28, PRPSINFO_ARGS = 56, PRPSINFO_BYTES = 136 };

static void read_prpsinfo(struct tm_target_facts *facts, const uint8_t *note, size_t n_bytes)
{
    int32_t pid, ppid;
    if (n_bytes < PRPSINFO_BYTES)
        return;
    memcpy(&pid, note + PRPSINFO_PID, sizeof(pid));
    memcpy(&ppid, note + PRPSINFO_PPID, sizeof(ppid));
    facts->pid = pid;
    facts->ppid = ppid;
    g_free(facts->cmdline);
    facts->cmdline = g_strndup((const char *)note + PRPSINFO_ARGS, 80);
    g_strchomp(facts->cmdline);
}

static void read_auxv(tm_core *core, const uint8_t *note, size_t n_bytes)
{
    core->auxv = note;
    core->auxv_bytes = n_bytes;
    for (size_t at = 0; at + 16 <= n_bytes; at += 16)
        if (word(note + at) == AT_ENTRY)
            core->entry_addr = word(note + at + 8);
}

static bool read_notes(tm_core *core, const GElf_Phdr *header, GError **error)
{
    if (header->p_offset > core->file_bytes ||
        header->p_filesz > core->file_bytes - header->p_offset)
        return fail(core, error, "the core is truncated within its notes");
    Elf_Data *data = elf_getdata_rawchunk(core->elf, (int64_t)header->p_offset, header->p_filesz,
                                          header->p_align == 8 ? ELF_T_NHDR8 : ELF_T_NHDR);
    size_t at = 0, name_at, desc_at;
    GElf_Nhdr note;
    while (data != NULL && (at = gelf_getnote(data, at, &note, &name_at, &desc_at)) > 0) {
        const uint8_t *desc = (const uint8_t *)data->d_buf + desc_at;
        if (note.n_namesz != 5 || memcmp((const char *)data->d_buf + name_at, "CORE", 5) != 0)
            continue;
        if (note.n_type == NT_FILE && core->files->len == 0)
            read_files(core, desc, note.n_descsz);
        else if (note.n_type == NT_PRPSINFO)
            read_prpsinfo(&core->target->facts, desc, note.n_descsz);
        else if (note.n_type == NT_AUXV)
            read_auxv(core, desc, note.n_descsz);
    }
    return true;
}

static bool check_header(const tm_core *core, GError **error)
{
    const unsigned char *ident = core->file;
    GElf_Ehdr header;
    if (core->file_bytes < sizeof(Elf64_Ehdr) || memcmp(ident, ELFMAG, SELFMAG) != 0)
        return fail(core, error, "not a core file");
    if (ident[EI_CLASS] != ELFCLASS64 || ident[EI_DATA] != ELFDATA2LSB)
        return fail(core, error, "a core of a 32-bit or big-endian process cannot be read");
    if (core->elf == NULL || gelf_getehdr(core->elf, &header) == NULL)
        return fail(core, error, "not an ELF file that can be read");
    if (header.e_type != ET_CORE)
        return fail(core, error, "an ELF file, but not a core");
    if (header.e_phnum == 0)
        return fail(core, error, "the core has no segments");
    return true;
}

static int compare_segments(const void *a, const void *b)
{
    const struct segment *x = a, *y = b;
    return x->start_addr < y->start_addr ? -1 : x->start_addr > y->start_addr;
}

static bool read_headers(tm_core *core, GError **error)
{
    size_t count = 0;
    if (!check_header(core, error))
        return false;
    if (elf_getphdrnum(core->elf, &count) != 0)
        return fail(core, error, "the core's table of segments is missing");
    for (size_t i = 0; i < count; i++) {
        GElf_Phdr header;
        if (gelf_getphdr(core->elf, (int)i, &header) == NULL)
            return fail(core, error, "the core's table of segments is cut off");
        if ((header.p_type == PT_LOAD && !add_load(core, &header, error)) ||
            (header.p_type == PT_NOTE && !read_notes(core, &header, error)))
            return false;
    }
    g_array_sort(core->segments, compare_segments);
    g_array_sort(core->extents, compare_segments); /* both begin with start_addr */
    for (guint i = 1; i < core->segments->len; i++)
        if (g_array_index(core->segments, struct segment, i).start_addr <
            g_array_index(core->segments, struct segment, i - 1).end_addr)
            return fail(core, error, "segments of the core overlap");
    return true;
}

/* ---- the table of mappings ---- */

#define DELETED_SUFFIX " (deleted)"

static void add_map(tm_maps *maps, GArray *items, const struct extent *extent,
                    const struct mapped_file *file)
{
    struct tm_map map = {
        .start_addr = extent->start_addr, .end_addr = extent->end_addr, .path = ""};
    map.perms[0] = extent->flags & PF_R ? 'r' : '-';
    map.perms[1] = extent->flags & PF_W ? 'w' : '-';
    map.perms[2] = extent->flags & PF_X ? 'x' : '-';
    map.perms[3] = 'p';
    if (file != NULL) {
        g_autofree char *path = g_strdup(file->path);
        map.deleted = g_str_has_suffix(path, DELETED_SUFFIX);
        if (map.deleted)
            path[strlen(path) - strlen(DELETED_SUFFIX)] = '\0';
        map.inode = 1; /* cores do not tell; the path has to do */
        map.offset_bytes = file->offset_bytes + (extent->start_addr - file->start_addr);
        map.path = g_string_chunk_insert_const(maps->paths, path);
    }
    g_array_append_val(items, map);
}

static int compare_files(const void *a, const void *b)
{
    const struct mapped_file *x = a, *y = b;
    return x->start_addr < y->start_addr ? -1 : x->start_addr > y->start_addr;
}

static tm_maps *make_maps(const tm_core *core)
{
    tm_maps *maps = g_new0(tm_maps, 1);
    GArray *items = g_array_new(FALSE, TRUE, sizeof(struct tm_map));
    guint at = 0;
    maps->paths = g_string_chunk_new(4096);
    g_array_sort(core->files, compare_files);
    for (guint i = 0; i < core->extents->len; i++) {
        const struct extent *extent = &g_array_index(core->extents, struct extent, i);
        const struct mapped_file *file = NULL;
        while (at < core->files->len &&
               g_array_index(core->files, struct mapped_file, at).end_addr <= extent->start_addr)
            at++;
        if (at < core->files->len) {
            file = &g_array_index(core->files, struct mapped_file, at);
            if (file->start_addr > extent->start_addr || file->end_addr < extent->end_addr)
                file = NULL;
        }
        add_map(maps, items, extent, file);
    }
    maps->count = items->len;
    maps->items = (struct tm_map *)(void *)g_array_free(items, FALSE);
    return maps;
}

static tm_target *open_core(GBytes *bytes, const char *path, const char *exe, const char *name,
                            GError **error)
{
    static const struct tm_target_ops ops = {core_read_some, core_peek, core_free};
    tm_core *core = g_new0(tm_core, 1);
    tm_target *self = g_new0(tm_target, 1);
    elf_version(EV_CURRENT);
    self->ops = &ops;
    self->data = core;
    self->name = g_strdup(name);
    core->target = self;
    core->path = g_strdup(path);
    core->exe = g_strdup(exe);
    core->bytes = g_bytes_ref(bytes);
    core->file = g_bytes_get_data(bytes, &core->file_bytes);
    core->segments = g_array_new(FALSE, FALSE, sizeof(struct segment));
    core->extents = g_array_new(FALSE, FALSE, sizeof(struct extent));
    core->files = g_array_new(FALSE, FALSE, sizeof(struct mapped_file));
    if (core->file_bytes > 0)
        core->elf = elf_memory((char *)(uintptr_t)core->file, core->file_bytes);
    if (!read_headers(core, error)) {
        tm_target_free(self);
        return NULL;
    }
    self->modules = tm_modules_from_maps(make_maps(core));
    self->modules->opener = open_file;
    self->modules->opener_arg = core;
    char *arguments =
        core->auxv != NULL ? tm_core_arguments(self, core->auxv, core->auxv_bytes) : NULL;
    if (arguments != NULL) {
        g_free(self->facts.cmdline);
        self->facts.cmdline = arguments;
    }
    return self;
}

tm_target *tm_target_core_bytes(GBytes *bytes, const char *name, GError **error)
{
    return open_core(bytes, NULL, NULL, name, error);
}

struct mapping {
    void *start;
    size_t n_bytes;
};

static void unmap(void *data)
{
    struct mapping *mapping = data;
    munmap(mapping->start, mapping->n_bytes);
    g_free(mapping);
}

tm_target *tm_target_core(const char *path, const char *exe, GError **error)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0 || fstat(fd, &status) != 0) {
        tm_inspect_set_errno(error, errno, "cannot open %s", path);
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    if (!S_ISREG(status.st_mode) || status.st_size == 0) {
        g_set_error(error, TM_INSPECT_ERROR, TM_INSPECT_ERROR_FORMAT, "%s: not a core file", path);
        close(fd);
        return NULL;
    }
    void *start = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    int saved_errno = errno;
    close(fd);
    if (start == MAP_FAILED) {
        tm_inspect_set_errno(error, saved_errno, "cannot map %s", path);
        return NULL;
    }
    struct mapping *mapping = g_new(struct mapping, 1);
    *mapping = (struct mapping){start, (size_t)status.st_size};
    g_autoptr(GBytes) bytes = g_bytes_new_with_free_func(start, mapping->n_bytes, unmap, mapping);
    tm_target *self = open_core(bytes, path, exe, path, error);
    /* A core does not say when it was made; its file does, if it was not touched since. */
    if (self != NULL)
        self->facts.timestamp_ns =
            (int64_t)status.st_mtim.tv_sec * 1000000000 + status.st_mtim.tv_nsec;
    return self;
}
