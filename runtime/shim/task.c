//go:build ignore

/*
 * Tasks: the pod's containers and the commands executed in them. A starter (runc run --detach, runc exec --detach)
 * is our child; the process that it starts becomes our child when the starter ends, because we are a subreaper. Its
 * pid is in the file that the starter was told to write. From then on we own its output and its exit code.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

struct task *tasks;

/* Children that ended before we knew what they are: a process may be over before its starter is. */
static struct { pid_t pid; int code; int64_t at; } early[32];
static unsigned early_next;
static char buffer[READ_SIZE];

struct task *task_find(const char *id)
{
	for (struct task *t = tasks; id && t; t = t->next)
		if (!strcmp(t->id, id))
			return t;
	return NULL;
}

static char *copy(const char *s)
{
	return s ? need(strdup(s)) : NULL;
}

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void task_free(struct task *t)
{
	for (struct task **p = &tasks; *p; p = &(*p)->next)
		if (*p == t) {
			*p = t->next;
			break;
		}
	conn_task_gone(t);
	shut(&t->out.fd), shut(&t->err.fd), shut(&t->in), shut(&t->console);
	log_close(&t->log);
	free(t->out.line), free(t->err.line);
	if (t->pidfile)
		unlink(t->pidfile);
	if (t->consolefile && t->kind == CONTAINER)
		unlink(t->consolefile);
	free(t->pidfile), free(t->exitfile), free(t->oomfile), free(t->consolefile), free(t->id);
	free(t);
}

void task_forget(struct task *t)
{
	task_free(t);
}

static int listen_console(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof a.sun_path)
		return errno = ENAMETOOLONG, -1;
	memcpy(a.sun_path, path, strlen(path) + 1);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(path);
	if (fd >= 0 && (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 1)))
		shut(&fd);
	return fd;
}

/* The starter's own side: its standard streams are the container's. */
static void become_starter(char **argv, int fds[3])
{
	int kept[3];
	for (int i = 0; i < 3; i++) /* away from 0..2, so that no dup2 below closes one of them */
		kept[i] = fcntl(fds[i], F_DUPFD, 3);
	for (int i = 0; i < 3; i++)
		dup2(kept[i], i), close(kept[i]);
	child_signals();
	execv(argv[0], argv);
	_exit(127);
}

static int set_up(struct task *t, struct request *r, int fds[3])
{
	int pipes[3][2] = { { -1, -1 }, { -1, -1 }, { -1, -1 } };
	for (int i = 0; i < 3; i++)
		if (fds[i] < 0) {
			int wanted = t->kind == CONTAINER && !t->tty && (i || field_number(r, "stdin", 0));
			if (!wanted) {
				fds[i] = open("/dev/null", O_RDWR | O_CLOEXEC);
			} else if (!pipe2(pipes[i], O_CLOEXEC)) {
				int ours = i ? 0 : 1;
				fds[i] = pipes[i][!ours];
				fcntl(pipes[i][ours], F_SETFL, O_NONBLOCK);
				*(i == 0 ? &t->in : i == 1 ? &t->out.fd : &t->err.fd) = pipes[i][ours];
			}
			if (fds[i] < 0)
				return -1;
		}
	const char *log = field(r, "log");
	if (log && log_open(&t->log, log, field_number(r, "logsize", 10 << 20), field_number(r, "logfiles", 5)))
		return -1;
	if (t->tty && t->kind == CONTAINER && (t->console = listen_console(t->consolefile)) < 0)
		return -1;
	return 0;
}

void task_run(struct conn *c, struct request *r, int fds[3])
{
	const char *id = field(r, "id"), *kind = field(r, "kind");
	if (!id || !kind || !field(r, "pidfile") || task_find(id) || shutting_down) {
		conn_failed(c, task_find(id) ? "id exists" : "bad request", 0);
		return;
	}
	struct task *t = need(calloc(1, sizeof *t));
	t->id = copy(id);
	t->kind = strcmp(kind, "exec") ? CONTAINER : EXEC;
	t->pidfile = copy(field(r, "pidfile"));
	t->exitfile = copy(field(r, "exitfile"));
	t->oomfile = copy(field(r, "oomfile"));
	t->consolefile = copy(field(r, "console"));
	t->tty = t->consolefile != NULL;
	t->once = field_number(r, "once", 0);
	t->in = t->console = t->out.fd = t->err.fd = t->log.fd = -1;
	t->out.name = "stdout", t->err.name = "stderr";
	t->next = tasks;
	tasks = t;
	char **argv = field_list(r, "arg");
	unlink(t->pidfile);
	if (!argv[0] || set_up(t, r, fds) || (t->starter = fork()) < 0) {
		conn_failed(c, "set up", errno);
		task_free(t);
	} else if (t->starter == 0) {
		become_starter(argv, fds);
	} else {
		t->waiter = c;
		c->task = t;
		c->mode = WAITING;
	}
	free(argv);
}

