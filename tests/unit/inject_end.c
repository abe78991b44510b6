/* SPDX-License-Identifier: MIT */
/* Linked last of a program's own objects: behind it is the C library (tests/unit/inject.h). */
#include "tests/unit/inject_end.h"

void inject_end(void)
{
}
