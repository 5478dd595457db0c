/* The options of oyez_listen are really set on the socket, and those in the text win. */
#define _GNU_SOURCE
#include "clients.h"
#include "expect.h"
#include "places.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MPTCP = 262 };

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t size = sizeof value;
    MUST(getsockopt(fd, level, name, &value, &size));
    return value;
}

/* The backlog in force: of a listening socket the kernel tells it here. */
static int backlog_of(int fd)
{
    struct tcp_info info;
    socklen_t size = sizeof info;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size));
    return (int)info.tcpi_sacked;
}

static int listen_with(const oyez_listen_options *options)
{
    return (int)CHECK_WORKS(oyez_listen("127.0.0.1:0", options));
}

static void what_zero_means(void)
{
    oyez_listen_options zero = OYEZ_LISTEN_OPTIONS_INIT;
    for (int i = 0; i < 2; i++) {
        int fd = listen_with(i == 0 ? NULL : &zero);
        CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_REUSEADDR), 1);
        CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_REUSEPORT), 0);
        CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
        CHECK_EQ_INT(option(fd, IPPROTO_TCP, TCP_NODELAY), 1);
        CHECK_EQ_INT(option(fd, IPPROTO_TCP, TCP_DEFER_ACCEPT), 0);
        CHECK_EQ_INT(option(fd, IPPROTO_TCP, TCP_FASTOPEN), 0);
        CHECK_EQ_INT(option(fd, IPPROTO_IP, IP_FREEBIND), 0);
        CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
        CHECK_EQ_INT(backlog_of(fd), place_sysctl_number("/proc/sys/net/core/somaxconn"));
        CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)), FD_CLOEXEC);
        CHECK_EQ_INT(MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK, 0);
        MUST(close(fd));
    }
}

/* A field, a value for it, and what the kernel tells then. */
typedef struct setting {
    const char *name;
    size_t field;
    int value;
    int level;
    int option;
    int least;
    int most;
} setting;

#define FIELD(name) #name, offsetof(oyez_listen_options, name)

static const setting settings[] = {
    { FIELD(reuse_address), OYEZ_ON, SOL_SOCKET, SO_REUSEADDR, 1, 1 },
    { FIELD(reuse_address), OYEZ_OFF, SOL_SOCKET, SO_REUSEADDR, 0, 0 },
    { FIELD(reuse_port), OYEZ_ON, SOL_SOCKET, SO_REUSEPORT, 1, 1 },
    { FIELD(reuse_port), OYEZ_OFF, SOL_SOCKET, SO_REUSEPORT, 0, 0 },
    { FIELD(no_delay), OYEZ_ON, IPPROTO_TCP, TCP_NODELAY, 1, 1 },
    { FIELD(no_delay), OYEZ_OFF, IPPROTO_TCP, TCP_NODELAY, 0, 0 },
    { FIELD(keep_alive_seconds), 33, SOL_SOCKET, SO_KEEPALIVE, 1, 1 },
    { FIELD(keep_alive_seconds), 33, IPPROTO_TCP, TCP_KEEPIDLE, 33, 33 },
    { FIELD(keep_alive_seconds), 32767, IPPROTO_TCP, TCP_KEEPIDLE, 32767, 32767 },
    { FIELD(keep_alive_seconds), OYEZ_OFF, SOL_SOCKET, SO_KEEPALIVE, 0, 0 },
    { FIELD(defer_accept_seconds), 3, IPPROTO_TCP, TCP_DEFER_ACCEPT, 3, 7 },
    { FIELD(fast_open), 9, IPPROTO_TCP, TCP_FASTOPEN, 9, 9 },
    { FIELD(fast_open), OYEZ_ON, IPPROTO_TCP, TCP_FASTOPEN, 1, 1 << 20 },
    { FIELD(receive_buffer), 20000, SOL_SOCKET, SO_RCVBUF, 20000, 40000 },
    { FIELD(send_buffer), 30000, SOL_SOCKET, SO_SNDBUF, 30000, 60000 },
    { FIELD(free_bind), OYEZ_ON, IPPROTO_IP, IP_FREEBIND, 1, 1 },
};

static void check_setting(const setting *one, int fd)
{
    int value = option(fd, one->level, one->option);
    if (value < one->least || value > one->most)
        check_fail(__FILE__, __LINE__, "%s = %d gives %d", one->name, one->value, value);
    MUST(close(fd));
}

static void each_option_is_set(void)
{
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
        *(int32_t *)((char *)&options + settings[i].field) = settings[i].value;
        check_setting(&settings[i], listen_with(&options));
    }
}

