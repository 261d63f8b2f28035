#include "tools/agent_nbd.h"

#include <string.h>
#include <time.h>

#include "base/cleanup.h"

static void handle_close(struct nbd_handle **h)
{
	nbd_close(*h);
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int agent_nbd_errno(void)
{
	int e = nbd_get_errno();

	return e ? -e : -EIO;
}

const char *agent_errno_text(int code, char *buf, size_t size)
{
	const char *name = strerrorname_np(-code), *text = strerrordesc_np(-code);

	if (name && text)
		snprintf(buf, size, "%s (%s)", name, text);
	else
		snprintf(buf, size, "error %d", -code);
	return buf;
}

void agent_nbd_prepare(struct nbd_handle *h, struct pollfd *pfd)
{
	unsigned dir = nbd_aio_get_direction(h);

	pfd->fd = nbd_aio_get_fd(h);
	pfd->events = 0;
	pfd->revents = 0;
	if (dir & LIBNBD_AIO_DIRECTION_READ)
		pfd->events |= POLLIN;
	if (dir & LIBNBD_AIO_DIRECTION_WRITE)
		pfd->events |= POLLOUT;
}

/* One notification a round: the first may change what the handle waits for. What was not served
 * is still there at the next poll(). */
int agent_nbd_dispatch(struct nbd_handle *h, const struct pollfd *pfd)
{
	int r = 0;

	if (pfd->revents & (POLLIN | POLLHUP | POLLERR) && pfd->events & POLLIN)
		r = nbd_aio_notify_read(h);
	else if (pfd->revents & (POLLOUT | POLLHUP | POLLERR) && pfd->events & POLLOUT)
		r = nbd_aio_notify_write(h);
	return r < 0 ? agent_nbd_errno() : 0;
}

/* --- connecting ----------------------------------------------------------------------------- */

static int nbd_settings(struct nbd_handle *h, const struct agent_nbd_peer *peer)
{
	if (nbd_set_uri_allow_transports(h, LIBNBD_ALLOW_TRANSPORT_TCP |
						    LIBNBD_ALLOW_TRANSPORT_UNIX) < 0 ||
	    nbd_set_uri_allow_tls(h, LIBNBD_TLS_DISABLE) < 0)
		return agent_nbd_errno();
	for (int i = 0; i < AGENT_NBD_META; i++)
		if (peer->meta[i] && nbd_add_meta_context(h, peer->meta[i]) < 0)
			return agent_nbd_errno();
	return 0;
}

static int nbd_begin(struct nbd_handle *h, const struct agent_nbd_peer *peer)
{
	int r = peer->uri ? nbd_aio_connect_uri(h, peer->uri)
			  : nbd_aio_connect_systemd_socket_activation(h, (char **)peer->argv);

	return r < 0 ? agent_nbd_errno() : 0;
}

static int nbd_wait_ready(struct nbd_handle *h, const struct agent_nbd_peer *peer)
{
	int64_t deadline = now_ms() + peer->timeout_ms;
	struct pollfd pfd[2] = {{.fd = peer->stop->fd, .events = POLLIN}};

	while (nbd_aio_is_ready(h) <= 0) {
		int64_t left = deadline - now_ms();
		int rc;

		if (nbd_aio_is_dead(h) || nbd_aio_is_closed(h))
			return agent_nbd_errno();
		if (left <= 0)
			return -ETIMEDOUT;
		agent_nbd_prepare(h, &pfd[1]);
		if (poll(pfd, 2, (int)left) < 0 && errno != EINTR)
			return -errno;
		if (agent_stop_asked(peer->stop))
			return -ECANCELED;
		rc = agent_nbd_dispatch(h, &pfd[1]);
		if (rc)
			return rc;
	}
	return 0;
}

static const char *peer_name(const struct agent_nbd_peer *peer)
{
	return peer->uri ? peer->uri : peer->argv[0];
}

int agent_nbd_connect(struct nbd_handle **out, const struct agent_nbd_peer *peer, struct err *err)
{
	_cleanup_(handle_close) struct nbd_handle *h = nbd_create();
	int rc;

	if (!h)
		return err_set(err, agent_nbd_errno(), "libnbd: %s", nbd_get_error());
	rc = nbd_settings(h, peer);
	if (!rc)
		rc = nbd_begin(h, peer);
	if (!rc)
		rc = nbd_wait_ready(h, peer);
	if (rc == -ECANCELED)
		return err_set(err, rc, "the job was stopped");
	if (rc == -ETIMEDOUT)
		return err_set(err, rc, "%s does not answer within %u s", peer_name(peer),
			       peer->timeout_ms / 1000);
	if (rc)
		return err_set(err, rc, "%s: %s", peer_name(peer),
			       nbd_get_error() ? nbd_get_error() : "connection closed");
	*out = steal(&h);
	return 0;
}
