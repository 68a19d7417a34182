// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Runs commands for the host, which speaks to it over a serial line. Lines only:
 *
 *   to the node      TOKEN SECONDS HEX      run the shell command HEX, at most SECONDS
 *   to the host      TOKEN o HEX            a piece of its output
 *                    TOKEN x STATUS         it ended (128+N: by signal N)
 *                    TOKEN t                out of time: killed, perhaps in vain
 *
 * TOKEN is up to 16 letters and digits that the host makes up. A line that is not
 * understood is dropped, so an empty line brings both ends into step. A command that
 * hangs in the kernel does not hang the agent.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define JOBS 32
#define LINE 4000
#define PIECE 512

struct job {
	char token[17];
	pid_t pid;
	int output;
	time_t deadline;
};

static struct job jobs[JOBS];
static int port;

static time_t uptime(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void put(const char *text, size_t length)
{
	while (length > 0) {
		ssize_t done = write(port, text, length);

		if (done < 0 && errno != EINTR)
			return;
		if (done > 0) {
			text += done;
			length -= done;
		}
	}
}

static void answer(const char *token, const char *rest)
{
	char line[64];

	put(line, snprintf(line, sizeof(line), "%s %s\n", token, rest));
}

static int open_port(const char *path)
{
	struct termios mode;
	int fd = open(path, O_RDWR | O_NOCTTY);

	if (fd < 0 || tcgetattr(fd, &mode) < 0)
		return -1;
	cfmakeraw(&mode);
	mode.c_cflag |= CLOCAL | CREAD;
	mode.c_cflag &= ~CRTSCTS;
	cfsetspeed(&mode, B115200);
	if (tcsetattr(fd, TCSANOW, &mode) < 0)
		return -1;
	tcflush(fd, TCIOFLUSH);
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

static int digit(char c)
{
	const char *digits = "0123456789abcdef";
	const char *found = c ? strchr(digits, c) : NULL;

	return found ? (int)(found - digits) : -1;
}

/* Decodes in place; returns 0 if it is not an even number of hex digits. */
static int unhex(char *text)
{
	char *to = text;

	for (; text[0]; text += 2) {
		int high = digit(text[0]), low = digit(text[1]);

		if (high < 0 || low < 0)
			return 0;
		*to++ = (char)(high << 4 | low);
	}
	*to = '\0';
	return 1;
}

static void run_child(const char *command, int output)
{
	int null = open("/dev/null", O_RDONLY);

	/* Its own session: under Kerrighed only such a process can migrate. */
	setsid();
	dup2(null, 0);
	dup2(output, 1);
	dup2(output, 2);
	if (null > 2)
		close(null);
	execl("/bin/sh", "sh", "-c", command, (char *)NULL);
	_exit(127);
}

static void begin(char *line)
{
	char *token = strtok(line, " "), *seconds = strtok(NULL, " "), *command = strtok(NULL, " ");
	int ends[2], limit;
	size_t i;
	struct job *job = NULL;

	if (!command || strlen(token) > 16 || (limit = atoi(seconds)) <= 0 || !unhex(command))
		return;
	for (i = 0; i < JOBS; i++)
		if (!jobs[i].pid)
			job = &jobs[i];
	if (!job || pipe(ends) < 0) {
		answer(token, "x 126");
		return;
	}
	fcntl(ends[0], F_SETFD, FD_CLOEXEC);
	fcntl(ends[1], F_SETFD, FD_CLOEXEC);
	fcntl(ends[0], F_SETFL, O_NONBLOCK);
	job->pid = fork();
	if (job->pid == 0)
		run_child(command, ends[1]);
	close(ends[1]);
	if (job->pid < 0) {
		job->pid = 0;
		close(ends[0]);
		answer(token, "x 126");
		return;
	}
	strcpy(job->token, token);
	job->output = ends[0];
	job->deadline = uptime() + limit;
}

/* Sends on what there is; returns 0 when there is no more for now. */
static int forward(struct job *job)
{
	unsigned char piece[PIECE];
	char line[32 + 2 * PIECE];
	ssize_t got = read(job->output, piece, sizeof(piece)), i;
	int length;

	if (got <= 0)
		return 0;
	length = snprintf(line, sizeof(line), "%s o ", job->token);
	for (i = 0; i < got; i++)
		length += snprintf(line + length, 3, "%02x", piece[i]);
	line[length++] = '\n';
	put(line, length);
	return 1;
}

static void end(struct job *job, const char *how)
{
	answer(job->token, how);
	close(job->output);
	job->pid = 0;
}

static void reap(void)
{
	char how[32];
	int status;
	size_t i;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		for (i = 0; i < JOBS; i++) {
			if (jobs[i].pid != pid)
				continue;
			while (forward(&jobs[i]))
				;
			snprintf(how, sizeof(how), "x %d", WIFEXITED(status) ?
				 WEXITSTATUS(status) : 128 + WTERMSIG(status));
			end(&jobs[i], how);
		}
	for (i = 0; i < JOBS; i++)
		if (jobs[i].pid && uptime() >= jobs[i].deadline) {
			kill(jobs[i].pid, SIGKILL);
			kill(-jobs[i].pid, SIGKILL);
			end(&jobs[i], "t");
		}
}

static void receive(void)
{
	static char line[LINE];
	static size_t length;
	static int overlong;
	char piece[256];
	ssize_t got = read(port, piece, sizeof(piece)), i;

	if (got < 0 && errno != EINTR && errno != EAGAIN)
		exit(1);	/* init starts a new agent */
	for (i = 0; i < got; i++) {
		if (piece[i] != '\n') {
			if (length < LINE - 1)
				line[length++] = piece[i];
			else
				overlong = 1;
			continue;
		}
		line[length] = '\0';
		if (!overlong)
			begin(line);
		length = 0;
		overlong = 0;
	}
}

int main(int argc, char **argv)
{
	struct pollfd ready[1 + JOBS];
	int i;

	port = argc == 2 ? open_port(argv[1]) : -1;
	if (port < 0)
		return 1;
	for (;;) {
		ready[0] = (struct pollfd){ .fd = port, .events = POLLIN };
		for (i = 0; i < JOBS; i++)
			ready[1 + i] = (struct pollfd){
				.fd = jobs[i].pid ? jobs[i].output : -1, .events = POLLIN };
		/* Short: that a child ended is found by asking, not by a signal. */
		poll(ready, 1 + JOBS, 50);
		if (ready[0].revents)
			receive();
		for (i = 0; i < JOBS; i++)
			if (jobs[i].pid && ready[1 + i].revents & POLLIN)
				forward(&jobs[i]);
		reap();
	}
}
