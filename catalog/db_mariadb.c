/*
 * MariaDB behind catalog/db.h.
 *
 * Sessions. Strict SQL, so that nothing is cut or rounded silently; `||`, `"` and `\` mean what
 * they mean to SQLite. READ COMMITTED: with the write lock held nobody else commits, so a
 * transaction reads what was there when it got the lock, without gap locks and without a snapshot
 * that could be older than the lock.
 *
 * The write lock is row 1 of table catalog_writer. A transaction takes it by an UPDATE, which also
 * notes a random ticket among the last few of all programs. An UPDATE and not a SELECT ... FOR
 * UPDATE, because that holds on a Galera cluster too: of two nodes the second to commit is told of
 * a deadlock and runs again.
 *
 * A connection that breaks. Outside a transaction the next use connects anew, and a read that broke
 * is run again: rows are handed out only once all have arrived. Inside one, the server rolls back,
 * so the transaction is doomed with DB_E_BUSY and its owner runs it again. While committing, nobody
 * can know: a new connection waits for the write lock, which the old one holds until it is decided,
 * and looks whether the ticket is there.
 *
 * Several hosts are nodes of a Galera cluster. A connection is to one of them until that one fails
 * or is cut off from the others, then to the next.
 */
#include "catalog/db_mariadb.h"

#include <errmsg.h>
#include <errno.h>
#include <inttypes.h>
#include <mysqld_error.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define OLDEST_SERVER 100600 /* DDL statements are atomic from 10.6 on */
#define RETRY_MS      100    /* between attempts to connect */
#define IDLE_TX_S     60     /* a program stopped in mid-transaction loses it, and the lock */
#define TICKETS	      64     /* remembered in catalog_writer */
#define TICKET_LEN    17
#define LOOKS	      5 /* for a ticket, should other nodes of a cluster come in between */

struct maria_col {
	bool integer;
	my_bool null;
	unsigned long len;
	int64_t i64;
	char *text; /* cap bytes, the last for a NUL */
	size_t cap;
	char digits[24]; /* an integer asked for as text */
};

struct maria_stmt {
	struct db_stmt base;
	MYSQL_STMT *h;
	uint64_t connection; /* it is prepared on */
	bool executed;
	bool grown; /* buffers are larger than those bound */
	size_t n_args, n_cols;
	MYSQL_BIND *args;
	int64_t *values; /* of integer args */
	MYSQL_BIND *binds;
	struct maria_col *cols;
};

static struct maria_db *of_db(struct db *db)
{
	return container_of(db, struct maria_db, base);
}

static struct maria_stmt *of_stmt(struct db_stmt *st)
{
	return container_of(st, struct maria_stmt, base);
}

/* --- errors ----------------------------------------------------------------------------------- */

/* The connection is of no use any more. */
static bool is_lost(unsigned int e)
{
	switch (e) {
	case CR_SERVER_GONE_ERROR:
	case CR_SERVER_LOST:
	case CR_SERVER_LOST_EXTENDED:
	case CR_COMMANDS_OUT_OF_SYNC:
	case CR_MALFORMED_PACKET:
	case ER_CONNECTION_KILLED:
	case ER_SERVER_SHUTDOWN:
	case ER_NORMAL_SHUTDOWN:
	case ER_ABORTING_CONNECTION:
	case ER_NEW_ABORTING_CONNECTION:
	case ER_NET_READ_ERROR:
	case ER_NET_READ_INTERRUPTED:
	case ER_NET_ERROR_ON_WRITE:
	case ER_NET_WRITE_INTERRUPTED:
	case ER_NET_PACKETS_OUT_OF_ORDER:
	case ER_UNKNOWN_COM_ERROR: /* what a Galera node answers while it is not part of a cluster
				    */
		return true;
	default:
		return false;
	}
}

/* The server has rolled the transaction back, and asks to run it again. */
static bool is_rolled_back(unsigned int e)
{
	return e == ER_LOCK_DEADLOCK || e == ER_CHECKREAD || e == ER_XA_RBDEADLOCK;
}

