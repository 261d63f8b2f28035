/*
 * The keys that open the SSH tunnel: an authorized_keys file that is made of the catalog's approved
 * enrollments and of nothing else (docs/tunnel.md). Each line lets its key forward to the hub's
 * agents' listener and NBD listeners, and be listened for at the port where the hub calls the
 * agent: no other port, no command, no terminal. It has no word for sockets of the file system:
 * sshd's configuration forbids those (packaging/ssh/sendense-tunnel.conf).
 *
 * The file is replaced whole. It is looked at again every HUB_TUNNEL_PERIOD_S, because another hub
 * on the same catalog may have approved or revoked, or somebody may have changed it.
 */
#ifndef HUB_TUNNEL_H
#define HUB_TUNNEL_H

#include "hub/hub.h"
#include "hub/ssh_key.h"

#define HUB_TUNNEL_PERIOD_S 30

/* With the settings of @config; nothing is written yet. HUB_E_INVALID. */
int hub_tunnel_init(struct hub *hub, const struct hub_config *config, struct err *err);
void hub_tunnel_free(struct hub *hub); /* accepts a hub without */

/* Where agents are listened for, "127.0.0.1:8082", or NULL: nowhere. From now on the file is kept.
 * That it cannot be written is logged, and no reason not to start. Once. */
void hub_tunnel_open(struct hub *hub, const char *agents_at);

/* The port at which the hub calls the agent has changed. */
void hub_tunnel_agent_url(struct hub *hub, const char *url);

/* Writes the file if it is not what it should be. 0 when there is none to keep. */
int hub_tunnel_sync(struct hub *hub, struct err *err);
/* The same once in HUB_TUNNEL_PERIOD_S; for the watch-dog. */
void hub_tunnel_tick(struct hub *hub);

/* What an appliance is told once it is approved. */
struct hub_tunnel_info {
	char user[64];
	char options[2048];			  /* for ssh's command line */
	char host_key_hash[SSH_FINGERPRINT_SIZE]; /* "": the host's key could not be read */
};
void hub_tunnel_describe(struct hub *hub, struct hub_tunnel_info *out);

#endif
