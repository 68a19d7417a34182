// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The process that "lab test" migrates: counter FILE. Twenty times a second it
 * overwrites FILE with one line,
 *
 *   PID COUNT NODE MEMORY
 *
 * where NODE is the node it runs on just now, by that node's own /sys, and MEMORY is
 * "intact" as long as the megabyte it carries holds what was put there. FILE stays open
 * over a migration. Plain write only: what printf does is lost by a migrated process.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WORDS (1 << 18)

static unsigned int memory[WORDS];

static int node(void)
{
	char text[16] = "";
	int number = -1, fd = open("/sys/kerrighed/node_id", O_RDONLY);

	if (fd >= 0) {
		if (read(fd, text, sizeof(text) - 1) > 0)
			sscanf(text, "%d", &number);
		close(fd);
	}
	return number;
}

int main(int argc, char **argv)
{
	const struct timespec tick = { 0, 50 * 1000 * 1000 };
	unsigned long count = 0;
	int fd, length, intact = 1;
	unsigned int i;
	char line[80];

	if (argc != 2 || (fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC, 0644)) < 0)
		return 1;
	for (;;) {
		/* The whole megabyte is rewritten: pages left behind would show. */
		for (i = 0; i < WORDS; i++) {
			if (count && memory[i] != (i ^ (unsigned int)(count * 2654435761u)))
				intact = 0;
			memory[i] = i ^ (unsigned int)((count + 1) * 2654435761u);
		}
		count++;
		length = snprintf(line, sizeof(line), "%-10d %10lu %4d %s\n", (int)getpid(), count,
				  node(), intact ? "intact " : "damaged");
		if (lseek(fd, 0, SEEK_SET) != 0 || write(fd, line, length) != length)
			return 2;
		nanosleep(&tick, NULL);
	}
}