static int map_constraint(unsigned int e)
{
	switch (e) {
	case ER_DUP_ENTRY:
	case ER_DUP_ENTRY_WITH_KEY_NAME:
	case ER_DUP_KEY:
	case ER_DUP_UNIQUE:
		return DB_E_UNIQUE;
	case ER_NO_REFERENCED_ROW:
	case ER_NO_REFERENCED_ROW_2:
	case ER_ROW_IS_REFERENCED:
	case ER_ROW_IS_REFERENCED_2:
		return DB_E_FOREIGN;
	case ER_CONSTRAINT_FAILED:
	case ER_BAD_NULL_ERROR:
	case ER_NO_DEFAULT_FOR_FIELD:
	case ER_DATA_TOO_LONG:
	case ER_WARN_DATA_OUT_OF_RANGE:
	case ER_TRUNCATED_WRONG_VALUE:
	case ER_TRUNCATED_WRONG_VALUE_FOR_FIELD:
	case WARN_DATA_TRUNCATED:
		return DB_E_CHECK;
	case ER_TABLE_EXISTS_ERROR:
	case ER_BAD_TABLE_ERROR:
	case ER_DUP_KEYNAME:
	case ER_DUP_FIELDNAME:
	case ER_CANT_DROP_FIELD_OR_KEY:
	case ER_TRG_ALREADY_EXISTS:
		return DB_E_ALREADY;
	case ER_BINLOG_CREATE_ROUTINE_NEED_SUPER:
		return DB_E_TRIGGER;
	default:
		return 0;
	}
}

static int map_code(unsigned int e)
{
	int constraint = map_constraint(e);

	if (constraint)
		return constraint;
	switch (e) {
	case ER_LOCK_WAIT_TIMEOUT:
	case ER_NEED_REPREPARE:
	case ER_TABLE_DEF_CHANGED:
		return DB_E_BUSY;
	case ER_DISK_FULL:
	case ER_RECORD_FILE_FULL:
		return -ENOSPC;
	case ER_OPTION_PREVENTS_STATEMENT:
	case ER_READ_ONLY_MODE:
	case ER_CANT_EXECUTE_IN_READ_ONLY_TRANSACTION:
	case ER_OPEN_AS_READONLY:
		return -EROFS;
	case ER_ACCESS_DENIED_ERROR:
	case ER_ACCESS_DENIED_NO_PASSWORD_ERROR:
	case ER_DBACCESS_DENIED_ERROR:
	case ER_TABLEACCESS_DENIED_ERROR:
	case ER_COLUMNACCESS_DENIED_ERROR:
	case ER_SPECIFIC_ACCESS_DENIED_ERROR:
		return -EACCES;
	case ER_BAD_DB_ERROR:
		return -ENOENT;
	case CR_SSL_CONNECTION_ERROR:
		return -EPROTO;
	case ER_OUTOFMEMORY:
	case ER_OUT_OF_RESOURCES:
	case CR_OUT_OF_MEMORY:
		return -ENOMEM;
	case ER_NOT_KEYFILE:
	case ER_CRASHED_ON_USAGE:
	case ER_CRASHED_ON_REPAIR:
		return -EUCLEAN;
	default:
		return -EIO;
	}
}

static void disconnect(struct maria_db *m)
{
	if (m->h)
		mysql_close(m->h);
	m->h = NULL;
}

/* A node that is cut off from its cluster, or does not catch up with it: reads and beginnings wait
 * for that and nothing else. */
static bool is_behind(const struct maria_db *m, unsigned int e)
{
	return m->cluster && !(m->base.in_tx && m->started) && e == ER_LOCK_WAIT_TIMEOUT;
}

static int fail_with(struct maria_db *m, unsigned int e, const char *why, struct err *err)
{
	const bool lost = is_lost(e) || is_behind(m, e), over = lost || is_rolled_back(e);
	struct err now = ERR_INIT;
	int code = lost ? -ENOTCONN : map_code(e);

	if (m->base.in_tx && over)
		code = DB_E_BUSY;
	err_set(&now, code, "catalog database %s: %s", m->url.shown, why);
	if (m->base.in_tx && over && !m->base.doom.code)
		m->base.doom = now;
	if (lost)
		disconnect(m);
	if (err)
		*err = now;
	return code;
}

int maria_fail(struct maria_db *m, struct err *err)
{
	char why[MYSQL_ERRMSG_SIZE];

	snprintf(why, sizeof(why), "%s", mysql_error(m->h));
	return fail_with(m, mysql_errno(m->h), why, err);
}

static int fail_stmt(struct maria_stmt *st, struct err *err)
{
	char why[MYSQL_ERRMSG_SIZE];

	snprintf(why, sizeof(why), "%s", mysql_stmt_error(st->h));
	return fail_with(of_db(st->base.db), mysql_stmt_errno(st->h), why, err);
}

/* --- one statement as text -------------------------------------------------------------------- */

int maria_exec(struct maria_db *m, const char *sql, struct err *err)
{
	if (mysql_real_query(m->h, sql, strlen(sql)))
		return maria_fail(m, err);
	if (mysql_field_count(m->h))
		mysql_free_result(mysql_store_result(m->h));
	m->changed = (int64_t)mysql_affected_rows(m->h);
	m->inserted = (int64_t)mysql_insert_id(m->h);
	return 0;
}

