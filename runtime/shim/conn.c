//go:build ignore

/*
 * Clients on the shim's socket. Every message starts with eight bytes: version, type, two of zero, and the payload's
 * length (little endian). Answers are queued for a client up to a bound; one that takes nothing is cut off.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "shim.h"

struct conn *conns;
static int listener = -1, count;

int conns_listen(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	memcpy(a.sun_path, path, strlen(path) + 1);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	unlink(path);
	return listener < 0 || bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 64) ? -1 : 0;
}

static void send_more(struct conn *c)
{
	while (c->queued && !c->dead) {
		ssize_t n = send(c->fd, c->queue, c->queued, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			c->dead = 1;
			return;
		}
		memmove(c->queue, c->queue + n, c->queued - n);
		c->queued -= n;
		c->progress = mono_ns();
	}
	free(c->queue);
	c->queue = NULL;
}

static void message(struct conn *c, int type, const char *p, size_t n)
{
	unsigned char head[8] = { PROTOCOL_VERSION, type, 0, 0, n & 255, n >> 8 & 255, n >> 16 & 255, n >> 24 };
	if (c->dead || c->queued + n + sizeof head > MAX_QUEUED) {
		c->dead = 1;
		return;
	}
	if (!c->queued)
		c->progress = mono_ns();
	c->queue = need(realloc(c->queue, c->queued + n + sizeof head));
	memcpy(c->queue + c->queued, head, sizeof head);
	memcpy(c->queue + c->queued + sizeof head, p, n);
	c->queued += n + sizeof head;
	send_more(c);
}

static void text_message(struct conn *c, int type, struct text *t)
{
	message(c, type, t->p, t->n);
}

void conn_failed(struct conn *c, const char *what, int err)
{
	struct text t = { .n = 0 };
	put_field(&t, "error", what);
	put_field_number(&t, "errno", err);
	text_message(c, FAILED, &t);
}

static void ok(struct conn *c)
{
	message(c, OK, "", 0);
}

static void describe(struct text *t, struct task *k)
{
	put_field(t, "id", k->id);
	if (k->state == STARTING)
		put_field_number(t, "starting", 1);
	if (k->failed)
		put_field_number(t, "failed", 1);
	put_field_number(t, "pid", k->pid);
	put_field_number(t, "started", k->started);
	if (k->state == ENDED) {
		put_field_number(t, "code", k->code);
		put_field_number(t, "oom", k->oom);
		put_field_number(t, "finished", k->finished);
	}
}

void conn_started(struct task *t)
{
	struct text x = { .n = 0 };
	describe(&x, t);
	for (struct conn *c = conns; c; c = c->next)
		if (c->mode == WATCHING && t->kind == CONTAINER)
			text_message(c, STARTED, &x);
	if (t->waiter) {
		text_message(t->waiter, STARTED, &x);
		if (t->kind == CONTAINER) {
			t->waiter->mode = IDLE;
			t->waiter->task = NULL;
			t->waiter = NULL;
		}
	}
}

void conn_start_failed(struct task *t, const char *what, int code)
{
	struct text x = { .n = 0 };
	put_field(&x, "error", what);
	put_field_number(&x, "code", code);
	if (t->waiter) {
		text_message(t->waiter, FAILED, &x);
		t->waiter->mode = IDLE;
		t->waiter = NULL;
	}
}

void conn_task_ended(struct task *t)
{
	struct text x = { .n = 0 };
	describe(&x, t);
	for (struct conn *c = conns; c; c = c->next) {
		if (c->dead)
			continue;
		if (c == t->waiter || (c->mode == ATTACHED && c->task == t) || (c->mode == WATCHING && t->kind == CONTAINER))
			text_message(c, EXITED, &x);
		if (c->task == t)
			c->mode = IDLE;
	}
}

void conn_task_gone(struct task *t)
{
	for (struct conn *c = conns; c; c = c->next)
		if (c->task == t)
			c->task = NULL, c->stdin_full = 0, c->mode = IDLE;
	t->waiter = NULL;
}

void conn_pause_exited(void)
{
	for (struct conn *c = conns; c; c = c->next)
		if (c->mode == WATCHING)
			message(c, PAUSE_EXITED, "", 0);
}

int conn_blocked(struct task *t)
{
	for (struct conn *c = conns; c; c = c->next)
		if (c->mode == ATTACHED && c->task == t && c->queued && !c->dead)
			return 1;
	return 0;
}

void conn_output(struct task *t, int type, const char *p, size_t n)
{
	for (struct conn *c = conns; c; c = c->next)
		if (c->mode == ATTACHED && c->task == t)
			message(c, type, p, n);
}

static void watch(struct conn *c)
{
	for (struct task *t = tasks; t; t = t->next) {
		struct text x = { .n = 0 };
		if (t->kind != CONTAINER)
			continue;
		describe(&x, t);
		text_message(c, TASK, &x);
	}
	struct text x = { .n = 0 };
	put_field_number(&x, "version", PROTOCOL_VERSION);
	put_field_number(&x, "pause", pause_pid);
	text_message(c, READY, &x);
	c->mode = WATCHING;
}

/* Gives the container what it takes at present; the rest waits, and so does the client. */
static int feed(struct conn *c)
{
	struct task *t = c->task;
	while (t && t->in >= 0 && c->stdin_done < c->length) {
		ssize_t n = write(t->in, c->payload + c->stdin_done, c->length - c->stdin_done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return c->stdin_full = 1, 0;
		if (n < 0)
			break; /* nobody reads it any more: it is dropped */
		c->stdin_done += n;
	}
	c->stdin_full = 0;
	return 1;
}

static void on_task(struct conn *c, int type, struct request *r)
{
	struct task *t = field(r, "id") ? task_find(field(r, "id")) : c->task;
	if (!t) {
		conn_failed(c, "no such task", ESRCH);
		return;
	}
	switch (type) {
	case SIGNAL:
		if (task_signal(t, field_number(r, "signal", 0)))
			conn_failed(c, "signal", errno);
		else
			ok(c);
		return;
	case ATTACH:
		if (t->state != RUNNING) {
			conn_failed(c, "not running", ESRCH);
			return;
		}
		c->mode = ATTACHED;
		c->task = t;
		break;
	case FORGET:
		if (t->state != ENDED) {
			conn_failed(c, "not ended", EBUSY);
			return;
		}
		task_forget(t);
		break;
	case RESIZE:
		task_resize(t, field_number(r, "rows", 0), field_number(r, "cols", 0));
		if (c->mode == ATTACHED)
			return; /* a stream has no answers in it */
		break;
	}
	ok(c);
}

/* One whole message. 0: it waits for the container to take its stdin. */
static int dispatch(struct conn *c)
{
	struct request r = { c->payload, c->length };
	int type = c->head[1];
	switch (type) {
	case RUN:
		if (c->mode != IDLE)
			c->dead = 1;
		else
			task_run(c, &r, c->fds);
		break;
	case WATCH:
		watch(c);
		break;
	case SHUTDOWN:
		shutting_down = 1;
		tasks_kill();
		break;
	case FENCE:
		if (fence_set(field_number(&r, "at", 0)))
			conn_failed(c, "fence", errno);
		else
			ok(c);
		break;
	case STDIN:
		return feed(c);
	case STDIN_CLOSE:
		if (c->task)
			task_close_stdin(c->task);
		break;
	case SIGNAL: case ATTACH: case FORGET: case RESIZE:
		on_task(c, type, &r);
		break;
	default:
		conn_failed(c, "unknown request", ENOSYS);
	}
	return 1;
}

static void next_message(struct conn *c)
{
	for (int i = 0; i < 3; i++)
		if (c->fds[i] >= 0)
			close(c->fds[i]);
	c->fds[0] = c->fds[1] = c->fds[2] = -1;
	c->nfds = 0;
	free(c->payload);
	c->payload = NULL;
	c->have = c->length = c->stdin_done = 0;
}

static ssize_t take(struct conn *c, void *p, size_t n)
{
	char control[CMSG_SPACE(3 * sizeof(int))];
	struct iovec v = { p, n };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	ssize_t got = recvmsg(c->fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *h = got > 0 ? CMSG_FIRSTHDR(&m) : NULL;
	if (h && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS) {
		int k = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int), sent[3];
		memcpy(sent, CMSG_DATA(h), k * sizeof(int));
		for (int i = 0; i < k; i++)
			if (c->nfds < 3)
				c->fds[c->nfds++] = sent[i];
			else
				close(sent[i]);
	}
	return got;
}

static void receive(struct conn *c)
{
	for (int rounds = 0; rounds < 16 && !c->dead && !c->stdin_full; rounds++) {
		ssize_t n;
		if (c->have < sizeof c->head)
			n = take(c, c->head + c->have, sizeof c->head - c->have);
		else
			n = take(c, c->payload + c->have - sizeof c->head, c->length + sizeof c->head - c->have);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			c->dead = 1;
			return;
		}
		c->have += n;
		if (c->have < sizeof c->head)
			continue;
		if (!c->payload) {
			c->length = c->head[4] | c->head[5] << 8 | c->head[6] << 16 | (size_t)c->head[7] << 24;
			if (c->head[0] == 0 || c->length > MAX_PAYLOAD) {
				c->dead = 1;
				return;
			}
			c->payload = need(malloc(c->length + 1));
			c->payload[c->length] = 0;
		}
		if (c->have == c->length + sizeof c->head && dispatch(c))
			next_message(c);
	}
}

