//go:build ignore

/*
 * The pause process and what the pod's containers share with it: network, IPC, host name, and process ids when the
 * pod wants that. Its root is an empty folder in a mount namespace that has nothing else, so that a shared process
 * namespace shows nothing of the host.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shim.h"

pid_t pause_pid;

int write_file(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t n = write(fd, value, strlen(value));
	int failed = errno;
	close(fd);
	errno = failed;
	return n < 0 ? -1 : 0;
}

static const char *enter(int argc, char **argv, const char *root)
{
	for (int i = 1; i < argc; i++) {
		char *v = argv[i] + 2;
		int fd;
		switch (argv[i][1]) {
		case 'g': /* a cgroup.procs file */
			if (write_file(v, "0"))
				return v;
			break;
		case 'n': /* network namespace */
			if ((fd = open(v, O_RDONLY | O_CLOEXEC)) < 0 || setns(fd, CLONE_NEWNET))
				return v;
			close(fd);
			break;
		case 'h':
			if (sethostname(v, strlen(v)))
				return "host name";
			break;
		case 's': /* sysctl: path=value */
		case 'S': { /* the same, if the kernel has it */
			char *eq = strchr(v, '=');
			if (!eq)
				return v;
			*eq = 0;
			if (write_file(v, eq + 1) && argv[i][1] == 's')
				return v;
			*eq = '=';
			break;
		}
		}
	}
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || mount(root, root, NULL, MS_BIND, NULL) || chdir(root) ||
	    mount(NULL, root, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL))
		return root;
	if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/"))
		return "pivot_root";
	return NULL;
}

const char *sandbox_start(int argc, char **argv)
{
	const char *root = NULL, *program = NULL, *failed = NULL;
	unsigned long flags = CLONE_NEWNS;
	int status[2], binary, err = 0;
	for (int i = 1; i < argc; i++) {
		char *v = argv[i] + 2;
		if (argv[i][1] == 'e')
			root = v;
		else if (argv[i][1] == 'p')
			program = v;
		else if (argv[i][1] == 'u')
			flags |= (strchr(v, 'i') ? CLONE_NEWIPC : 0) | (strchr(v, 'u') ? CLONE_NEWUTS : 0) |
				 (strchr(v, 'p') ? CLONE_NEWPID : 0);
	}
	if (!root || !program)
		return errno = EINVAL, "arguments";
	if ((binary = open(program, O_RDONLY | O_CLOEXEC)) < 0)
		return program;
	if (pipe2(status, O_CLOEXEC))
		return "pipe";
	pid_t shim = getpid();
	pid_t pid = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
	if (pid < 0)
		return "clone";
	if (pid == 0) {
		struct { int err; char what[256]; } report = { 0 };
		char *args[] = { "bramble-pause", NULL }, *env[] = { NULL };
		failed = enter(argc, argv, root);
		if (!failed) {
			setgroups(0, NULL);
			if (setresgid(65535, 65535, 65535) || setresuid(65535, 65535, 65535) || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
				failed = "drop privileges";
			prctl(PR_SET_PDEATHSIG, SIGKILL); /* no shim, no pod: it would have no owner */
			if (!(flags & CLONE_NEWPID) && getppid() != shim)
				_exit(1);
			child_signals();
			close(0), close(1), close(2); /* a shared process namespace shows nobody a file of ours */
			syscall(SYS_execveat, binary, "", args, env, AT_EMPTY_PATH);
			failed = program;
		}
		report.err = errno;
		strncpy(report.what, failed, sizeof report.what - 1);
		write(status[1], &report, sizeof report);
		_exit(1);
	}
	close(status[1]);
	close(binary);
	static struct { int err; char what[256]; } report;
	ssize_t n = read(status[0], &report, sizeof report); /* nothing: exec closed it */
	close(status[0]);
	if (n > 0) {
		waitpid(pid, NULL, 0);
		err = report.err;
		failed = report.what;
	} else {
		pause_pid = pid;
	}
	errno = err;
	return failed;
}
