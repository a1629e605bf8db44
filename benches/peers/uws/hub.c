// A hub with uWebSockets and its own publish/subscribe. C, not Python: the library that PyPI's socketify bundles has uWebSockets' C
// interface, so that no interpreter is on the path of a message.
//
//     uws-hub 127.0.0.1:PORT
//
// At /ws the first text message names the room, and each one after it goes to every member of the room, its sender included, as it
// came. /echo sends back what it gets. /health answers OK. One thread. (The build is socketify's: uSockets over libuv, where
// uWebSockets by itself would use epoll directly.)
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "uws.h"

enum { PLAIN = 0, MESSAGE_BYTES = 1 << 20, BEHIND_BYTES = 16 << 20 };

struct member {
    size_t room_bytes;
    char *room;
};

static uws_app_t *app;

static void upgrade(uws_res_t *response, uws_req_t *request, uws_socket_context_t *context, void *unused) {
    const char *key;
    size_t key_bytes = uws_req_get_header(request, "sec-websocket-key", 17, &key);
    struct member *member = calloc(1, sizeof *member);
    uws_res_upgrade(PLAIN, response, member, key, key_bytes, NULL, 0, NULL, 0, context);
}

static void on_message(uws_websocket_t *ws, const char *content, size_t bytes, uws_opcode_t opcode, void *unused) {
    struct member *self = uws_ws_get_user_data(PLAIN, ws);
    if (!self->room) {
        self->room = malloc(bytes + 1);
        memcpy(self->room, content, bytes);
        self->room_bytes = bytes;
        uws_ws_subscribe(PLAIN, ws, self->room, bytes);
    } else {
        uws_publish(PLAIN, app, self->room, self->room_bytes, content, bytes, opcode, false);
    }
}

static void on_close(uws_websocket_t *ws, int code, const char *reason, size_t bytes, void *unused) {
    struct member *self = uws_ws_get_user_data(PLAIN, ws);
    free(self->room);
    free(self);
}

static void on_echo(uws_websocket_t *ws, const char *content, size_t bytes, uws_opcode_t opcode, void *unused) {
    uws_ws_send(PLAIN, ws, content, bytes, opcode);
}

static void on_health(uws_res_t *response, uws_req_t *request, void *unused) { uws_res_end(PLAIN, response, "OK", 2, false); }

static void on_listen(struct us_listen_socket_t *listener, uws_app_listen_config_t config, void *unused) {
    if (!listener) {
        fprintf(stderr, "cannot listen on port %d\n", config.port);
        exit(1);
    }
}

int main(int count, char **arguments) {
    char *port = count == 2 ? strrchr(arguments[1], ':') : NULL;
    if (!port) {
        fprintf(stderr, "usage: uws-hub ADDRESS:PORT\n");
        return 2;
    }
    *port++ = 0;
    socketify_loop *loop = socketify_create_loop();
    uws_get_loop_with_native(socketify_get_native_loop(loop));
    app = uws_create_app(PLAIN, (struct us_socket_context_options_t){0});
    uws_socket_behavior_t chat = {
        .maxPayloadLength = MESSAGE_BYTES,
        .maxBackpressure = BEHIND_BYTES,
        .closeOnBackpressureLimit = true,
        .upgrade = upgrade,
        .message = on_message,
        .close = on_close,
    };
    uws_socket_behavior_t echo = chat;
    echo.message = on_echo;
    uws_ws(PLAIN, app, "/ws", chat, NULL);
    uws_ws(PLAIN, app, "/echo", echo, NULL);
    uws_app_get(PLAIN, app, "/health", on_health, NULL);
    uws_app_listen_with_config(PLAIN, app, (uws_app_listen_config_t){.port = atoi(port), .host = arguments[1]}, on_listen, NULL);
    return socketify_loop_run(loop, 0);
}
