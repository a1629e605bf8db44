// The part of uWebSockets' C interface that hub.c uses, as the library in PyPI's socketify 0.0.31 has it.
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct uws_app_s uws_app_t;
typedef struct uws_req_s uws_req_t;
typedef struct uws_res_s uws_res_t;
typedef struct uws_socket_context_s uws_socket_context_t;
typedef struct uws_websocket_s uws_websocket_t;
struct us_loop_t;
struct us_listen_socket_t;

struct us_socket_context_options_t {
    const char *key_file_name, *cert_file_name, *passphrase, *dh_params_file_name, *ca_file_name, *ssl_ciphers;
    int ssl_prefer_low_memory_usage;
};

typedef enum { CONTINUATION = 0, TEXT = 1, BINARY = 2 } uws_opcode_t;
typedef enum { BACKPRESSURE, SUCCESS, DROPPED } uws_sendstatus_t;

typedef struct {
    int port;
    const char *host;
    int options;
} uws_app_listen_config_t;

typedef void (*uws_websocket_handler)(uws_websocket_t *, void *);
typedef void (*uws_websocket_message_handler)(uws_websocket_t *, const char *, size_t, uws_opcode_t, void *);
typedef void (*uws_websocket_ping_pong_handler)(uws_websocket_t *, const char *, size_t, void *);
typedef void (*uws_websocket_close_handler)(uws_websocket_t *, int, const char *, size_t, void *);
typedef void (*uws_websocket_upgrade_handler)(uws_res_t *, uws_req_t *, uws_socket_context_t *, void *);
typedef void (*uws_websocket_subscription_handler)(uws_websocket_t *, const char *, size_t, int, int, void *);
typedef void (*uws_listen_handler)(struct us_listen_socket_t *, uws_app_listen_config_t, void *);
typedef void (*uws_method_handler)(uws_res_t *, uws_req_t *, void *);

typedef struct {
    int compression; // 0: none
    unsigned int maxPayloadLength;
    unsigned short idleTimeout; // seconds; 0: none
    unsigned int maxBackpressure;
    bool closeOnBackpressureLimit;
    bool resetIdleTimeoutOnSend;
    bool sendPingsAutomatically;
    unsigned short maxLifetime;
    uws_websocket_upgrade_handler upgrade;
    uws_websocket_handler open;
    uws_websocket_message_handler message;
    uws_websocket_handler drain;
    uws_websocket_ping_pong_handler ping;
    uws_websocket_ping_pong_handler pong;
    uws_websocket_close_handler close;
    uws_websocket_subscription_handler subscription;
} uws_socket_behavior_t;

struct us_loop_t *uws_get_loop_with_native(void *existing_native_loop);
uws_app_t *uws_create_app(int ssl, struct us_socket_context_options_t options);
void uws_app_get(int ssl, uws_app_t *app, const char *pattern, uws_method_handler handler, void *user_data);
void uws_app_listen_with_config(int ssl, uws_app_t *app, uws_app_listen_config_t config, uws_listen_handler handler, void *user_data);
void uws_app_run(int ssl, uws_app_t *app);
void uws_ws(int ssl, uws_app_t *app, const char *pattern, uws_socket_behavior_t behavior, void *user_data);
void uws_res_end(int ssl, uws_res_t *res, const char *data, size_t length, bool close_connection);
void uws_res_upgrade(int ssl, uws_res_t *res, void *data, const char *key, size_t key_length, const char *protocol, size_t protocol_length,
                     const char *extensions, size_t extensions_length, uws_socket_context_t *context);
size_t uws_req_get_header(uws_req_t *req, const char *lower_case_header, size_t length, const char **dest);
void *uws_ws_get_user_data(int ssl, uws_websocket_t *ws);
uws_sendstatus_t uws_ws_send(int ssl, uws_websocket_t *ws, const char *message, size_t length, uws_opcode_t opcode);
bool uws_ws_subscribe(int ssl, uws_websocket_t *ws, const char *topic, size_t length);
bool uws_publish(int ssl, uws_app_t *app, const char *topic, size_t topic_length, const char *message, size_t message_length,
                 uws_opcode_t opcode, bool compress);

// socketify's libuv loop, on which its build of uWebSockets runs.
typedef struct socketify_loop socketify_loop;
socketify_loop *socketify_create_loop(void);
void *socketify_get_native_loop(socketify_loop *loop);
int socketify_loop_run(socketify_loop *loop, int mode);