/* The first row of a query, to be mysql_free_result()ed; NULL with *@row when it failed. */
static MYSQL_RES *first_row(struct maria_db *m, const char *sql, MYSQL_ROW *row, struct err *err)
{
	MYSQL_RES *res = NULL;

	*row = NULL;
	if (!mysql_real_query(m->h, sql, strlen(sql)))
		res = mysql_store_result(m->h);
	if (!res) {
		maria_fail(m, err);
		return NULL;
	}
	*row = mysql_fetch_row(res);
	return res;
}

/* --- connecting ------------------------------------------------------------------------------- */

static void library_init(void)
{
	mysql_library_init(0, NULL, NULL);
}

static void set_tls(MYSQL *h, const struct maria_url *url)
{
	const my_bool on = 1, verify = url->tls == MARIA_TLS_VERIFY;

	/* Whoever cannot prove who he is may ask for a proof, not for the password itself. */
	if (!*url->socket && url->tls != MARIA_TLS_VERIFY)
		mysql_optionsv(h, MARIADB_OPT_RESTRICTED_AUTH,
			       "mysql_native_password,client_ed25519,parsec");
	if (url->tls == MARIA_TLS_OFF)
		return;
	mysql_optionsv(h, MYSQL_OPT_SSL_ENFORCE, &on);
	mysql_optionsv(h, MYSQL_OPT_SSL_VERIFY_SERVER_CERT, &verify);
	mysql_optionsv(h, MARIADB_OPT_TLS_VERSION, "TLSv1.2,TLSv1.3");
	if (*url->tls_ca)
		mysql_optionsv(h, MYSQL_OPT_SSL_CA, url->tls_ca);
	if (*url->tls_cert)
		mysql_optionsv(h, MYSQL_OPT_SSL_CERT, url->tls_cert);
	if (*url->tls_key)
		mysql_optionsv(h, MYSQL_OPT_SSL_KEY, url->tls_key);
}

static unsigned int busy_seconds(const struct maria_db *m)
{
	return MAX((m->busy_timeout_ms + 999) / 1000, 1U);
}

static MYSQL *new_handle(const struct maria_db *m)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	const unsigned int protocol = *m->url.socket ? MYSQL_PROTOCOL_SOCKET : MYSQL_PROTOCOL_TCP;
	/* The server's own limit on waiting for a lock must be the one that is met. */
	const unsigned int wait = m->url.timeout_s + busy_seconds(m), no = 0;
	const unsigned int connect = MAX(busy_seconds(m), 2U);
	MYSQL *h;

	pthread_once(&once, library_init);
	h = mysql_init(NULL);
	if (!h)
		return NULL;
	mysql_optionsv(h, MYSQL_OPT_PROTOCOL, &protocol);
	mysql_optionsv(h, MYSQL_OPT_CONNECT_TIMEOUT, &connect);
	mysql_optionsv(h, MYSQL_OPT_READ_TIMEOUT, &wait);
	mysql_optionsv(h, MYSQL_OPT_WRITE_TIMEOUT, &wait);
	mysql_optionsv(h, MYSQL_SET_CHARSET_NAME, "utf8mb4");
	/* A server must not be able to ask for files of ours. */
	mysql_optionsv(h, MYSQL_OPT_LOCAL_INFILE, &no);
	set_tls(h, &m->url);
	return h;
}

