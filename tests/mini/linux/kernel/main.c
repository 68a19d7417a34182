/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "module.h"

const char vermagic[] = VERMAGIC;

int mini_print(int number)
{
	return number * OLD_COMPILERS_KNEW_THIS;
}
EXPORT(mini_print, 0x1234)

#ifdef BROKEN
int broken(void) { return no_such_variable; }
#endif

void start_kernel(void)
{
	mini_print(vermagic[0]);
	for (;;)
		;
}
