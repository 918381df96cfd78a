//go:build ignore

/* The payload of a message: "key=value" strings, each ended by NUL. What a peer does not know it skips. */
#include <stdlib.h>
#include <string.h>

#include "shim.h"

static char *next_field(struct request *r, char *at)
{
	if (!at)
		return r->n ? r->p : NULL;
	at += strlen(at) + 1;
	return at < r->p + r->n ? at : NULL;
}

const char *field(struct request *r, const char *key)
{
	size_t n = strlen(key);
	for (char *f = next_field(r, NULL); f; f = next_field(r, f))
		if (!strncmp(f, key, n) && f[n] == '=')
			return f + n + 1;
	return NULL;
}

int64_t field_number(struct request *r, const char *key, int64_t otherwise)
{
	const char *v = field(r, key);
	return v ? strtoll(v, NULL, 10) : otherwise;
}

char **field_list(struct request *r, const char *key)
{
	size_t n = strlen(key), found = 0;
	for (char *f = next_field(r, NULL); f; f = next_field(r, f))
		found += !strncmp(f, key, n) && f[n] == '=';
	char **list = need(calloc(found + 1, sizeof *list));
	found = 0;
	for (char *f = next_field(r, NULL); f; f = next_field(r, f))
		if (!strncmp(f, key, n) && f[n] == '=')
			list[found++] = f + n + 1;
	return list;
}

void put(struct text *t, const char *s)
{
	size_t n = strlen(s);
	if (n > sizeof t->p - t->n)
		n = sizeof t->p - t->n;
	memcpy(t->p + t->n, s, n);
	t->n += n;
}

void put_number(struct text *t, int64_t v)
{
	char digits[24], *d = digits + sizeof digits;
	uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
	*--d = 0;
	do
		*--d = '0' + u % 10;
	while (u /= 10);
	if (v < 0)
		*--d = '-';
	put(t, d);
}

void put_field(struct text *t, const char *key, const char *value)
{
	size_t before = t->n;
	put(t, key);
	put(t, "=");
	put(t, value);
	if (t->n >= sizeof t->p) {
		t->n = before; /* half a field would be a lie */
		return;
	}
	t->p[t->n++] = 0;
}

void put_field_number(struct text *t, const char *key, int64_t value)
{
	struct text v = { .n = 0 };
	put_number(&v, value);
	v.p[v.n] = 0;
	put_field(t, key, v.p);
}
