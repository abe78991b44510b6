/* SPDX-License-Identifier: MIT */
/* Linked last of a program's own objects: what is behind this is the C library's (tests/unit/inject.h). */
#include "tests/unit/inject_end.h"

void inject_end(void)
{
}
