/* Who is refused: by address, by rate and by list, in every way of serving; and what is reported of it. */
#define _GNU_SOURCE
#include "clients.h"
#include "holding.h"
#include "places.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static oyez_server_options limits(void)
{
    oyez_server_options options = OYEZ_SERVER_OPTIONS_INIT;
    return options;
}

static int from(const holding *server, const char *source)
{
    return client_connect_from(source, strchr(source, ':') != NULL ? "::1" : "127.0.0.1", server->server.port);
}

/* By address. */

static void check_per_address(hold_kind kind)
{
    enum { MOST = 2 };
    int kept[2 * MOST];
    oyez_server_options options = limits();
    options.max_connections_per_address = MOST;
    holding *server = hold(kind, &options);
    for (int i = 0; i < MOST; i++)
        kept[i] = from(server, "127.0.0.1");
    CHECK_SOON(hold_begun(server) == MOST);
    for (int i = 0; i < 3; i++)
        hold_refused(from(server, "127.0.0.1"));
    for (int i = MOST; i < 2 * MOST; i++)
        kept[i] = from(server, "127.0.0.2");
    CHECK_SOON(hold_begun(server) == 2 * MOST);
    hold_refused(from(server, "127.0.0.2"));
    hold_release(kept[0]);
    CHECK_SOON(hold_stats(server).active == 2 * MOST - 1);
    kept[0] = from(server, "127.0.0.1");
    CHECK_SOON(hold_begun(server) == 2 * MOST + 1);
    for (int i = 0; i < 2 * MOST; i++)
        hold_release(kept[i]);
    CHECK_EQ_INT(hold_begun(server), 2 * MOST + 1);
    CHECK_EQ_INT(hold_stats(server).accepted, 2 * MOST + 1);
    CHECK_EQ_INT(hold_stats(server).refused_address, 4);
    CHECK_EQ_INT(hold_stats(server).refused_limit + hold_stats(server).refused_rate + hold_stats(server).refused_rules, 0);
    CHECK_EQ_INT(log_lines("refused_by_address"), 1);
    CHECK_LOGGED("refused_by_address", "client 127.0.0.1:");
    hold_stop(server, -1);
    /* The end of the episode has the count. */
    CHECK_EQ_INT(log_lines("refused_by_address"), 2);
    CHECK_LOGGED("refused_by_address", "4 clients were refused");
    hold_close(server);
}

static void each_address_has_its_own(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        if (kind != HOLD_SEQUENTIAL)
            check_per_address(kind);
}

/* As many may come as before, which they could not if one had been forgotten. */
static void check_room(const holding *server, int most)
{
    int clients[8];
    CHECK_SOON(hold_stats(server).active == 0);
    int begun = hold_begun(server);
    for (int i = 0; i < most; i++)
        clients[i] = client_connect(server->server.port);
    CHECK_SOON(hold_begun(server) == begun + most);
    hold_refused(client_connect(server->server.port));
    for (int i = 0; i < most; i++)
        hold_release(clients[i]);
    CHECK_EQ_INT(hold_begun(server), begun + most);
}

static void check_counts_go_back(hold_kind kind)
{
    enum { MOST = 3 };
    int clients[MOST];
    oyez_server_options options = limits();
    options.max_connections_per_address = MOST;
    holding *server = hold(kind, &options);
    check_room(server, MOST);
    for (int how = 0; how < 3; how++) {
        int begun = hold_begun(server);
        for (int i = 0; i < MOST; i++)
            clients[i] = client_connect(server->server.port);
        CHECK_SOON(hold_begun(server) == begun + MOST);
        for (int i = 0; i < MOST; i++) {
            if (how == 0)
                client_reset(clients[i]);
            else if (how == 1)
                client_close(clients[i]);
            else
                hold_release(clients[i]);
        }
        check_room(server, MOST);
    }
    /* One that is idle for too long. */
    options.idle_timeout_ms = 50;
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    int begun = hold_begun(server);
    int silent = client_connect(server->server.port);
    CHECK_SOON(hold_begun(server) == begun + 1);
    client_ending(silent);
    MUST(close(silent));
    options.idle_timeout_ms = 0;
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    check_room(server, MOST);
    hold_end(server);
}

static void counts_go_back(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        if (kind != HOLD_SEQUENTIAL)
            check_counts_go_back(kind);
}

