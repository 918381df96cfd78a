/*
 * /bin/sh of the suite's busybox image. Upstream's is busybox 1.37, whose shell keeps variables with names that a shell cannot
 * use ("p-data.1"). Debian's is 1.35, which drops them: where there are such, bash takes its place.
 */
#include <ctype.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int usable(const char *variable)
{
	if (isdigit((unsigned char)*variable))
		return 0;
	while (isalnum((unsigned char)*variable) || *variable == '_')
		variable++;
	return *variable == '=';
}

int main(int argc, char **argv)
{
	(void)argc;
	for (char **v = environ; *v; v++)
		if (!usable(*v)) {
			execv("/bin/bash", argv);
			return 127;
		}
	execv("/bin/busybox", argv); /* the applet is chosen by argv[0] */
	return 127;
}
