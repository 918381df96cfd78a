//go:build ignore

/*
 * bramble-shim: what its files share. See shim.c for the purpose of the program and protocol.md for
 * what it says on its socket.
 */
#ifndef BRAMBLE_SHIM_H
#define BRAMBLE_SHIM_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PROTOCOL_VERSION 1
#define MAX_PAYLOAD (1 << 20) /* one request; the longest command line of an exec fits */
#define MAX_CONNS 128         /* a client beyond that is refused */
#define MAX_QUEUED (256 << 10) /* bytes waiting for one client; beyond that it is cut off */
#define READ_SIZE 16384       /* one read of a container's output */
#define LINE_MAX_CRI 16384    /* a longer line is written in parts, as the CRI wants it */
#define STALL_NS 15000000000LL /* an attached client that takes nothing for so long is cut off */

enum message {
	RUN = 1, SIGNAL = 2, WATCH = 3, ATTACH = 4, FORGET = 5, SHUTDOWN = 6, RESIZE = 7, STDIN = 8, STDIN_CLOSE = 9, FENCE = 10,
	OK = 64, FAILED = 65, STARTED = 66, EXITED = 67, TASK = 68, READY = 69, STDOUT = 70, STDERR = 71, PAUSE_EXITED = 72,
};

/* ---- log.c: output lines in the CRI's format, with rotation ---- */
struct log {
	int fd;
	char *path;
	int64_t size, max;
	int files;
};
struct stream { /* one of a container's outputs, and the line that it has not ended yet */
	int fd;
	const char *name;
	char *line;
	size_t used;
	int64_t asleep_until; /* a terminal that nobody holds open would wake us for ever */
};
int log_open(struct log *l, const char *path, int64_t max, int files);
void log_data(struct log *l, struct stream *s, const char *p, size_t n);
void log_end(struct log *l, struct stream *s); /* the last line, which has no newline */
void log_close(struct log *l);

/* ---- task.c: processes that were started by a starter (runc) and adopted ---- */
enum kind { CONTAINER, EXEC };
enum state { STARTING, RUNNING, ENDED };
struct conn;
struct task {
	struct task *next;
	char *id;
	enum kind kind;
	enum state state;
	pid_t starter, pid;
	int code, oom, failed;
	int64_t started, finished;
	char *pidfile, *exitfile, *oomfile, *consolefile;
	int tty, once;
	struct log log;
	struct stream out, err;
	int in;      /* write end of the container's stdin, or -1 */
	int console; /* listening socket on which the starter hands over the terminal, or -1 */
	struct conn *waiter; /* who asked for it, while it starts; an exec's until it ends */
};
extern struct task *tasks;
struct request; /* the fields of a message */
struct task *task_find(const char *id);
void task_run(struct conn *c, struct request *r, int fds[3]);
void task_forget(struct task *t);
int task_pollfds(struct pollfd *p, int max);
void task_events(struct pollfd *p, int n);
int task_signal(struct task *t, int sig);
void task_resize(struct task *t, int rows, int cols);
void task_close_stdin(struct task *t);
void tasks_reap(void);
void tasks_kill(void);
int tasks_active(void);
int children_left(void);

/* ---- conn.c: clients ---- */
enum mode { IDLE, WATCHING, ATTACHED, WAITING };
struct conn {
	struct conn *next;
	int fd, dead;
	enum mode mode;
	struct task *task;
	unsigned char head[8];
	size_t have; /* of the message that is being read, header included */
	char *payload;
	size_t length;
	int fds[3], nfds;
	size_t stdin_done; /* bytes of a STDIN message that the container has taken */
	int stdin_full;
	char *queue;
	size_t queued;
	int64_t progress;
};
extern struct conn *conns;
int conns_listen(const char *path);
int conns_pollfds(struct pollfd *p, int max);
void conns_events(struct pollfd *p, int n);
int conns_any(void);
void conns_sweep(void); /* frees what died */
void conn_stdin_ready(struct task *t);
int conn_blocked(struct task *t); /* an attached client has not taken the last output yet */
void conn_output(struct task *t, int type, const char *p, size_t n);
void conn_failed(struct conn *c, const char *what, int err);
void conn_started(struct task *t);
void conn_task_ended(struct task *t); /* tells watchers, attached clients and the one who waits */
void conn_start_failed(struct task *t, const char *what, int code);
void conn_task_gone(struct task *t);
void conn_pause_exited(void);
int64_t conns_deadline(void);

/* ---- fields.c: the payload of a message, "key=value" strings that end in NUL ---- */
struct request {
	char *p;
	size_t n;
};
const char *field(struct request *r, const char *key);
int64_t field_number(struct request *r, const char *key, int64_t otherwise);
char **field_list(struct request *r, const char *key); /* every value of a repeated key; NULL at the end; free() it */
struct text { /* a short message being put together; what does not fit is dropped */
	char p[1024];
	size_t n;
};
void put(struct text *t, const char *s);
void put_number(struct text *t, int64_t v);
void put_field(struct text *t, const char *key, const char *value);
void put_field_number(struct text *t, const char *key, int64_t value);

/* ---- sandbox.c: the pause process and the pod's namespaces ---- */
extern pid_t pause_pid;
int write_file(const char *path, const char *value);
const char *sandbox_start(int argc, char **argv); /* NULL, or what failed (errno says why) */

/* ---- shim.c ---- */
extern int shutting_down;
int fence_set(int64_t at); /* when everything is killed, on the clock that counts while the machine sleeps; 0: never */
int64_t now_ns(void);
int64_t mono_ns(void);
void child_signals(void); /* after fork: signals as a program expects them */
void *need(void *p);      /* ends the program when memory is gone */

#endif