static void die(oyez_conn connection, void *user)
{
    (void)connection;
    (void)user;
    raise(SIGKILL);
}

/* A child that crashes leaves its address, and its place; the crashes are one episode. */
static void counts_go_back_after_a_crash(void)
{
    oyez_server_options options = serve_options(OYEZ_PROCESSES);
    options.max_connections_per_address = 1;
    options.max_connections = 2;
    log_kept(&options);
    served server = serve(die, NULL, &options);
    for (unsigned i = 0; i < 5; i++) {
        int client = client_connect(server.port);
        CHECK_EQ_INT(client_ending(client), ECONNRESET);
        MUST(close(client));
        CHECK_SOON(serve_stats(server).active == 0);
        CHECK_EQ_INT(serve_stats(server).accepted, i + 1);
    }
    CHECK_EQ_INT(log_lines("handler_crashed"), 1);
    CHECK_LOGGED("handler_crashed", "signal 9");
    CHECK_EQ_INT(serve_stats(server).handler_failures, 5);
    serve_end(server);
    CHECK_EQ_INT(log_lines("handler_crashed"), 2);
    CHECK_LOGGED("handler_crashed", "5 handlers crashed");
}

/* By hand: each way to end one. */
static void counts_go_back_by_hand(void)
{
    oyez_conn connection, none;
    oyez_server_options options = limits();
    options.max_connections_per_address = 1;
    served server = serve_at("127.0.0.1:0", NULL, NULL, &options);
    for (int how = 0; how < 4; how++) {
        int client = client_connect(server.port);
        CHECK_WORKS(oyez_server_accept(server.id, &connection, 10000));
        int other = client_connect(server.port);
        CHECK_FAILS(oyez_server_accept(server.id, &none, 0), OYEZ_TIMED_OUT, EAGAIN);
        hold_refused(other);
        if (how == 0)
            CHECK_WORKS(oyez_conn_close(connection));
        else if (how == 1)
            CHECK_WORKS(oyez_conn_abort(connection));
        else if (how == 2)
            MUST(close((int)CHECK_WORKS(oyez_conn_detach(connection))));
        if (how < 3)
            MUST(close(client));
        else
            client_reset(client);
        if (how == 3)
            CHECK_WORKS(oyez_conn_close(connection));
    }
    CHECK_EQ_INT(serve_stats(server).refused_address, 4);
    CHECK_EQ_INT(serve_stats(server).accepted, 4);
    CHECK_WORKS(oyez_server_close(server.id));
}

/* IPv6 counts by /64; an IPv4 client of a dual-stack listener counts as IPv4. */
static void by_network_of_ipv6(void)
{
    int clients[3];
    oyez_server_options options = limits();
    place_network();
    place_loopback_up();
    place_command("ip -6 addr add 2001:db8:0:1::1/64 dev lo nodad");
    place_command("ip -6 addr add 2001:db8:0:1::2/64 dev lo nodad");
    place_command("ip -6 addr add 2001:db8:0:2::1/64 dev lo nodad");
    options.max_connections_per_address = 1;
    holding *server = hold_at(HOLD_THREADS, ":0", &options);
    clients[0] = from(server, "2001:db8:0:1::1");
    CHECK_SOON(hold_begun(server) == 1);
    hold_refused(from(server, "2001:db8:0:1::2"));
    clients[1] = from(server, "2001:db8:0:2::1");
    clients[2] = from(server, "127.0.0.1");
    CHECK_SOON(hold_begun(server) == 3);
    hold_refused(from(server, "127.0.0.1"));
    for (int i = 0; i < 3; i++)
        hold_release(clients[i]);
    CHECK_EQ_INT(hold_stats(server).refused_address, 2);
    hold_end(server);
}

