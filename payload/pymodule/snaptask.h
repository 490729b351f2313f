// SPDX-License-Identifier: MIT
/*
 * A TakeSnapshotTask that does what the class does, and nothing of the program's:
 * no callback, no subclass, no function replaced. Its call is made here, without
 * a line of Python. Whatever is not so plain is left to the method `call`.
 *
 * GIL, which is let go while the file is written.
 */
#pragma once

#include "payload/pymodule/pyfuncs.h"

enum tm_snaptask_outcome {
    TM_SNAPTASK_NOT_PLAIN, /* nothing was done */
    TM_SNAPTASK_DONE,
    TM_SNAPTASK_FAILED, /* with an exception */
};

enum tm_snaptask_outcome tm_snaptask_call(PyObj *task);