/* The same from the text, over a struct that says otherwise. */
static void options_in_the_text_win(void)
{
    char address[100];
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        const setting *one = &settings[i];
        oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
        *(int32_t *)((char *)&options + one->field) = one->value == OYEZ_OFF ? OYEZ_ON : OYEZ_OFF;
        if (one->field == offsetof(oyez_listen_options, receive_buffer)
            || one->field == offsetof(oyez_listen_options, send_buffer)
            || one->field == offsetof(oyez_listen_options, defer_accept_seconds))
            *(int32_t *)((char *)&options + one->field) = one->value * 3;
        int is_switch = one->value == OYEZ_ON || one->value == OYEZ_OFF;
        if (is_switch)
            snprintf(address, sizeof address, "127.0.0.1:0?%s=%s", one->name, one->value == OYEZ_ON ? "on" : "off");
        else
            snprintf(address, sizeof address, "127.0.0.1:0?%s=%d", one->name, one->value);
        check_setting(one, (int)CHECK_WORKS(oyez_listen(address, &options)));
    }
}

static void several_options_in_the_text(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.reuse_port = OYEZ_ON;
    options.backlog = 99;
    options.close_on_exec = OYEZ_ON;
    int fd = (int)CHECK_WORKS(oyez_listen(
        "127.0.0.1:0?backlog=7&reuse_port=default&nonblocking=on&close_on_exec=off&interface=lo", &options));
    CHECK_EQ_INT(backlog_of(fd), 7);
    CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_REUSEPORT), 0);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK, O_NONBLOCK);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)), 0);
    MUST(close(fd));
    CHECK_EQ_INT(options.backlog, 99);
}

static void backlogs(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    int most = place_sysctl_number("/proc/sys/net/core/somaxconn");
    options.backlog = 64;
    int fd = listen_with(&options);
    CHECK_EQ_INT(backlog_of(fd), 64);
    MUST(close(fd));
    options.backlog = 1;
    fd = listen_with(&options);
    CHECK_EQ_INT(backlog_of(fd), 1);
    MUST(close(fd));
    options.backlog = 2147483647;
    fd = listen_with(&options);
    CHECK_EQ_INT(backlog_of(fd), most);
    MUST(close(fd));
}

static void descriptor_flags(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.nonblocking = OYEZ_ON;
    options.close_on_exec = OYEZ_OFF;
    int fd = listen_with(&options);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK, O_NONBLOCK);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)), 0);
    MUST(close(fd));
    options.nonblocking = OYEZ_OFF;
    options.close_on_exec = OYEZ_ON;
    fd = listen_with(&options);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFL)) & O_NONBLOCK, 0);
    CHECK_EQ_INT(MUST(fcntl(fd, F_GETFD)), FD_CLOEXEC);
    MUST(close(fd));
}

static void two_share_a_port_only_if_asked(void)
{
    char text[64];
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.reuse_port = OYEZ_ON;
    int fd = listen_with(&options);
    CHECK_WORKS(oyez_local_address(fd, text, sizeof text));
    int second = (int)CHECK_WORKS(oyez_listen(text, &options));
    CHECK_FAILS(oyez_listen(text, NULL), OYEZ_ADDRESS_IN_USE, EADDRINUSE);
    MUST(close(second));
    MUST(close(fd));
}

static void free_bind_takes_a_foreign_address(void)
{
    char text[64];
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.free_bind = OYEZ_ON;
    int fd = (int)CHECK_WORKS(oyez_listen("192.0.2.1:0", &options));
    CHECK_WORKS(oyez_local_address(fd, text, sizeof text));
    CHECK_STR_CONTAINS(text, "192.0.2.1:");
    MUST(close(fd));
}

static void an_interface(void)
{
    char name[IF_NAMESIZE] = "";
    socklen_t size = sizeof name;
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.interface = "lo";
    int fd = listen_with(&options);
    MUST(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, name, &size));
    CHECK_STR_EQ(name, "lo");
    int client = client_connect(oyez_local_port(fd));
    MUST(close(client));
    MUST(close(fd));
    options.interface = "nope0";
    CHECK_FAILS(oyez_listen("127.0.0.1:0", &options), OYEZ_ADDRESS_NOT_AVAILABLE, ENODEV);
    CHECK_STR_CONTAINS(oyez_error_message(NULL), "nope0");
}

