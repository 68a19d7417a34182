// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * PID 1 of a lab node. Mounts, runs /etc/lab/start once, keeps a shell on the
 * console, the agent on the second serial port and, where there is one, the SSH
 * server, and reaps every orphan. The root may be an initramfs or a disk.
 *
 * It asks waitpid again and again instead of waiting for SIGCHLD: on 2.6.20 an
 * init that sleeps until the signal comes leaves zombies.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define READY "/run/lab/ready"
#define HOST_KEY "/etc/dropbear/dropbear_ed25519_host_key"

struct service {
	const char *tty;
	char *const *argv;
	pid_t pid;
	time_t not_before;
};

static char *const shell[] = { "-sh", NULL };
static char *const agent[] = { "/sbin/lab-agent", "/dev/ttyS1", NULL };
static char *const start[] = { "/bin/sh", "/etc/lab/start", NULL };

static char *const sshd[] = { "/usr/sbin/dropbear", "-F", "-r", HOST_KEY, NULL };

static struct service services[] = {
	{ "/dev/ttyS0", shell, 0, 0 },
	{ "/dev/console", agent, 0, 0 },
	{ "/run/sshd.log", sshd, 0, 0 },
};
#define SERVICES (sizeof(services) / sizeof(services[0]))

static char *const environment[] = {
	"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
	"HOME=/root",
	"TERM=vt102",
	"PS1=\\h:\\w\\$ ",
	NULL,
};

static volatile sig_atomic_t stop;

static void on_stop(int number)
{
	stop = number;
}

/* A kernel whose first process ends panics, whatever its version: for "lab fault". */
static void on_panic(int number)
{
	_exit(128 + number);
}

static time_t uptime(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec;
}

static void pause_ms(long ms)
{
	struct timespec span = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&span, NULL);
}

/* A session of its own per child: under Kerrighed only such processes migrate. */
static pid_t spawn(const char *tty, char *const *argv)
{
	const char *path = argv == shell ? "/bin/sh" : argv[0];
	pid_t pid = fork();
	int fd;

	if (pid != 0)
		return pid;
	signal(SIGTERM, SIG_DFL);
	signal(SIGUSR2, SIG_DFL);
	signal(SIGQUIT, SIG_DFL);
	setsid();
	fd = open(tty, argv == sshd ? O_RDWR | O_CREAT | O_APPEND : O_RDWR, 0600);
	if (fd >= 0) {
		if (argv == shell)
			ioctl(fd, TIOCSCTTY, 1);
		dup2(fd, 0);
		dup2(fd, 1);
		dup2(fd, 2);
		if (fd > 2)
			close(fd);
	}
	execve(path, argv, environment);
	_exit(127);
}

/* Tells "lab up", through the agent, how the start script ended. */
static void write_ready(int status)
{
	char text[32];
	int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	int length = snprintf(text, sizeof(text), "%d\n", code);
	int fd = open(READY ".new", O_WRONLY | O_CREAT | O_TRUNC, 0644);

	if (fd < 0)
		return;
	if (write(fd, text, length) == length)
		rename(READY ".new", READY);
	close(fd);
}

static void mounts(void)
{
	mount("proc", "/proc", "proc", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	/* Kernels from before 2.6.32 have no devtmpfs and get the disk's own nodes. */
	mount("devtmpfs", "/dev", "devtmpfs", 0, "mode=755");
	mkdir("/dev/pts", 0755);
	mount("devpts", "/dev/pts", "devpts", 0, "mode=620");
	/* What a start has written there must not be seen after the next one. */
	mount("tmpfs", "/run", "tmpfs", 0, "mode=755");
	mkdir("/run/lab", 0755);
}

/* Ends what runs, and leaves the disk clean. */
static void end_all(void)
{
	int left = 20, sent = SIGTERM;

	kill(-1, SIGTERM);
	while (left-- > 0 && (waitpid(-1, NULL, WNOHANG) >= 0 || errno != ECHILD)) {
		if (left == 5 && sent != SIGKILL)
			kill(-1, sent = SIGKILL);
		pause_ms(100);
	}
	kill(-1, SIGKILL);
	sync();
	mount(NULL, "/", NULL, MS_REMOUNT | MS_RDONLY, NULL);
	sync();
}

int main(void)
{
	pid_t starting, pid;
	size_t i;
	int status;

	if (getpid() != 1)
		return 1;
	umask(022);
	chdir("/");
	signal(SIGTERM, on_stop);	/* reboot, as busybox's init has it */
	signal(SIGUSR2, on_stop);	/* power off */
	signal(SIGQUIT, on_panic);
	mounts();
	starting = spawn("/dev/console", start);
	/* The shell comes after the start script, or at once if that one hangs. */
	services[0].not_before = uptime() + 30;
	while (!stop) {
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
			if (pid == starting) {
				write_ready(status);
				services[0].not_before = 0;
			}
			for (i = 0; i < SERVICES; i++)
				if (pid == services[i].pid) {
					services[i].pid = 0;
					services[i].not_before = uptime() + 1;
				}
		}
		for (i = 0; i < SERVICES; i++)
			if (services[i].pid <= 0 && uptime() >= services[i].not_before &&
			    (services[i].argv == shell || !access(services[i].argv[0], X_OK)))
				services[i].pid = spawn(services[i].tty, services[i].argv);
		pause_ms(100);
	}
	end_all();
	reboot(stop == SIGUSR2 ? RB_POWER_OFF : RB_AUTOBOOT);
	for (;;)
		pause_ms(1000);
}
