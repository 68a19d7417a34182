/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "module.h"

MODULE
#ifdef BAD_CRC
USES({ 0x4321, "mini_print" }, { 0x5678, "mini_help" })
#else
USES({ 0x1234, "mini_print" }, { 0x5678, "mini_help" })
#endif

int use(void)
{
	return mini_help(1) + mini_print(2);
}