/* A peer that vanished without a word is noticed after a minute, not after hours. */
static void set_keepalive(MYSQL *h)
{
	const int on = 1, idle = 30, interval = 10, count = 3;
	const my_socket fd = mysql_get_socket(h);

	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

static int check_server(struct maria_db *m, struct err *err)
{
	/* The library goes on in clear text where the server has no TLS. */
	if (m->url.tls != MARIA_TLS_OFF && !mysql_get_ssl_cipher(m->h))
		return err_set(
			err, -EPROTO,
			"catalog database %s: the server has no TLS: set it up there, or say "
			"tls=off",
			m->url.shown);
	if (strstr(mysql_get_server_info(m->h), "MariaDB") &&
	    mysql_get_server_version(m->h) >= OLDEST_SERVER)
		return 0;
	return err_set(err, -EOPNOTSUPP,
		       "catalog database %s: the server is %s: MariaDB 10.6 or "
		       "newer is needed",
		       m->url.shown, mysql_get_server_info(m->h));
}

/* The second column of a SHOW is ON. */
static int shows_on(struct maria_db *m, const char *sql, bool *on, struct err *err)
{
	MYSQL_ROW row;
	MYSQL_RES *res = first_row(m, sql, &row, err);

	if (!res)
		return m->h ? -EIO : -ENOTCONN;
	*on = row && row[1] && !strcmp(row[1], "ON");
	mysql_free_result(res);
	return 0;
}

/*
 * A node of a Galera cluster takes nothing while it is cut off from the others, or catches up with
 * them. What was committed through another node it may apply a moment later: reading waits for
 * that, because the connection may have been to another node before.
 */
static int check_cluster(struct maria_db *m, struct err *err)
{
	bool ready = true;
	int r = shows_on(m, "SHOW GLOBAL VARIABLES LIKE 'wsrep_on'", &m->cluster, err);

	if (!r && m->cluster)
		r = shows_on(m, "SHOW STATUS LIKE 'wsrep_ready'", &ready, err);
	if (!r && !ready)
		r = err_set(err, -ENOTCONN,
			    "cannot connect to the catalog database %s: node %s:%u is not part of "
			    "its cluster at present",
			    m->url.shown, m->url.hosts[m->host].name, m->url.hosts[m->host].port);
	return r || !m->cluster ? r : maria_exec(m, "SET SESSION wsrep_sync_wait = 1", err);
}

static int set_session(struct maria_db *m, struct err *err)
{
	char sql[640];
	int r = maria_exec(m, "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED", err);

	snprintf(sql, sizeof(sql),
		 "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,"
		 "NO_ENGINE_SUBSTITUTION,ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES',"
		 " SESSION collation_connection = utf8mb4_nopad_bin, SESSION autocommit = 1,"
		 " SESSION foreign_key_checks = 1, SESSION unique_checks = 1,"
		 " SESSION check_constraint_checks = 1, SESSION idle_transaction_timeout = %d,"
		 " SESSION innodb_lock_wait_timeout = %u, SESSION lock_wait_timeout = %u",
		 IDLE_TX_S, busy_seconds(m), busy_seconds(m));
	return r ? r : maria_exec(m, sql, err);
}

static int connect_once(struct maria_db *m, unsigned int *e, struct err *err)
{
	const struct maria_host *host = &m->url.hosts[m->host];
	char password[MARIA_PASSWORD_SIZE];
	int r = maria_password(&m->url, password, err);

	*e = 0;
	if (r)
		return r;
	m->h = new_handle(m);
	if (!m->h)
		return err_sys(err, -ENOMEM, "cannot connect to the catalog database");
	if (!mysql_real_connect(m->h, host->name, m->url.user, password, m->url.name, host->port,
				*m->url.socket ? m->url.socket : NULL, CLIENT_FOUND_ROWS)) {
		*e = mysql_errno(m->h);
		r = map_code(*e);
		err_set(err, r, "cannot connect to the catalog database %s: %s", m->url.shown,
			mysql_error(m->h));
	}
	explicit_bzero(password, sizeof(password));
	if (!r)
		r = check_server(m, err);
	if (!r)
		r = check_cluster(m, err);
	if (!r)
		r = set_session(m, err);
	if (r)
		disconnect(m);
	else if (!*m->url.socket)
		set_keepalive(m->h);
	return r;
}

/* Another attempt may be luckier: the server is starting, or full. */
static bool is_passing(unsigned int e)
{
	return is_lost(e) || e == CR_CONNECTION_ERROR || e == CR_CONN_HOST_ERROR ||
	       e == ER_CON_COUNT_ERROR || e == ER_TOO_MANY_USER_CONNECTIONS ||
	       e == ER_USER_LIMIT_REACHED;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Connects, to the next host when one does not answer; waits for a server that is not there as long
 * as for a lock. */
static int connect_patiently(struct maria_db *m, struct err *err)
{
	const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000L};
	const uint64_t deadline = now_ms() + m->busy_timeout_ms;
	const bool in_tx = m->base.in_tx;
	struct err why = ERR_INIT, said = ERR_INIT;
	unsigned int e;
	int r;

	m->base.in_tx = false; /* what fails here ends no transaction */
	for (unsigned int tried = 1;
	     (r = connect_once(m, &e, &why)) && (is_passing(e) || r == -ENOTCONN); tried++) {
		/* A node that answers, and why it is of no use, is worth more than one that does
		 * not. */
		if (!e || !said.code)
			said = why;
		m->host = (m->host + 1) % m->url.host_count;
		if (tried % m->url.host_count)
			continue;
		r = said.code = -ENOTCONN;
		why = said;
		if (now_ms() >= deadline)
			break;
		nanosleep(&pause, NULL);
		said = ERR_INIT;
	}
	if (r && err)
		*err = why;
	m->base.in_tx = in_tx;
	if (!r)
		m->connection++;
	return r;
}

/* Before anything is sent. */
static int be_connected(struct maria_db *m, struct err *err)
{
	int r = m->h ? 0 : connect_patiently(m, err);

	if (!r && m->locked_on && m->locked_on != m->connection)
		r = err_set(err, -ENOTCONN,
			    "catalog database %s: the connection was lost while the schema "
			    "changed: start again, it goes on where it stopped",
			    m->url.shown);
	return r;
}

static void maria_close(struct db *db)
{
	struct maria_db *m = of_db(db);

	disconnect(m);
	free(m);
}

static bool maria_url_valid(const char *rest, struct err *err)
{
	return maria_url_parse(rest, NULL, err) == 0;
}

static int maria_open(const char *rest, unsigned int busy_timeout_ms, struct db **out,
		      struct err *err)
{
	struct maria_db *m = calloc(1, sizeof(*m));
	int r;

	if (!m)
		return err_sys(err, -ENOMEM, "cannot open the catalog database");
	m->busy_timeout_ms = busy_timeout_ms;
	r = maria_url_parse(rest, &m->url, err);
	if (!r)
		r = connect_patiently(m, err);
	if (r) {
		maria_close(&m->base);
		return r;
	}
	*out = &m->base;
	return 0;
}

/* --- the schema lock -------------------------------------------------------------------------- */

#define SCHEMA_LOCK "'sendense.' || MD5(DATABASE())"

static int maria_schema_lock(struct db *db, struct err *err)
{
	struct maria_db *m = of_db(db);
	MYSQL_RES *res;
	MYSQL_ROW row;
	char sql[128];
	bool got;
	int r = be_connected(m, err);

	if (r)
		return r;
	snprintf(sql, sizeof(sql), "SELECT GET_LOCK(" SCHEMA_LOCK ", %u)", busy_seconds(m));
	res = first_row(m, sql, &row, err);
	if (!res)
		return m->h ? -EIO : -ENOTCONN;
	got = row && row[0] && !strcmp(row[0], "1");
	mysql_free_result(res);
	if (!got)
		return err_set(err, DB_E_BUSY,
			       "catalog database %s: another program is changing its schema: try "
			       "again when it is done",
			       m->url.shown);
	m->locked_on = m->connection;
	return 0;
}

static void maria_schema_unlock(struct db *db)
{
	struct maria_db *m = of_db(db);

	if (m->h && m->locked_on == m->connection)
		maria_exec(m, "DO RELEASE_LOCK(" SCHEMA_LOCK ")", NULL);
	m->locked_on = 0;
}

/* --- transactions ----------------------------------------------------------------------------- */

static int make_writer_table(struct maria_db *m, struct err *err)
{
	int r = maria_exec(m,
			   "CREATE TABLE IF NOT EXISTS catalog_writer ("
			   " id INT NOT NULL PRIMARY KEY, turn BIGINT NOT NULL,"
			   " recent VARCHAR(1100) NOT NULL)"
			   " ENGINE=InnoDB DEFAULT CHARSET=ascii COLLATE=ascii_nopad_bin",
			   err);

	return r ? r : maria_exec(m, "INSERT IGNORE INTO catalog_writer VALUES (1, 0, '')", err);
}

static void new_ticket(struct maria_db *m)
{
	uint64_t v = 0;

	/* So few bytes come whole once the kernel's generator is up, which getrandom() awaits. */
	if (getrandom(&v, sizeof(v), 0) < 0)
		v ^= now_ms();
	snprintf(m->ticket, sizeof(m->ticket), "%016" PRIx64 " ", v);
}

/* Starts a transaction and takes the write lock; DB_DONE if table or row are not there yet. */
static int take_turn(struct maria_db *m, bool *missing, struct err *err)
{
	char sql[256];
	int r;

	*missing = m->started = false;
	r = maria_exec(m, "START TRANSACTION", err);
	if (r)
		return r;
	m->started = true;
	new_ticket(m);
	snprintf(sql, sizeof(sql),
		 "UPDATE catalog_writer SET turn = LAST_INSERT_ID(turn + 1),"
		 " recent = LEFT('%s' || recent, %d) WHERE id = 1",
		 m->ticket, TICKETS * TICKET_LEN);
	r = maria_exec(m, sql, err);
	*missing = r ? m->h && mysql_errno(m->h) == ER_NO_SUCH_TABLE : m->changed == 0;
	m->turn = m->inserted;
	return r;
}

static int maria_begin(struct db *db, struct err *err)
{
	struct maria_db *m = of_db(db);
	bool missing;
	int r = be_connected(m, err);

	if (r)
		return r;
	r = take_turn(m, &missing, err);
	if (r && !m->h) {
		/* It had been idle, and the server was gone meanwhile. */
		db->doom = ERR_INIT;
		r = be_connected(m, err);
		if (!r)
			r = take_turn(m, &missing, err);
	}
	if (missing) {
		r = make_writer_table(m, err);
		if (!r)
			r = take_turn(m, &missing, err);
	}
	if (r && m->h)
		mysql_rollback(m->h);
	return r;
}

/* Takes a turn of its own and looks, in there, for the ticket of the transaction in doubt. */
static int look_for_ticket(struct maria_db *m, bool *known, bool *happened)
{
	MYSQL_RES *res;
	MYSQL_ROW row;
	int64_t turns_since;
	int r = maria_exec(m, "START TRANSACTION", NULL);

	if (!r)
		r = maria_exec(m, "UPDATE catalog_writer SET turn = turn + 1 WHERE id = 1", NULL);
	if (r)
		return r;
	res = first_row(m, "SELECT turn, recent FROM catalog_writer WHERE id = 1", &row, NULL);
	if (!res)
		return -EIO;
	turns_since = row && row[0] ? strtoll(row[0], NULL, 10) - m->turn : TICKETS;
	*happened = row && row[1] && strstr(row[1], m->ticket);
	*known = *happened || turns_since < TICKETS;
	mysql_free_result(res);
	return 0;
}

/*
 * Committed, because an answer counts only then: on one server the write lock was waited for, which
 * the transaction in doubt held until it was decided; among the nodes of a cluster the two
 * conflict, so that either its outcome was seen here, or it has none any more.
 */
static int look_and_commit(struct maria_db *m, bool *known, bool *happened)
{
	int r = look_for_ticket(m, known, happened);

	if (!r && mysql_commit(m->h))
		r = maria_fail(m, NULL);
	if (r && m->h && mysql_rollback(m->h))
		disconnect(m);
	return r;
}

/* COMMIT was sent and not answered as it should. */
static int find_out(struct maria_db *m, const char *why, struct err *err)
{
	bool known = false, happened = false;
	int r = -EIO;

	m->base.in_tx = false; /* those below are others */
	for (int i = 0; r && i < LOOKS; i++) {
		disconnect(m);
		if (connect_patiently(m, NULL))
			break;
		r = look_and_commit(m, &known, &happened);
	}
	m->base.in_tx = true;
	if (r || !known)
		return err_set(err, -ECONNABORTED,
			       "catalog database %s: %s while committing: it is not known whether "
			       "the change was stored: look before it is repeated",
			       m->url.shown, why);
	return happened ? 0 : err_set(err, DB_E_BUSY, "catalog database %s: %s", m->url.shown, why);
}

static int maria_commit(struct db *db, struct err *err)
{
	struct maria_db *m = of_db(db);
	char why[MYSQL_ERRMSG_SIZE];

	if (!mysql_commit(m->h))
		return 0;
	if (is_rolled_back(mysql_errno(m->h)))
		return maria_fail(m, err);
	snprintf(why, sizeof(why), "%s", mysql_error(m->h));
	return find_out(m, why, err);
}

static void maria_rollback(struct db *db)
{
	struct maria_db *m = of_db(db);

	/* Without a connection the server has done it, or will. */
	if (m->h && mysql_rollback(m->h))
		disconnect(m);
}

static int maria_exec_op(struct db *db, const char *sql, struct err *err)
{
	struct maria_db *m = of_db(db);
	int r = be_connected(m, err);

	return r ? r : maria_exec(m, sql, err);
}

/* --- statements ------------------------------------------------------------------------------- */

static void drop_columns(struct maria_stmt *st)
{
	for (size_t i = 0; i < st->n_cols; i++)
		free(st->cols[i].text);
	free(st->cols);
	free(st->binds);
	st->cols = NULL;
	st->binds = NULL;
	st->n_cols = 0;
}

static void drop_handle(struct maria_stmt *st)
{
	drop_columns(st);
	/* One whose connection was closed knows, and sends nothing. */
	if (st->h)
		mysql_stmt_close(st->h);
	st->h = NULL;
}

static void maria_finalize(struct db_stmt *base)
{
	struct maria_stmt *st = of_stmt(base);

	drop_handle(st);
	free(st->args);
	free(st->values);
	free(st);
}

static bool is_integer(enum enum_field_types type)
{
	return type == MYSQL_TYPE_TINY || type == MYSQL_TYPE_SHORT || type == MYSQL_TYPE_INT24 ||
	       type == MYSQL_TYPE_LONG || type == MYSQL_TYPE_LONGLONG;
}

static bool grow_text(struct maria_stmt *st, size_t col, size_t need)
{
	struct maria_col *c = &st->cols[col];
	char *text = realloc(c->text, need + 1);

	if (!text)
		return false;
	c->text = text;
	c->cap = need + 1;
	st->binds[col].buffer = text;
	st->binds[col].buffer_length = need;
	return true;
}

static bool make_columns(struct maria_stmt *st, const MYSQL_FIELD *fields, size_t n)
{
	st->cols = calloc(n, sizeof(st->cols[0]));
	st->binds = calloc(n, sizeof(st->binds[0]));
	if (!st->cols || !st->binds)
		return false;
	st->n_cols = n;
	for (size_t i = 0; i < n; i++) {
		struct maria_col *c = &st->cols[i];
		MYSQL_BIND *b = &st->binds[i];

		c->integer = is_integer(fields[i].type);
		b->is_null = &c->null;
		b->length = &c->len;
		b->buffer_type = c->integer ? MYSQL_TYPE_LONGLONG : MYSQL_TYPE_STRING;
		b->buffer = &c->i64;
		if (!c->integer && !grow_text(st, i, 63))
			return false;
	}
	return true;
}

static bool describe(struct maria_stmt *st)
{
	size_t n = mysql_stmt_field_count(st->h);
	MYSQL_RES *meta = n ? mysql_stmt_result_metadata(st->h) : NULL;
	bool ok = !n || (meta && make_columns(st, mysql_fetch_fields(meta), n));

	if (meta)
		mysql_free_result(meta);
	if (!st->args) {
		st->n_args = mysql_stmt_param_count(st->h);
		st->args = calloc(st->n_args + 1, sizeof(st->args[0]));
		st->values = calloc(st->n_args + 1, sizeof(st->values[0]));
		for (size_t i = 0; st->args && i < st->n_args; i++)
			st->args[i].buffer_type = MYSQL_TYPE_NULL;
	}
	return ok && st->args && st->values;
}

static int prepare_once(struct maria_db *m, struct maria_stmt *st, const char *sql, struct err *err)
{
	int r = be_connected(m, err);

	if (r)
		return r;
	drop_handle(st);
	st->h = mysql_stmt_init(m->h);
	if (!st->h)
		return err_sys(err, -ENOMEM, "cannot prepare a database statement");
	st->connection = 0; /* until it is */
	if (mysql_stmt_prepare(st->h, sql, strlen(sql)))
		return fail_stmt(st, err);
	if (!describe(st))
		return err_sys(err, -ENOMEM, "cannot prepare a database statement");
	st->connection = m->connection;
	return 0;
}

/* A connection found broken outside a transaction is replaced, once. */
static bool may_try_again(const struct maria_db *m, int r, int attempt)
{
	return r == -ENOTCONN && !m->h && !m->base.in_tx && attempt == 0;
}

static int maria_prepare(struct db *db, const char *sql, struct db_stmt **out, struct err *err)
{
	struct maria_db *m = of_db(db);
	struct maria_stmt *st = calloc(1, sizeof(*st));
	int r;

	if (!st)
		return err_sys(err, -ENOMEM, "cannot prepare a database statement");
	st->base.db = db;
	for (int i = 0;; i++) {
		r = be_connected(m, err);
		if (!r)
			r = prepare_once(m, st, sql, err);
		if (!may_try_again(m, r, i))
			break;
	}
	if (r) {
		maria_finalize(&st->base);
		return r;
	}
	*out = &st->base;
	return 0;
}

static int maria_bind(struct db_stmt *base, size_t index, const struct db_arg *arg, struct err *err)
{
	struct maria_stmt *st = of_stmt(base);
	MYSQL_BIND *b;

	if (index >= st->n_args)
		return err_set(err, -EINVAL, "a database statement has too many values");
	b = &st->args[index];
	*b = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_NULL};
	if (arg->type == DB_ARG_I64) {
		st->values[index] = arg->i64;
		b->buffer_type = MYSQL_TYPE_LONGLONG;
		b->buffer = &st->values[index];
	} else if (arg->type == DB_ARG_TEXT) {
		b->buffer_type = MYSQL_TYPE_STRING;
		b->buffer = (void *)arg->text;
		b->buffer_length = strlen(arg->text);
	}
	return 0;
}