static void an_interface_name_that_cannot_be(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    int before = check_descriptors();
    options.interface = "an-interface-with-a-name-too-long";
    CHECK_EQ_INT(oyez_listen("127.0.0.1:0", &options), -1);
    CHECK(oyez_error_code(NULL) == OYEZ_INVALID_ARGUMENT || oyez_error_code(NULL) == OYEZ_ADDRESS_NOT_AVAILABLE);
    CHECK_EQ_INT(check_descriptors(), before);
}

static void multipath_or_plain(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.multipath = OYEZ_ON;
    int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, MPTCP);
    int fd = listen_with(&options);
    CHECK_EQ_INT(option(fd, SOL_SOCKET, SO_PROTOCOL), probe == -1 ? IPPROTO_TCP : MPTCP);
    int client = client_connect(oyez_local_port(fd));
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    client_send_text(client, "over it");
    client_expect(accepted, "over it");
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
    if (probe != -1)
        MUST(close(probe));
}

/* What plain accept(2) returns has them too. */
static void accepted_connections_inherit(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.keep_alive_seconds = 44;
    int fd = listen_with(&options);
    for (int by_hand = 0; by_hand < 2; by_hand++) {
        int client = client_connect(oyez_local_port(fd));
        int accepted = by_hand ? accept(fd, NULL, NULL) : oyez_accept(fd, NULL, 0, 10000);
        MUST(accepted);
        CHECK_EQ_INT(option(accepted, IPPROTO_TCP, TCP_NODELAY), 1);
        CHECK_EQ_INT(option(accepted, SOL_SOCKET, SO_KEEPALIVE), 1);
        CHECK_EQ_INT(option(accepted, IPPROTO_TCP, TCP_KEEPIDLE), 44);
        MUST(close(accepted));
        MUST(close(client));
    }
    MUST(close(fd));
}

/* A connection that has sent nothing is not accepted yet. */
static void deferred_until_the_first_byte(void)
{
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.defer_accept_seconds = 20;
    int fd = listen_with(&options);
    int client = client_connect(oyez_local_port(fd));
    CHECK_FAILS(oyez_accept(fd, NULL, 0, 200), OYEZ_TIMED_OUT, EAGAIN);
    client_send_text(client, "x");
    int accepted = (int)CHECK_WORKS(oyez_accept(fd, NULL, 0, 10000));
    MUST(close(accepted));
    MUST(close(client));
    MUST(close(fd));
}

/* What only TCP has does no harm to a Unix socket or a datagram one: accepted or refused, never half-made. */
static void options_of_another_kind_of_socket(void)
{
    char address[200];
    oyez_listen_options options = OYEZ_LISTEN_OPTIONS_INIT;
    options.no_delay = OYEZ_ON;
    options.keep_alive_seconds = 10;
    snprintf(address, sizeof address, "unix:%s/options.sock", check_folder());
    const char *const texts[] = { address, "udp:127.0.0.1:0", "unix:@oyez-options-test" };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        int before = check_descriptors();
        int fd = oyez_listen(texts[i], &options);
        if (fd != -1)
            CHECK_WORKS(oyez_unlisten(fd));
        CHECK_EQ_INT(check_descriptors(), before);
    }
    CHECK_EQ_INT(place_entries(check_folder()), 0);
}

static void unix_options_in_the_text(void)
{
    char address[250];
    char path[220];
    struct stat about;
    snprintf(path, sizeof path, "%s/mode.sock", check_folder());
    snprintf(address, sizeof address, "unix:%s?unix_mode=0640&backlog=3", path);
    int fd = (int)CHECK_WORKS(oyez_listen(address, NULL));
    MUST(stat(path, &about));
    CHECK_EQ_INT(about.st_mode & 07777, 0640);
    snprintf(address, sizeof address, "unix:%s", path);
    char shown[250];
    CHECK_WORKS(oyez_local_address(fd, shown, sizeof shown));
    CHECK_STR_EQ(shown, address);
    CHECK_WORKS(oyez_unlisten(fd));
}

static const check_case cases[] = {
    CASE(what_zero_means),
    CASE(each_option_is_set),
    CASE(options_in_the_text_win),
    CASE(several_options_in_the_text),
    CASE(backlogs),
    CASE(descriptor_flags),
    CASE(two_share_a_port_only_if_asked),
    CASE(free_bind_takes_a_foreign_address),
    CASE(an_interface),
    CASE(an_interface_name_that_cannot_be),
    CASE(multipath_or_plain),
    CASE(accepted_connections_inherit),
    CASE(deferred_until_the_first_byte),
    CASE(options_of_another_kind_of_socket),
    CASE(unix_options_in_the_text),
};

CHECK_MAIN(cases)
