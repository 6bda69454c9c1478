/*-------------------------------------------------------------------------
 *
 * listen.h
 *	  The pool's own port: TCP and Unix sockets.
 *
 * Runs in: pool worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef PW_LISTEN_H
#define PW_LISTEN_H

/*
 * Called when a client waits on the listening socket "fd"; accepts as many as
 * it likes without blocking.  "failed" follows if it raised an error.
 */
typedef void (*PwAcceptFn) (int fd);

/* Begin.  Opens nothing yet. */
extern void pw_listen_init(PwAcceptFn accept_fn, void (*failed) (void));

/*
 * Make the listening sockets what the settings say, at start and after each
 * reload; if none of these has changed nothing is touched.  What cannot be
 * opened is logged; if nothing can be, that is tried again from time to time.
 */
extern void pw_listen_update(void);

/* Stop listening and remove our socket files. */
extern void pw_listen_close(void);

/* Only remove the files; for a signal handler. */
extern void pw_listen_quit(void);

#endif							/* PW_LISTEN_H */
