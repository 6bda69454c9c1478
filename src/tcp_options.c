/*-------------------------------------------------------------------------
 *
 * tcp_options.c
 *	  What the tcp_... settings have made of a client's socket.
 *
 * Runs in: pool worker, slots.
 *
 * PostgreSQL remembers in the Port what it has set for a socket, does nothing
 * if that is what is wanted, and shows it.  So when the slot's socket becomes
 * another, what is remembered must become another as well: it goes with the
 * client.
 *
 * The settings themselves move with the session, and that calls the assign
 * hooks only for what was different in the slot before.  A reload reaches just
 * the client that happens to be attached.  So whoever is attached is looked at
 * once more; for one whose socket is as it should be that costs no system call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include "libpq/libpq.h"
#include "libpq/libpq-be.h"
#include "miscadmin.h"

#include "tcp_options.h"

static void apply(Port *port);
static void save(PwShmTcpOptions *options, const Port *port);
static void load(Port *port, const PwShmTcpOptions *options);

void
pw_tcp_options_init(int fd, PwShmClient *client)
{
	Port		port = {.sock = fd,.laddr = client->laddr};
	int			on = 1;

	memset(&client->tcp_options, 0, sizeof(PwShmTcpOptions));
	if (client->raddr.addr.ss_family == AF_UNIX)
		return;
	(void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	apply(&port);
	save(&client->tcp_options, &port);
}

/*
 * PostgreSQL does nothing here for a Unix socket, or for what is set already.
 */
static void
apply(Port *port)
{
	(void) pq_setkeepalivesidle(tcp_keepalives_idle, port);
	(void) pq_setkeepalivesinterval(tcp_keepalives_interval, port);
	(void) pq_setkeepalivescount(tcp_keepalives_count, port);
	(void) pq_settcpusertimeout(tcp_user_timeout, port);
}

static void
save(PwShmTcpOptions *options, const Port *port)
{
	options->default_keepalives_idle = port->default_keepalives_idle;
	options->default_keepalives_interval = port->default_keepalives_interval;
	options->default_keepalives_count = port->default_keepalives_count;
	options->default_tcp_user_timeout = port->default_tcp_user_timeout;
	options->keepalives_idle = port->keepalives_idle;
	options->keepalives_interval = port->keepalives_interval;
	options->keepalives_count = port->keepalives_count;
	options->tcp_user_timeout = port->tcp_user_timeout;
}

static void
load(Port *port, const PwShmTcpOptions *options)
{
	port->default_keepalives_idle = options->default_keepalives_idle;
	port->default_keepalives_interval = options->default_keepalives_interval;
	port->default_keepalives_count = options->default_keepalives_count;
	port->default_tcp_user_timeout = options->default_tcp_user_timeout;
	port->keepalives_idle = options->keepalives_idle;
	port->keepalives_interval = options->keepalives_interval;
	port->keepalives_count = options->keepalives_count;
	port->tcp_user_timeout = options->tcp_user_timeout;
}

void
pw_tcp_options_assume(const PwShmClient *client)
{
	load(MyProcPort, &client->tcp_options);
}

/* Nothing can be set for the socket to the worker, which is a Unix socket. */
void
pw_tcp_options_drop(PwShmClient *client)
{
	save(&client->tcp_options, MyProcPort);
}

void
pw_tcp_options_settle(void)
{
	apply(MyProcPort);
}
