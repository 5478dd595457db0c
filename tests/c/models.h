/* What holds for a server in each model: OYEZ_THREADS, OYEZ_SEQUENTIAL, OYEZ_PROCESSES. */
#ifndef MODELS_H
#define MODELS_H

#include "serving.h"

/* 200 clients at once, every byte checked. */
void model_many_at_once(int model);
/* `clients` short connections in a row: no descriptor, thread, child or memory goes astray. */
void model_many_in_a_row(int model, int clients);
/* A handler's plain write(2) to a client that is gone fails with EPIPE, and kills nobody. */
void model_plain_write_to_a_reset_peer(int model);
/* A client that goes away at any moment takes nobody else along. */
void model_rude_clients(int model);
/* One address in the list fails: oyez_serve returns, and nothing is left. */
void model_serve_fails_as_a_whole(int model);
/* Several listeners, IPv4 and Unix, one of them added while it runs. */
void model_several_listeners(int model);
/* oyez_serve, ended by SIGTERM. */
void model_serve_until_a_signal(int model);
/* The descriptors of accepted connections and of the server are close-on-exec and not standard ones. */
void model_nothing_is_inherited(int model);
/* Clients that come while signals interrupt every call. */
void model_in_a_storm(int model);
/* The bytes are counted where the handler runs in this process. */
void model_counts(int model);

/* A test of each of these, and their cases. */
#define MODEL_TEST(test, model)                                                      \
    static void test(void)                                                           \
    {                                                                                \
        model_##test(model);                                                         \
    }
#define MODEL_TESTS(model)                                                           \
    MODEL_TEST(many_at_once, model)                                                  \
    MODEL_TEST(plain_write_to_a_reset_peer, model)                                   \
    MODEL_TEST(rude_clients, model)                                                  \
    MODEL_TEST(serve_fails_as_a_whole, model)                                        \
    MODEL_TEST(several_listeners, model)                                             \
    MODEL_TEST(serve_until_a_signal, model)                                          \
    MODEL_TEST(nothing_is_inherited, model)                                          \
    MODEL_TEST(in_a_storm, model)                                                    \
    MODEL_TEST(counts, model)
#define MODEL_CASES                                                                  \
    CASE_WITHIN(100, many_at_once),                                                  \
    CASE(plain_write_to_a_reset_peer),                                               \
    CASE(rude_clients),                                                              \
    CASE(serve_fails_as_a_whole),                                                    \
    CASE(several_listeners),                                                         \
    CASE(serve_until_a_signal),                                                      \
    CASE(nothing_is_inherited),                                                      \
    CASE(in_a_storm),                                                                \
    CASE(counts)

/* No more handlers than workers run at once, while `held` looks at the server (NULL: nothing does); then all the clients
   are served. */
void model_no_more_than_workers(int model, int workers, int clients, void (*held)(served server));
/* No more threads or processes can be made: clients wait for those there are, and nobody is turned away. */
void model_few_threads(int model);

void model_connect(served server, int *clients, int count);
/* Each gets "hello\n" and the end. Closes them. */
void model_expect_hello(const int *clients, int count);

#endif
