/* A port that is in use: on which address it is held, and what else but a listener can hold it. */
#define _GNU_SOURCE
#include "clients.h"
#include "faults.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* Where it is held. */

static void check_held_at(const char *held, const char *asked, const char *said)
{
    int fd = fault_listen(held);
    CHECK_IN_USE(asked);
    MESSAGE_HAS(") listens on %s", said);
    MUST(close(fd));
}

static void held_on_another_address(void)
{
    fault_network();
    check_held_at("0.0.0.0:7000", HERE, "0.0.0.0:7000, every address");
    check_held_at(HERE, "0.0.0.0:7000", HERE);
    check_held_at(HERE, ":7000", HERE);
    check_held_at("0.0.0.0:7000", ":7000", "0.0.0.0:7000, every address");
}

static void held_on_ipv6(void)
{
    fault_network();
    int six = oyez_listen("[::1]:7000", NULL);
    if (six == -1)
        SKIP("this host has no IPv6");
    MUST(close(six));
    check_held_at(":7000", HERE, "[::]:7000, every address of IPv6 and IPv4");
    check_held_at(":7000", "[::1]:7000", "[::]:7000, every address of IPv6 and IPv4");
    check_held_at("[::1]:7000", ":7000", "[::1]:7000");
    check_held_at("[::]:7000", "[::1]:7000", "[::]:7000, every address");
}

static void ipv6_alone_leaves_ipv4_free(void)
{
    fault_network();
    int six = oyez_listen("[::]:7000", NULL);
    if (six == -1)
        SKIP("this host has no IPv6");
    int four = fault_listen("0.0.0.0:7000");
    CHECK_IN_USE(HERE); /* and it is the right one of the two that is named */
    MESSAGE_HAS("descriptor %d) listens on 0.0.0.0:7000", four);
    CHECK_IN_USE("[::1]:7000");
    MESSAGE_HAS("descriptor %d) listens on [::]:7000", six);
    MUST(close(four));
    MUST(close(fault_listen(HERE)));
    MUST(close(six));
}

/* Connections that are left. */

/* `count` connections that were accepted at a listener which is closed again; the ends of the clients come first. */
static void leave_connections(const char *address, int *ends, int count)
{
    int listener = fault_listen(address);
    for (int i = 0; i < count; i++) {
        ends[i] = client_connect(FAULT_PORT);
        ends[count + i] = (int)CHECK_WORKS(oyez_accept(listener, NULL, 0, 10000));
    }
    MUST(close(listener));
}

static void end_connections(int *ends, int count)
{
    for (int i = 0; i < count; i++) {
        MUST(close(ends[count + i])); /* who closes first is the one who waits */
        CHECK_EQ_INT(client_ending(ends[i]), 0);
        MUST(close(ends[i]));
    }
}

static void connections_in_time_wait(void)
{
    int ends[6];
    int seconds = 0;
    fault_network();
    leave_connections(HERE, ends, 3);
    end_connections(ends, 3);
    CHECK_IN_USE(HERE "?reuse_address=off");
    MESSAGE_HAS("nobody listens, but ");
    MESSAGE_HAS("3 ended connections keep it in TIME_WAIT, for ");
    const char *time = strstr(oyez_error_message(NULL), "TIME_WAIT, for ");
    CHECK_EQ_INT(sscanf(time, "TIME_WAIT, for %d s more at the latest", &seconds), 1);
    CHECK(seconds > 50 && seconds <= 60);
    HINT_HAS("reuse_address=on");
    MUST(close(fault_listen(HERE "?reuse_address=on"))); /* as the hint says */
}

static void connections_that_live(void)
{
    int ends[4];
    fault_network();
    leave_connections(HERE, ends, 2);
    CHECK_IN_USE(HERE "?reuse_address=off");
    MESSAGE_HAS("2 connections are open, one of them to 127.0.0.1:");
    MESSAGE_HAS("of this process itself (pid %d, descriptor ", (int)getpid());
    HINT_HAS("reuse_address");
    MUST(close(ends[3]));
    CHECK_EQ_INT(client_ending(ends[1]), 0);
    MUST(close(ends[1]));
    CHECK_IN_USE(HERE "?reuse_address=off");
    MESSAGE_HAS("to 127.0.0.1:%d, of this process itself (pid %d, descriptor %d)", client_own_port(ends[0]),
                (int)getpid(), ends[2]);
    MESSAGE_HAS("and 1 ended one keeps it in TIME_WAIT");
    MUST(close(fault_listen(HERE)));
    MUST(close(ends[2]));
    MUST(close(ends[0]));
}

static void connections_without_reuse_address(void)
{
    int ends[2];
    fault_network();
    leave_connections(HERE "?reuse_address=off", ends, 1);
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("one connection is open, to 127.0.0.1:%d", client_own_port(ends[0]));
    HINT_HAS("SO_REUSEADDR");
    end_connections(ends, 1);
    CHECK_IN_USE(HERE);
    MESSAGE_HAS("1 ended connection keeps it in TIME_WAIT");
    HINT_HAS("SO_REUSEADDR");
}

