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
	unsigned long flags;

	sync();
	if (iopl(3)) {
		perror("iopl");
		return 1;
	}
	/* Later kernels skip the instruction without a word: interrupts are on as before. */
	__asm__ volatile("cli\n\tpushf\n\tpop %0" : "=r"(flags) : : "memory");
	if (flags & 0x200) {
		fprintf(stderr, "interrupts cannot be turned off\n");
		return 1;
	}
	for (;;)
		__asm__ volatile("");
}
