// SPDX-License-Identifier: MIT
/*
 * What an errno means, in words, without strerror: that looks translations up,
 * under a lock of libc's which a child forked at that moment would inherit.
 */
#pragma once

/* Static text; "system error" where the number is not one that is met here. */
const char *tm_errtext(int number);