static int execute_once(struct maria_db *m, struct maria_stmt *st, struct err *err)
{
	if ((st->n_args && mysql_stmt_bind_param(st->h, st->args)) || mysql_stmt_execute(st->h))
		return fail_stmt(st, err);
	m->changed = (int64_t)mysql_stmt_affected_rows(st->h);
	m->inserted = (int64_t)mysql_stmt_insert_id(st->h);
	if (!st->n_cols)
		return 0;
	/* All rows come over before the first is handed out: the connection is free for the next
	 * statement, and what breaks breaks before. */
	if (mysql_stmt_bind_result(st->h, st->binds) || mysql_stmt_store_result(st->h))
		return fail_stmt(st, err);
	return 0;
}

static int execute(struct maria_stmt *st, struct err *err)
{
	struct maria_db *m = of_db(st->base.db);
	int r;

	for (int i = 0;; i++) {
		r = be_connected(m, err);
		if (!r && st->connection != m->connection)
			r = prepare_once(m, st, st->base.sql, err);
		if (!r)
			r = execute_once(m, st, err);
		/* Only what changes nothing may be sent twice. */
		if (!st->n_cols || !may_try_again(m, r, i))
			return r;
	}
}

/* Reads again what was too long for its buffer. The larger buffers are bound for the next row, not
 * for this one: some releases of the library (3.3.19) forget this row's lengths when they bind. */