static pid_t read_pid(const char *path)
{
	char digits[24];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, digits, sizeof digits - 1);
	close(fd);
	if (n <= 0)
		return 0;
	digits[n] = 0;
	return atoi(digits);
}

/* How many processes of the container's cgroup the kernel killed for memory ("oom_kill N", cgroup v1 and v2). */
static int oom_kills(const char *path)
{
	char text[512], *at;
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return 0;
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	for (at = text; (at = strstr(at, "oom_kill ")); at++)
		if (at == text || at[-1] == '\n')
			return atoi(at + 9);
	return 0;
}

static void write_exit(struct task *t)
{
	if (!t->exitfile)
		return;
	struct text text = { .n = 0 }, tmp = { .n = 0 };
	put(&text, "v=1\ncode=");
	put_number(&text, t->code);
	put(&text, "\noom=");
	put_number(&text, t->oom);
	put(&text, "\nfailed=");
	put_number(&text, t->failed);
	put(&text, "\nstarted=");
	put_number(&text, t->started);
	put(&text, "\nfinished=");
	put_number(&text, t->finished);
	put(&text, "\nend\n");
	put(&tmp, t->exitfile);
	put(&tmp, ".tmp");
	if (tmp.n >= sizeof tmp.p)
		return;
	tmp.p[tmp.n] = 0;
	int fd = open(tmp.p, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	int whole = write(fd, text.p, text.n) == (ssize_t)text.n;
	fdatasync(fd); /* a plug pulled after this does not lose the exit code */
	close(fd);
	if (whole)
		rename(tmp.p, t->exitfile);
}

/* Reads one output; 0 when there is nothing more at present or ever. */
static int drain(struct task *t, struct stream *s, int type)
{
	if (s->fd < 0)
		return 0;
	ssize_t n = read(s->fd, buffer, sizeof buffer);
	if (n > 0) {
		log_data(&t->log, s, buffer, n);
		conn_output(t, type, buffer, n);
		return 1;
	}
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n < 0 && t->tty && t->state != ENDED) {
		s->asleep_until = mono_ns() + 500000000; /* EIO: nobody has the terminal open at the moment */
		return 0;
	}
	log_end(&t->log, s);
	shut(&s->fd);
	return 0;
}

static void ended(struct task *t, int code, int64_t at)
{
	t->state = ENDED;
	t->code = code;
	t->finished = at;
	/* What it wrote lies in the pipe: it goes to the log before anybody hears of the end. Bounded, because
	 * another process may hold the pipe and go on writing. */
	for (int i = 0; i < 256 && drain(t, &t->out, STDOUT); i++)
		;
	for (int i = 0; i < 256 && drain(t, &t->err, STDERR); i++)
		;
	log_end(&t->log, &t->out);
	log_end(&t->log, &t->err);
	shut(&t->in);
	if (t->tty)
		shut(&t->out.fd);
	t->oom = oom_kills(t->oomfile) > 0;
	conn_task_ended(t);
	write_exit(t);
	if (t->kind == EXEC)
		task_free(t);
}

static void take_terminal(struct task *t)
{
	int fd = accept4(t->console, NULL, NULL, SOCK_CLOEXEC);
	if (fd < 0)
		return;
	char byte[64], control[CMSG_SPACE(sizeof(int))];
	struct iovec v = { byte, sizeof byte };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct timeval limit = { .tv_sec = 5 };
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	if (recvmsg(fd, &m, MSG_CMSG_CLOEXEC) > 0) {
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		if (h && h->cmsg_type == SCM_RIGHTS) {
			shut(&t->out.fd);
			memcpy(&t->out.fd, CMSG_DATA(h), sizeof(int));
			fcntl(t->out.fd, F_SETFL, O_NONBLOCK);
			t->in = fcntl(t->out.fd, F_DUPFD_CLOEXEC, 3);
		}
	}
	close(fd);
	shut(&t->console);
	unlink(t->consolefile);
}

static void starter_ended(struct task *t, int code, int64_t at)
{
	t->starter = 0;
	t->pid = code ? 0 : read_pid(t->pidfile);
	if (t->console >= 0)
		take_terminal(t); /* it is in the socket's queue if it was sent at all */
	if (!t->pid) {
		conn_start_failed(t, "starter", code);
		if (t->kind == CONTAINER) { /* for an agent that was away; who asked has been told */
			t->state = ENDED;
			t->failed = 1;
			t->code = 128;
			t->finished = at;
			conn_task_ended(t);
			write_exit(t);
		}
		task_free(t);
		return;
	}
	t->state = RUNNING;
	t->started = at;
	unlink(t->pidfile);
	conn_started(t);
	for (unsigned i = 0; i < 32; i++)
		if (early[i].pid == t->pid) {
			early[i].pid = 0;
			ended(t, early[i].code, early[i].at);
			return;
		}
	if (shutting_down || (t->kind == EXEC && !t->waiter))
		kill(t->pid, SIGKILL);
}