/* The server has closed its end, and the client not yet: nobody has this end any more. */
static void a_connection_that_nobody_has(void)
{
    int ends[2];
    fault_network();
    leave_connections(HERE, ends, 1);
    MUST(close(ends[1]));
    CHECK_IN_USE(HERE "?reuse_address=off");
    MESSAGE_HAS("one connection is open, to 127.0.0.1:%d", client_own_port(ends[0]));
    MESSAGE_LACKS("not visible from here");
    MESSAGE_LACKS("user");
    HINT_HAS("reuse_address=on");
    MUST(close(ends[0]));
}

static void an_outgoing_connection(void)
{
    char address[40];
    fault_network();
    int listener = fault_listen(HERE);
    int client = client_connect(FAULT_PORT);
    snprintf(address, sizeof address, "127.0.0.1:%d", client_own_port(client));
    CHECK_IN_USE(address);
    MESSAGE_HAS("to " HERE ", of this process itself (pid %d, descriptor %d)", (int)getpid(), client);
    HINT_HAS("ip_local_reserved_ports");
    MUST(close(client));
    MUST(close(listener));
}

/* Ports that are shared. */

static void shared_by_another_user(void)
{
    fault_network();
    pid_t neighbour = place_neighbour(fault_rival_of_nobody, HERE "?reuse_port=on");
    CHECK_IN_USE(HERE "?reuse_port=on");
    MESSAGE_HAS("rival (pid %d, user %s", (int)neighbour, fault_user(NOBODY));
    MESSAGE_HAS("users do not share a port");
    MESSAGE_HAS("this process %s", fault_user(0));
    HINT_HAS("as one user");
    place_neighbour_end(neighbour);
}

static void shared_by_one_side_alone(void)
{
    fault_network();
    int fd = fault_listen(HERE);
    CHECK_IN_USE(HERE "?reuse_port=on");
    MESSAGE_HAS("descriptor %d) listens on " HERE, fd);
    MESSAGE_HAS("does not have reuse_port");
    HINT_HAS("SO_REUSEPORT");
    MUST(close(fd));
    fd = fault_listen(HERE "?reuse_port=on");
    CHECK_IN_USE(HERE); /* and here it is we who lack it */
    MESSAGE_HAS("descriptor %d) listens on " HERE, fd);
    MUST(close(fault_listen(HERE "?reuse_port=on")));
    MUST(close(fd));
}

/* Bound, and not listening. */

static void bound_without_listening(void)
{
    fault_network();
    int fd = fault_bind(SOCK_STREAM, 0);
    CHECK_IN_USE(HERE);
    if (strstr(oyez_error_message(NULL), "nothing is to be seen") != NULL)
        SKIP("this kernel does not list such sockets (Linux 6.8)");
    MESSAGE_HAS("this process itself (pid %d, descriptor %d) has bound " HERE ", without listening", (int)getpid(), fd);
    HINT_HAS("descriptor %d", fd);
    MUST(close(fd));
}

static void a_udp_port(void)
{
    fault_network();
    int fd = fault_listen("udp:" HERE);
    CHECK_IN_USE("udp:" HERE);
    MESSAGE_HAS("this process itself (pid %d, descriptor %d) has bound " HERE, (int)getpid(), fd);
    MESSAGE_LACKS("listen");
    MUST(close(fault_listen(HERE))); /* TCP has ports of its own */
    pid_t child = place_neighbour(fault_named, "heir");
    MUST(close(fd));
    CHECK_IN_USE("udp:0.0.0.0:7000");
    MESSAGE_HAS("heir (pid %d, user %s", (int)child, fault_user((int)geteuid()));
    MESSAGE_HAS("has bound " HERE);
    place_neighbour_end(child);
}

/* A datagram socket that speaks with one peer only. */
static void a_connected_udp_port(void)
{
    struct sockaddr_in peer = { 0 };
    fault_network();
    int fd = fault_bind(SOCK_DGRAM, 0);
    peer.sin_family = AF_INET;
    peer.sin_port = htons(53);
    peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    MUST(connect(fd, (struct sockaddr *)&peer, sizeof peer));
    CHECK_IN_USE("udp:" HERE);
    MESSAGE_HAS("this process itself (pid %d, descriptor %d)", (int)getpid(), fd);
    MESSAGE_HAS("127.0.0.1:53");
    MESSAGE_LACKS("nobody listens");
    HINT_LACKS("the default"); /* it is not that of UDP */
    MUST(close(fd));
}

static const check_case cases[] = {
    CASE(held_on_another_address),
    CASE(held_on_ipv6),
    CASE(ipv6_alone_leaves_ipv4_free),
    CASE(connections_in_time_wait),
    CASE(connections_that_live),
    CASE(connections_without_reuse_address),
    CASE(a_connection_that_nobody_has),
    CASE(an_outgoing_connection),
    CASE(shared_by_another_user),
    CASE(shared_by_one_side_alone),
    CASE(bound_without_listening),
    CASE(a_udp_port),
    CASE(a_connected_udp_port),
};

CHECK_MAIN(cases)
