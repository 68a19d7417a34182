// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Stops the machine from inside: the one processor loops with its interrupts off, which no
 * kernel gets out of by itself. Up to Linux 5.4 root may do that after iopl(3).
 */
#include <stdio.h>
#include <sys/io.h>
#include <unistd.h>

int main(void)
{
	sync();
	if (iopl(3)) {
		perror("iopl");
		return 1;
	}
	__asm__ volatile("cli");
	for (;;)
		__asm__ volatile("");
}