void conn_stdin_ready(struct task *t)
{
	for (struct conn *c = conns; c; c = c->next)
		if (c->task == t && c->stdin_full && feed(c))
			next_message(c);
}

int conns_any(void)
{
	return conns != NULL;
}

int conns_pollfds(struct pollfd *p, int max)
{
	int n = 0;
	if (count < MAX_CONNS)
		p[n++] = (struct pollfd){ listener, POLLIN, 0 };
	for (struct conn *c = conns; c && n < max; c = c->next)
		p[n++] = (struct pollfd){ c->fd, (c->stdin_full ? 0 : POLLIN) | (c->queued ? POLLOUT : 0), 0 };
	return n;
}

void conns_events(struct pollfd *p, int n)
{
	for (int i = 0; i < n; i++) {
		if (!p[i].revents)
			continue;
		if (p[i].fd == listener) {
			int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
			if (fd < 0)
				continue;
			struct conn *c = need(calloc(1, sizeof *c));
			c->fd = fd;
			c->fds[0] = c->fds[1] = c->fds[2] = -1;
			c->next = conns;
			conns = c;
			count++;
			continue;
		}
		for (struct conn *c = conns; c; c = c->next)
			if (c->fd == p[i].fd && !c->dead) {
				if (p[i].revents & POLLOUT)
					send_more(c);
				if (p[i].revents & (POLLIN | POLLHUP | POLLERR)) {
					if (c->stdin_full && p[i].revents & (POLLHUP | POLLERR))
						c->dead = 1;
					else
						receive(c);
				}
				break;
			}
	}
}

int64_t conns_deadline(void)
{
	int64_t first = INT64_MAX;
	for (struct conn *c = conns; c; c = c->next)
		if (c->queued && c->progress + STALL_NS < first)
			first = c->progress + STALL_NS;
	return first;
}

void conns_sweep(void)
{
	int64_t now = mono_ns();
	for (struct conn **p = &conns; *p;) {
		struct conn *c = *p;
		if (c->queued && c->progress + STALL_NS <= now)
			c->dead = 1;
		if (!c->dead) {
			p = &c->next;
			continue;
		}
		*p = c->next;
		struct task *t = c->task;
		if (t && t->waiter == c) {
			t->waiter = NULL;
			if (t->kind == EXEC) /* nobody is left to take its output and its exit code */
				task_signal(t, SIGKILL);
		}
		if (t && c->mode == ATTACHED && t->once)
			task_close_stdin(t);
		next_message(c);
		free(c->queue);
		close(c->fd);
		free(c);
		count--;
	}
}