static void reaped(pid_t pid, int code)
{
	int64_t at = now_ns();
	int starting = 0;
	if (pid == pause_pid) {
		pause_pid = 0;
		conn_pause_exited();
		return;
	}
	for (struct task *t = tasks; t; t = t->next) {
		if (t->starter == pid) {
			starter_ended(t, code, at);
			return;
		}
		if (t->state == RUNNING && t->pid == pid) {
			ended(t, code, at);
			return;
		}
		starting |= t->starter > 0;
	}
	if (starting) { /* somebody's starter has not ended yet: this may be its process */
		early[early_next].pid = pid;
		early[early_next].code = code;
		early[early_next].at = at;
		early_next = (early_next + 1) % 32;
	} else {
		memset(early, 0, sizeof early);
	}
}

void tasks_reap(void)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		reaped(pid, WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
}

int tasks_active(void)
{
	for (struct task *t = tasks; t; t = t->next)
		if (t->state != ENDED)
			return 1;
	return 0;
}

int children_left(void)
{
	siginfo_t info;
	return !(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD);
}

/* Orphans of a pod with the host's process namespace are given to us, and nobody has told us of them. */
static void kill_children(void)
{
	char text[4096], *at = text, *end;
	int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = read(fd, text, sizeof text - 1);
	close(fd);
	text[n > 0 ? n : 0] = 0;
	for (pid_t pid; (pid = strtol(at, &end, 10)) > 0 && *end == ' '; at = end)
		kill(pid, SIGKILL);
}

void tasks_kill(void)
{
	for (struct task *t = tasks; t; t = t->next) {
		if (t->starter > 0)
			kill(t->starter, SIGKILL);
		if (t->state == RUNNING)
			kill(t->pid, SIGKILL);
	}
	if (pause_pid > 0)
		kill(pause_pid, SIGKILL);
	kill_children();
}

int task_signal(struct task *t, int sig)
{
	/* Not reaped yet, so the pid is still this process's. */
	return t->state == RUNNING ? kill(t->pid, sig) : (errno = ESRCH, -1);
}

void task_resize(struct task *t, int rows, int cols)
{
	struct winsize w = { .ws_row = rows, .ws_col = cols };
	if (t->tty && t->out.fd >= 0)
		ioctl(t->out.fd, TIOCSWINSZ, &w);
}

void task_close_stdin(struct task *t)
{
	if (!t->tty)
		shut(&t->in);
}

/* Output is not read before its task runs (a starter's own complaints are not the container's log), nor while an
 * attached client has not taken the last of it. */
int task_pollfds(struct pollfd *p, int max)
{
	int n = 0;
	for (struct task *t = tasks; t; t = t->next) {
		if (n + 4 > max)
			break;
		if (t->console >= 0)
			p[n++] = (struct pollfd){ t->console, POLLIN, 0 };
		if (t->state == STARTING || conn_blocked(t))
			continue;
		if (t->out.fd >= 0 && t->out.asleep_until <= mono_ns())
			p[n++] = (struct pollfd){ t->out.fd, POLLIN, 0 };
		if (t->err.fd >= 0)
			p[n++] = (struct pollfd){ t->err.fd, POLLIN, 0 };
		for (struct conn *c = conns; c; c = c->next)
			if (c->task == t && c->stdin_full && t->in >= 0) {
				p[n++] = (struct pollfd){ t->in, POLLOUT, 0 };
				break;
			}
	}
	return n;
}

static int ready(struct pollfd *p, int n, int fd, int events)
{
	for (int i = 0; i < n && fd >= 0; i++)
		if (p[i].fd == fd && (p[i].events & events) && p[i].revents)
			return 1;
	return 0;
}

void task_events(struct pollfd *p, int n)
{
	for (struct task *t = tasks; t; t = t->next) {
		if (ready(p, n, t->console, POLLIN))
			take_terminal(t);
		if (t->state == STARTING)
			continue;
		if (ready(p, n, t->out.fd, POLLIN))
			drain(t, &t->out, STDOUT);
		if (ready(p, n, t->err.fd, POLLIN))
			drain(t, &t->err, STDERR);
		if (ready(p, n, t->in, POLLOUT))
			conn_stdin_ready(t);
	}
}
