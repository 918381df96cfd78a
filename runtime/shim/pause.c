//go:build ignore

/*
 * bramble-pause: holds a pod's namespaces. In a pod with a shared process namespace it is process 1 and reaps whatever
 * is left to it. Nothing of it needs a C library but the system calls; the linker leaves out the rest.
 *
 * Built by runtime/shim/build.
 */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, 0);
	prctl(PR_SET_NAME, "bramble-pause");
	for (;;) {
		sigwaitinfo(&all, 0); /* ends with SIGKILL from outside, and by nothing that a container sends */
		while (waitpid(-1, 0, WNOHANG) > 0)
			;
	}
}
