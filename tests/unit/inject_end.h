/* SPDX-License-Identifier: MIT */
#ifndef TESTS_UNIT_INJECT_END_H
#define TESTS_UNIT_INJECT_END_H

/* Never called: its address bounds the program. */
void inject_end(void);

#endif