static int fetch_long_texts(struct maria_stmt *st, struct err *err)
{
	for (size_t i = 0; i < st->n_cols; i++) {
		struct maria_col *c = &st->cols[i];

		if (c->integer || c->null || c->len < c->cap)
			continue;
		st->grown = true;
		if (!grow_text(st, i, c->len))
			return err_sys(err, -ENOMEM, "cannot read a database row");
		if (mysql_stmt_fetch_column(st->h, &st->binds[i], (unsigned int)i, 0))
			return fail_stmt(st, err);
	}
	return 0;
}

static int maria_step(struct db_stmt *base, struct err *err)
{
	struct maria_stmt *st = of_stmt(base);
	int r = st->executed ? 0 : execute(st, err);

	if (r)
		return r;
	st->executed = true;
	if (!st->n_cols)
		return DB_DONE;
	if (st->grown && mysql_stmt_bind_result(st->h, st->binds))
		return fail_stmt(st, err);
	st->grown = false;
	r = mysql_stmt_fetch(st->h);
	if (r == MYSQL_NO_DATA)
		return DB_DONE;
	if (r && r != MYSQL_DATA_TRUNCATED)
		return fail_stmt(st, err);
	r = fetch_long_texts(st, err);
	if (r)
		return r;
	for (size_t i = 0; i < st->n_cols; i++)
		if (!st->cols[i].integer && !st->cols[i].null)
			st->cols[i].text[st->cols[i].len] = 0;
	return DB_ROW;
}