/* Turned on while connections are open, the limit counts those. */
static void check_turned_on(hold_kind kind)
{
    int clients[3];
    oyez_server_options options = limits();
    holding *server = hold(kind, NULL);
    for (int i = 0; i < 3; i++)
        clients[i] = client_connect(server->server.port);
    CHECK_SOON(hold_begun(server) == 3);
    options.max_connections_per_address = 2;
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    hold_refused(client_connect(server->server.port));
    hold_release(clients[0]);
    CHECK_SOON(hold_stats(server).active == 2);
    hold_refused(client_connect(server->server.port));
    hold_release(clients[1]);
    CHECK_SOON(hold_stats(server).active == 1);
    clients[0] = client_connect(server->server.port);
    CHECK_SOON(hold_begun(server) == 4);
    hold_release(clients[0]);
    hold_release(clients[2]);
    check_room(server, 2);
    /* And off again. */
    CHECK_WORKS(oyez_server_set_limits(server->server.id, NULL));
    for (int i = 0; i < 3; i++)
        clients[i] = client_connect(server->server.port);
    for (int i = 0; i < 3; i++)
        hold_release(clients[i]);
    hold_end(server);
}

static void turned_on_while_connections_are_open(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        if (kind != HOLD_SEQUENTIAL)
            check_turned_on(kind);
}

/* By rate. */

static void check_rate(hold_kind kind)
{
    enum { BURST = 5, CLIENTS = 20 };
    int clients[CLIENTS];
    int served_now = 0;
    oyez_server_options options = limits();
    options.accept_rate = 1;
    options.accept_burst = BURST;
    holding *server = hold(kind, &options);
    CHECK_WORKS(oyez_server_pause(server->server.id));
    long long start = check_now_ms();
    for (int i = 0; i < CLIENTS; i++) {
        clients[i] = client_connect(server->server.port);
        hold_ask(clients[i]);
    }
    CHECK_WORKS(oyez_server_resume(server->server.id));
    for (int i = 0; i < CLIENTS; i++) {
        char text[8];
        ssize_t count = recv(clients[i], text, sizeof text, 0);
        CHECK(count == 4 || count == 0 || errno == ECONNRESET);
        served_now += count == 4;
        MUST(close(clients[i]));
    }
    CHECK(served_now >= BURST);
    CHECK(served_now <= BURST + (check_now_ms() - start) / 1000 + 1);
    CHECK_EQ_INT(hold_stats(server).accepted, served_now);
    CHECK_EQ_INT(hold_stats(server).refused_rate, CLIENTS - served_now);
    CHECK_EQ_INT(log_lines("refused_by_rate"), 1);
    /* The same limits again are no new burst. */
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    start = check_now_ms();
    int more = 0;
    while (more == 0) {
        int client = client_connect(server->server.port);
        char text[8];
        hold_ask(client);
        more += recv(client, text, sizeof text, 0) == 4;
        MUST(close(client));
        check_nap(20);
    }
    CHECK(hold_stats(server).accepted <= (unsigned)(BURST + 2 + (check_now_ms() - start) / 1000));
    /* A new rate is one. */
    options.accept_rate = 1000;
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    for (int i = 0; i < BURST; i++)
        hold_release(client_connect(server->server.port));
    hold_end(server);
}

static void a_burst_and_then_the_rate(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_rate(kind);
}

/* By list. */

static void check_lists(hold_kind kind)
{
    oyez_server_options options = limits();
    options.allow = "127.0.0.0/8, 127.0.1.5,127.0.3.3";
    options.deny = "127.0.1.0/24 ,127.0.2.1,127.0.3.3";
    holding *server = hold(kind, &options);
    hold_release(from(server, "127.0.0.1"));
    hold_refused(from(server, "127.0.1.1"));
    hold_release(from(server, "127.0.1.5"));
    hold_refused(from(server, "127.0.2.1"));
    hold_release(from(server, "127.0.2.2"));
    hold_refused(from(server, "127.0.3.3"));
    CHECK_EQ_INT(hold_begun(server), 3);
    CHECK_EQ_INT(hold_stats(server).accepted, 3);
    CHECK_EQ_INT(hold_stats(server).refused_rules, 3);
    CHECK_EQ_INT(log_lines("refused_by_rules"), 1);
    /* Who is in stays, whatever the lists become. */
    int client = from(server, "127.0.0.1");
    CHECK_SOON(hold_begun(server) == 4);
    options.allow = NULL;
    options.deny = "127.0.0.1";
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    if (kind != HOLD_SEQUENTIAL) {
        hold_refused(from(server, "127.0.0.1"));
        hold_release(from(server, "127.0.1.1"));
    }
    hold_release(client);
    CHECK_WORKS(oyez_server_set_limits(server->server.id, NULL));
    hold_release(from(server, "127.0.0.1"));
    hold_end(server);
}

