// A hub with uWebSockets and its own publish/subscribe, on epoll.
//
//     uws-hub 127.0.0.1:PORT
//
// At /ws the first text message names the room, and each one after it goes to every member of the room, its sender included, as it
// came. /echo sends back what it gets. /health answers OK. One thread. TCP_NODELAY is uWebSockets' own doing.
#include <App.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

struct Member {
    std::string room;
};
using Socket = uWS::WebSocket<false, true, Member>;
using Behavior = uWS::App::WebSocketBehavior<Member>;

static Behavior behavior(uWS::MoveOnlyFunction<void(Socket *, std::string_view, uWS::OpCode)> &&on_message) {
    return {
        .compression = uWS::DISABLED,
        .maxPayloadLength = 1 << 20,
        .idleTimeout = 0,
        .maxBackpressure = 16 << 20, // that a member may be behind before it is closed
        .closeOnBackpressureLimit = true,
        .message = std::move(on_message),
    };
}

int main(int count, char **arguments) {
    char *port = count == 2 ? strrchr(arguments[1], ':') : nullptr;
    if (!port) {
        fprintf(stderr, "usage: uws-hub ADDRESS:PORT\n");
        return 2;
    }
    std::string address(arguments[1], port++);
    uWS::App app;
    app.ws<Member>("/ws", behavior([&app](Socket *ws, std::string_view content, uWS::OpCode kind) {
        std::string &room = ws->getUserData()->room;
        if (room.empty()) {
            room = content;
            ws->subscribe(room);
        } else {
            app.publish(room, content, kind);
        }
    }));
    app.ws<Member>("/echo", behavior([](Socket *ws, std::string_view content, uWS::OpCode kind) { ws->send(content, kind); }));
    app.get("/health", [](auto *response, auto *) { response->end("OK"); });
    app.listen(address, atoi(port), [](auto *listener) {
        if (!listener) {
            fprintf(stderr, "cannot listen there\n");
            exit(1);
        }
    });
    app.run();
}
