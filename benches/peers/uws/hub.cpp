// A hub with uWebSockets and its own publish/subscribe, on epoll.
//
//     uws-hub 127.0.0.1:PORT
//
// At /ws the first text message names the room, and each one after it goes to every member of the room, its sender included, as it
// came. /echo sends back what it gets. /health answers OK. One thread. TCP_NODELAY is uWebSockets' own doing.
//
// Messages are published at the end of the turn that they came in. uWebSockets gathers what a subscriber is to get, but 32 messages at most;
// then they must go, and if that is while another socket's message is handled, that socket has the only cork, and each of the
// 32 is a write(2) of its own. Under load this is ten times as fast as app.publish in the handler.
#include <App.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

struct Published {
    std::string room, content;
    uWS::OpCode kind;
};
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
    std::vector<Published> published;
    uWS::Loop::get()->addPostHandler(&published, [&](uWS::Loop *) {
        for (const Published &message : published) {
            app.publish(message.room, message.content, message.kind);
        }
        published.clear();
    });
    app.ws<Member>("/ws", behavior([&published](Socket *ws, std::string_view content, uWS::OpCode kind) {
        std::string &room = ws->getUserData()->room;
        if (room.empty()) {
            room = content;
            ws->subscribe(room);
        } else {
            published.push_back({room, std::string(content), kind});
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
