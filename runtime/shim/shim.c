//go:build ignore

/*
 * bramble-shim: one for a pod, outside the pod's cgroups. It starts the pause process, runs runc as its child, and is
 * the parent of the pod's containers whoever else dies: it writes their logs and keeps their exit codes, while the
 * agent is dead, being replaced or upgraded. It is small because there is one for every pod: no Go, no threads, no
 * work while nothing happens.
 *
 * Built by runtime/shim/build.
 *
 *	bramble-shim -d<run folder> -e<empty folder> -p<pause> -u<namespaces: i, u, p> [-g<cgroup.procs>...]
 *		[-n<network namespace>] [-h<host name>] [-s<sysctl file>=<value>...] [-S<the same, if there is one>...]
 *
 * The program ends when the pod stands; a child of it goes on as the shim. It listens on <run folder>/s.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "shim.h"

#define MAX_POLL 512

static sigset_t mask_child;
static int fence = -1;
int shutting_down;

void *need(void *p)
{
	if (!p)
		_exit(12);
	return p;
}

int64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int64_t mono_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* What may run only once is ended here when the agent, or its server, is not heard of: nobody else may be left to do it.
 * A moment that has passed already counts too. */
int fence_set(int64_t at)
{
	struct itimerspec when = { .it_value = { at / 1000000000, at % 1000000000 } };
	if (at < 0 || shutting_down)
		return errno = EINVAL, -1;
	if (fence < 0 && (fence = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK)) < 0)
		return -1;
	return timerfd_settime(fence, TFD_TIMER_ABSTIME, &when, NULL);
}

static void on_child(int sig)
{
	(void)sig; /* it only has to wake ppoll */
}

static void signals(void)
{
	static const int ignored[] = { SIGPIPE, SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGUSR1, SIGUSR2 };
	struct sigaction a = { .sa_handler = SIG_IGN };
	for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++)
		sigaction(ignored[i], &a, NULL);
	a.sa_handler = on_child;
	sigaction(SIGCHLD, &a, NULL);
	sigemptyset(&mask_child);
	sigaddset(&mask_child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask_child, NULL);
}

void child_signals(void)
{
	struct sigaction a = { .sa_handler = SIG_DFL };
	sigset_t none;
	for (int sig = 1; sig < 32; sig++)
		sigaction(sig, &a, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static int timeout_ms(void)
{
	int64_t until = conns_deadline(), now = mono_ns();
	for (struct task *t = tasks; t; t = t->next)
		if (t->out.fd >= 0 && t->out.asleep_until > now && t->out.asleep_until < until)
			until = t->out.asleep_until;
	if (shutting_down && until > now + 1000000000)
		until = now + 1000000000;
	if (until == INT64_MAX)
		return -1;
	return until <= now ? 0 : (int)((until - now) / 1000000 + 1);
}

static void loop(void)
{
	struct pollfd p[MAX_POLL];
	sigset_t none;
	sigemptyset(&none);
	for (;;) {
		int clients = conns_pollfds(p, MAX_POLL / 2);
		int n = clients + task_pollfds(p + clients, MAX_POLL - 1 - clients), last = n;
		if (fence >= 0 && !shutting_down)
			p[n++] = (struct pollfd){ fence, POLLIN, 0 };
		int ms = timeout_ms();
		struct timespec limit = { ms / 1000, ms % 1000 * 1000000L };
		if (ppoll(p, n, ms < 0 ? NULL : &limit, &none) < 0)
			n = clients = last = 0; /* a signal; revents are not valid */
		if (n > last && p[last].revents)
			shutting_down = 1;
		task_events(p + clients, last - clients);
		conns_events(p, clients);
		tasks_reap();
		if (shutting_down) {
			tasks_kill();
			if (!children_left())
				return;
		}
		conns_sweep();
		if (!pause_pid && !tasks_active() && !conns_any())
			return; /* the pod is no more, and what is known of it is on the disk */
	}
}

static void say(const char *what, int err)
{
	struct text t = { .n = 0 };
	put(&t, what);
	put(&t, ": ");
	put(&t, strerror(err));
	put(&t, "\n");
	write(2, t.p, t.n);
}

int main(int argc, char **argv)
{
	int ready[2];
	const char *dir = NULL, *failed;
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] != '-' || !argv[i][1])
			return say(argv[i], EINVAL), 2;
		if (argv[i][1] == 'd')
			dir = argv[i] + 2;
	}
	close_range(3, ~0U, 0); /* whatever the caller forgot to close */
	if (!dir)
		return say("bramble-shim: -d is missing; it is started by the agent, see runtime/shim", EINVAL), 2;
	if (pipe2(ready, O_CLOEXEC))
		return say("pipe", errno), 1;
	pid_t child = fork();
	if (child < 0)
		return say("fork", errno), 1;
	if (child) { /* ends when the pod stands, with the child's verdict */
		unsigned char code = 1;
		close(ready[1]);
		while (read(ready[0], &code, 1) < 0 && errno == EINTR)
			;
		_exit(code);
	}
	setsid();
	umask(0022);
	signals();
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	write_file("/proc/self/oom_score_adj", "-998"); /* not everybody may; containers are given their own score */
	unsigned char code = 1;
	if (chdir(dir))
		say(dir, errno);
	else if ((failed = sandbox_start(argc, argv)))
		say(failed, errno);
	else if (conns_listen("s"))
		say("socket", errno);
	else
		code = 0;
	if (code) {
		tasks_kill();
		write(ready[1], &code, 1);
		_exit(1);
	}
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < 3; fd++)
		dup2(null, fd);
	close(null);
	write(ready[1], &code, 1);
	close(ready[0]), close(ready[1]);
	loop();
	unlink("s");
	return 0;
}