static void allowed_and_denied(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_lists(kind);
}

/* A client of a dual-stack listener is matched by IPv4 rules, however they are written; Unix clients by "unix". */
static void families(void)
{
    char addresses[100];
    char path[60];
    oyez_server_options options = limits();
    snprintf(path, sizeof path, "@oyez-test-refusals-%d", (int)getpid());
    snprintf(addresses, sizeof addresses, "unix:%s,:0", path);
    options.allow = "::ffff:127.0.0.0/104,::1";
    holding *server = hold_at(HOLD_THREADS, addresses, &options);
    hold_release(from(server, "127.0.0.1"));
    hold_release(from(server, "::1"));
    hold_refused(client_connect_unix(path));
    options.allow = "unix,::/0";
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    hold_refused(from(server, "127.0.0.1"));
    hold_release(from(server, "::1"));
    hold_release(client_connect_unix(path));
    options.allow = NULL;
    options.deny = "unix,0.0.0.0/0";
    CHECK_WORKS(oyez_server_set_limits(server->server.id, &options));
    hold_refused(from(server, "127.0.0.1"));
    hold_release(from(server, "::1"));
    hold_refused(client_connect_unix(path));
    CHECK_LOGGED("refused_by_rules", "client unix: is refused: by the allow and deny lists");
    hold_end(server);
}

/* Clients who are refused, thousands of them: those at another listener are served meanwhile. */

typedef struct flood {
    int port;
    int refused;
    int over;
} flood;

static void *pour(void *argument)
{
    flood *all = argument;
    for (; all->refused < 2000 || !SEEN(all->over); all->refused++)
        MUST(close(client_connect_from("127.0.0.9", "127.0.0.1", all->port)));
    return NULL;
}

static void check_flood(hold_kind kind)
{
    oyez_server_options options = limits();
    options.deny = "127.0.0.9";
    holding *server = hold_at(kind, "127.0.0.1:0", &options);
    flood all = { server->server.port, 0, 0 };
    int other = oyez_local_port((int)CHECK_WORKS(oyez_server_listen(server->server.id, "127.0.0.1:0", NULL)));
    pthread_t thread = check_thread(pour, &all);
    for (int i = 0; i < 200; i++)
        hold_release(client_connect(other));
    __atomic_store_n(&all.over, 1, __ATOMIC_SEQ_CST);
    check_thread_join(thread);
    CHECK_SOON(hold_stats(server).refused_rules == (unsigned)all.refused);
    CHECK_EQ_INT(hold_stats(server).accepted, 200);
    CHECK_EQ_INT(hold_begun(server), 200);
    hold_end(server);
    CHECK(log_lines("refused_by_rules") == 2);
}

static void a_flood_of_refused_clients(void)
{
    for (hold_kind kind = 0; kind < HOLD_KINDS; kind++)
        check_flood(kind);
}

/* An episode is over when it was calm for a while, with no stop. */
static void the_end_of_an_episode(void)
{
    oyez_server_options options = limits();
    options.deny = "127.0.0.9";
    holding *server = hold(HOLD_THREADS, &options);
    for (int i = 0; i < 7; i++)
        hold_refused(from(server, "127.0.0.9"));
    CHECK_EQ_INT(log_lines("refused_by_rules"), 1);
    CHECK_SOON(log_lines("refused_by_rules") == 2);
    CHECK_LOGGED("refused_by_rules", "7 clients were refused by the allow and deny lists within ");
    /* Of a single one the first line has told all. */
    hold_refused(from(server, "127.0.0.9"));
    CHECK_SOON(log_lines("refused_by_rules") == 3);
    hold_end(server);
    CHECK_EQ_INT(log_lines("refused_by_rules"), 3);
}

static const check_case cases[] = {
    CASE(each_address_has_its_own),
    CASE(counts_go_back),
    CASE(counts_go_back_after_a_crash),
    CASE(counts_go_back_by_hand),
    CASE(by_network_of_ipv6),
    CASE(turned_on_while_connections_are_open),
    CASE(a_burst_and_then_the_rate),
    CASE(allowed_and_denied),
    CASE(families),
    CASE(a_flood_of_refused_clients),
    CASE(the_end_of_an_episode),
};

CHECK_MAIN(cases)
