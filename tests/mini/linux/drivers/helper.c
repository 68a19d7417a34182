/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "module.h"

MODULE
USES({ 0x1234, "mini_print" })

int mini_help(int number)
{
	return mini_print(number);
}
EXPORT(mini_help, 0x5678)
