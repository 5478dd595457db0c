/* An echo server on asio: one thread, one operation under way for each connection, and a buffer of its own. */
#include "server.h"

#include <array>
#include <csignal>
#include <memory>

#include <asio.hpp>

using protocol = asio::generic::stream_protocol;

static asked arguments;

class client : public std::enable_shared_from_this<client> {
public:
    explicit client(protocol::socket socket) : socket_(std::move(socket)) {}

    /* Waits first: an idle connection has no buffer. All of them share one, which is free again after each turn. */
    void read()
    {
        socket_.async_wait(protocol::socket::wait_read, [self = shared_from_this()](std::error_code error) {
            if (!error)
                self->echo();
        });
    }

private:
    void echo()
    {
        std::error_code error;
        size_t got = socket_.read_some(asio::buffer(buffer), error);

        if (error == asio::error::would_block) {
            read();
            return;
        }
        if (error)
            return;
        bool ending = ends(arguments.line, buffer.data(), got);
        size_t sent = socket_.write_some(asio::buffer(buffer, got), error);
        if (error && error != asio::error::would_block)
            return;
        if (sent < got)
            keep(sent, got, ending);
        else if (!ending)
            read();
    }

    void keep(size_t sent, size_t got, bool ending)
    {
        auto rest = std::make_shared<std::vector<unsigned char>>(buffer.begin() + sent, buffer.begin() + got);

        asio::async_write(socket_, asio::buffer(*rest),
                          [self = shared_from_this(), rest, ending](std::error_code error, size_t) {
                              if (!error && !ending)
                                  self->read();
                          });
    }

    protocol::socket socket_;
    static std::array<unsigned char, BUFFER> buffer;
};

std::array<unsigned char, BUFFER> client::buffer;

static void welcome(asio::basic_socket_acceptor<protocol> &listener)
{
    listener.async_accept([&listener](std::error_code error, protocol::socket socket) {
        if (!error) {
            socket.non_blocking(true);
            std::make_shared<client>(std::move(socket))->read();
        }
        welcome(listener);
    });
}

int main(int argc, char **argv)
{
    arguments = read_arguments(argc, argv);
    std::signal(SIGPIPE, SIG_IGN);
    asio::io_context context(1);
    int family = arguments.unix_path != nullptr ? AF_UNIX : AF_INET;
    asio::basic_socket_acceptor<protocol> listener(context, protocol(family, 0), listen_by_hand(arguments, SOCK_NONBLOCK));

    announce(listener.native_handle());
    welcome(listener);
    context.run();
}