static void maria_reset(struct db_stmt *base)
{
	struct maria_stmt *st = of_stmt(base);

	if (st->executed && st->h && of_db(base->db)->h)
		mysql_stmt_free_result(st->h);
	st->executed = false;
	/* The arguments were borrowed. */
	for (size_t i = 0; i < st->n_args; i++)
		st->args[i] = (MYSQL_BIND){.buffer_type = MYSQL_TYPE_NULL};
}

static bool maria_is_null(struct db_stmt *base, int col)
{
	return of_stmt(base)->cols[col].null;
}

static int64_t maria_col_i64(struct db_stmt *base, int col)
{
	const struct maria_col *c = &of_stmt(base)->cols[col];

	if (c->null)
		return 0;
	return c->integer ? c->i64 : strtoll(c->text, NULL, 10);
}

static const char *maria_col_text(struct db_stmt *base, int col, size_t *len)
{
	struct maria_col *c = &of_stmt(base)->cols[col];
	const char *text = c->integer ? c->digits : c->text;

	if (c->integer)
		snprintf(c->digits, sizeof(c->digits), "%" PRId64, c->i64);
	if (c->null)
		text = NULL;
	if (len)
		*len = !text ? 0 : c->integer ? strlen(text) : c->len;
	return text;
}

static int64_t maria_changes(struct db *db)
{
	return of_db(db)->changed;
}

