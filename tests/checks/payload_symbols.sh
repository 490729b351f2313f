#!/bin/sh
# SPDX-License-Identifier: MIT
# The payload may need libc and nothing else, no symbol version after glibc 2.17, and may export
# its entry points (tm-attach's, the Python module's) and its state, and nothing else.
set -eu
so=$1
status=0
export LC_ALL=C

needed=$(readelf -dW "$so" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | grep -v '^libc\.' || true)
if [ -n "$needed" ]; then
    echo "FAIL: needs more than libc: $needed"
    status=1
fi

versions=$(readelf -VW "$so" | grep -o 'GLIBC_[0-9.]*' | sort -uV)
newest=$(printf '%s\nGLIBC_2.17\n' "$versions" | sort -V | tail -1)
if [ "$newest" != GLIBC_2.17 ]; then
    echo "FAIL: needs $newest:"
    readelf -W --dyn-syms "$so" | grep "$newest"
    status=1
fi

exports=$(readelf -W --dyn-syms "$so" |
    awk '$7 != "UND" && $5 != "LOCAL" && NR > 3 && $8 != "" {print $8}' | sort | tr '\n' ' ')
if [ "$exports" != "PyInit__pytracemalloc init_pytracemalloc tm_payload_start tm_state_export " ]; then
    echo "FAIL: exports: $exports"
    status=1
fi

if readelf -lW "$so" | grep -q 'GNU_STACK.*RWE'; then
    echo "FAIL: executable stack"
    status=1
fi
[ $status -ne 0 ] || echo "ok: needs $(echo $versions)"
exit $status
