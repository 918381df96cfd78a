//go:build ignore

/*
 * A container's output in the CRI's log format, one file per attempt:
 *
 *	2026-01-02T15:04:05.000000000Z stdout F text
 *
 * F ends a line, P is a part of a longer one. A file that has reached its size becomes <path>.1, that one <path>.2,
 * and so on; the oldest goes. When the disk is full the output is dropped: a container must not hang because of it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shim.h"

static char batch[2 * READ_SIZE];
static size_t batched;

int log_open(struct log *l, const char *path, int64_t max, int files)
{
	l->path = need(strdup(path));
	l->max = max;
	l->files = files;
	l->size = 0;
	l->fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
	struct stat st;
	if (l->fd >= 0 && !fstat(l->fd, &st))
		l->size = st.st_size;
	return l->fd < 0 ? -1 : 0;
}

void log_close(struct log *l)
{
	if (l->fd >= 0)
		close(l->fd);
	free(l->path);
	l->fd = -1;
	l->path = NULL;
}

static void rotated_name(struct text *t, struct log *l, int n)
{
	t->n = 0;
	put(t, l->path);
	if (n) {
		put(t, ".");
		put_number(t, n);
	}
	t->p[t->n < sizeof t->p ? t->n : sizeof t->p - 1] = 0;
}

static void rotate(struct log *l)
{
	struct text from, to;
	for (int n = l->files - 1; n > 0; n--) {
		rotated_name(&from, l, n - 1);
		rotated_name(&to, l, n);
		rename(from.p, to.p);
	}
	int fd = open(l->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (l->files < 2 ? O_TRUNC : 0), 0640);
	if (fd < 0)
		return; /* goes on in the old file */
	close(l->fd);
	l->fd = fd;
	l->size = 0;
}

static void flush(struct log *l)
{
	size_t done = 0;
	while (done < batched && l->fd >= 0) {
		ssize_t n = write(l->fd, batch + done, batched - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break; /* the disk is full: see above */
		done += n;
	}
	l->size += done;
	batched = 0;
	if (l->size >= l->max && l->fd >= 0)
		rotate(l);
}

static void add(const char *p, size_t n)
{
	memcpy(batch + batched, p, n);
	batched += n;
}

/* days since 1970 to a date, after Howard Hinnant's public description of the calendar's arithmetic */
static void civil(int64_t days, int *y, int *m, int *d)
{
	days += 719468;
	int64_t era = days / 146097, doe = days % 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100), mp = (5 * doy + 2) / 153;
	*d = (int)(doy - (153 * mp + 2) / 5 + 1);
	*m = (int)(mp < 10 ? mp + 3 : mp - 9);
	*y = (int)(yoe + era * 400 + (*m <= 2));
}

static char *digits(char *p, int64_t v, int width)
{
	for (int i = width - 1; i >= 0; i--, v /= 10)
		p[i] = '0' + v % 10;
	return p + width;
}

static void stamp(char out[30])
{
	int64_t t = now_ns(), s = t / 1000000000, day = s % 86400;
	int y, m, d;
	civil(s / 86400, &y, &m, &d);
	char *p = digits(out, y, 4);
	*p++ = '-', p = digits(p, m, 2);
	*p++ = '-', p = digits(p, d, 2);
	*p++ = 'T', p = digits(p, day / 3600, 2);
	*p++ = ':', p = digits(p, day / 60 % 60, 2);
	*p++ = ':', p = digits(p, day % 60, 2);
	*p++ = '.', p = digits(p, t % 1000000000, 9);
	*p = 'Z';
}

static void line(struct log *l, struct stream *s, const char *p, size_t n, int whole)
{
	if (batched + s->used + n + 64 > sizeof batch)
		flush(l);
	char at[30];
	stamp(at);
	add(at, sizeof at);
	add(" ", 1);
	add(s->name, 6);
	add(whole ? " F " : " P ", 3);
	add(s->line, s->used);
	add(p, n);
	add("\n", 1);
	s->used = 0;
}

void log_data(struct log *l, struct stream *s, const char *p, size_t n)
{
	while (n) {
		const char *nl = memchr(p, '\n', n);
		size_t len = nl ? (size_t)(nl - p) : n;
		if (s->used + len > LINE_MAX_CRI) {
			len = LINE_MAX_CRI - s->used;
			line(l, s, p, len, 0);
		} else if (nl) {
			line(l, s, p, len, 1);
			len++;
		} else {
			if (!s->line)
				s->line = need(malloc(LINE_MAX_CRI));
			memcpy(s->line + s->used, p, len);
			s->used += len;
		}
		p += len, n -= len;
	}
	if (!s->used) {
		free(s->line);
		s->line = NULL;
	}
	if (batched)
		flush(l);
}

void log_end(struct log *l, struct stream *s)
{
	if (s->used) {
		line(l, s, "", 0, 0); /* no end of line came: readers add none */
		flush(l);
	}
	free(s->line);
	s->line = NULL;
}