static int64_t maria_insert_id(struct db *db)
{
	return of_db(db)->inserted;
}

static const struct db_word words[] = {
	{"$AUTO_ID", "BIGINT NOT NULL PRIMARY KEY AUTO_INCREMENT"},
	/* Byte for byte, and a space at the end counts. */
	{"$OPTIONS", "ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin"},
	/* What dropped columns leave behind in the table's format would add up. */
	{"$REBUILD", ", ALGORITHM=COPY"},
	{NULL, NULL},
};

const struct db_ops db_mariadb_ops = {
	.scheme = "mariadb",
	.words = words,
	.now = "CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)",
	.ddl_commits = true,
	.url_valid = maria_url_valid,
	.open = maria_open,
	.close = maria_close,
	.backup = maria_backup,
	.check = maria_check,
	.schema_lock = maria_schema_lock,
	.schema_unlock = maria_schema_unlock,
	.exec = maria_exec_op,
	.begin = maria_begin,
	.commit = maria_commit,
	.rollback = maria_rollback,
	.prepare = maria_prepare,
	.finalize = maria_finalize,
	.bind = maria_bind,
	.step = maria_step,
	.reset = maria_reset,
	.is_null = maria_is_null,
	.col_i64 = maria_col_i64,
	.col_text = maria_col_text,
	.changes = maria_changes,
	.insert_id = maria_insert_id,
};
