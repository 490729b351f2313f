// SPDX-License-Identifier: MIT
#include "format/pattern.h"

#include <stdint.h>
#include <string.h>

/* Length without the last letter of .pyc and .pyo. */
static size_t source_bytes(const char *name, size_t n_bytes)
{
    if (n_bytes < 4 || memcmp(name + n_bytes - 4, ".py", 3) != 0)
        return n_bytes;
    char last = name[n_bytes - 1];
    return last == 'c' || last == 'o' ? n_bytes - 1 : n_bytes;
}

size_t tm_pattern_normalize(const char *pattern, size_t n_bytes, char *ret)
{
    size_t used = 0, jokers = 0;
    n_bytes = source_bytes(pattern, n_bytes);
    for (size_t i = 0; i < n_bytes; i++) {
        bool joker = pattern[i] == '*';
        if (joker && used > 0 && ret[used - 1] == '*')
            continue;
        jokers += joker;
        ret[used++] = pattern[i];
    }
    return jokers > TM_PATTERN_JOKERS_MAX ? SIZE_MAX : used;
}

/*
 * What stands before the first joker must begin the name, what stands behind the last one must end
 * it, and the pieces between are taken at the earliest place each: a joker takes up whatever is in
 * between, so that a later place can never help and nothing is tried twice.
 */
bool tm_pattern_matches(const char *pattern, size_t pattern_bytes, const char *name,
                        size_t name_bytes)
{
    name_bytes = source_bytes(name, name_bytes);
    const char *joker = memchr(pattern, '*', pattern_bytes);
    size_t head = joker ? (size_t)(joker - pattern) : pattern_bytes;
    if (name_bytes < head || memcmp(pattern, name, head) != 0)
        return false;
    if (joker == NULL)
        return name_bytes == head;
    name += head;
    name_bytes -= head;
    for (;;) {
        const char *piece = joker + 1;
        size_t left = pattern_bytes - (size_t)(piece - pattern);
        joker = memchr(piece, '*', left);
        if (joker == NULL)
            return name_bytes >= left && memcmp(name + name_bytes - left, piece, left) == 0;
        size_t n_bytes = (size_t)(joker - piece);
        const char *found = memmem(name, name_bytes, piece, n_bytes);
        if (found == NULL)
            return false;
        name_bytes -= (size_t)(found - name) + n_bytes;
        name = found + n_bytes;
    }
}
