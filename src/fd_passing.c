/*-------------------------------------------------------------------------
 *
 * fd_passing.c
 *	  Send and receive one fixed-size message, maybe with one descriptor.
 *
 * Runs in: pool worker, slots.
 *
 * The messages are much smaller than any socket buffer, and a Unix stream
 * socket does not split what fits: each sendmsg() becomes one unit in the
 * receiver's queue, and recvmsg() never reads past one that carries a
 * descriptor.  So a short read means that the other side is not one of ours.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fd_passing.h"

/* room for one descriptor, aligned as the kernel wants it */
typedef union PwControlBuffer
{
	struct cmsghdr align;
	char		space[CMSG_SPACE(sizeof(int))];
} PwControlBuffer;

static int	take_descriptor(struct msghdr *header);

PwHomeResult
pw_home_send(int sock, const PwHomeMessage *message, int fd)
{
	PwControlBuffer control;
	struct iovec iov = {.iov_base = unconstify(PwHomeMessage *, message),
	.iov_len = sizeof(*message)};
	struct msghdr header = {.msg_iov = &iov,.msg_iovlen = 1};
	ssize_t		sent;

	if (fd >= 0)
	{
		struct cmsghdr *cmsg;

		memset(&control, 0, sizeof(control));
		header.msg_control = control.space;
		header.msg_controllen = sizeof(control.space);
		cmsg = CMSG_FIRSTHDR(&header);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(int));
	}

	do
		sent = sendmsg(sock, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);

	if (sent == sizeof(*message))
		return PW_HOME_OK;
	if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK ||
					 errno == ETOOMANYREFS))
		return PW_HOME_WOULD_BLOCK;
	return PW_HOME_CLOSED;
}

PwHomeResult
pw_home_receive(int sock, PwHomeMessage *message, int *fd)
{
	PwControlBuffer control;
	struct iovec iov = {.iov_base = message,.iov_len = sizeof(*message)};
	struct msghdr header = {.msg_iov = &iov,.msg_iovlen = 1,
	.msg_control = control.space,.msg_controllen = sizeof(control.space)};
	ssize_t		received;

	do
		received = recvmsg(sock, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (received < 0 && errno == EINTR);

	*fd = -1;
	if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return PW_HOME_WOULD_BLOCK;
	if (received <= 0)
		return PW_HOME_CLOSED;

	*fd = take_descriptor(&header);
	if (received == sizeof(*message))
		return PW_HOME_OK;
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	return PW_HOME_CLOSED;
}

static int
take_descriptor(struct msghdr *header)
{
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(header);
	int			fd = -1;

	if (cmsg != NULL && cmsg->cmsg_level == SOL_SOCKET &&
		cmsg->cmsg_type == SCM_RIGHTS && cmsg->cmsg_len == CMSG_LEN(sizeof(int)))
		memcpy(&fd, CMSG_DATA(cmsg), sizeof(int));
	return fd;
}
