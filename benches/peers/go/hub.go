// A hub with gorilla/websocket, in the style of the chat example that most Go hubs descend from: a goroutine that reads and one
// that writes a connection, and channels between them.
//
//	hub 127.0.0.1:PORT
//
// At /ws the first text message names the room, and each one after it goes to every member of the room, its sender included, as
// it came. /echo sends back what it gets. /health answers OK. Run it with GOMAXPROCS=1 to compare it with one core of others.
//
// Two things are better than in the example: a message is framed once for all (PreparedMessage), and a room is a map under a lock
// instead of a goroutine, so that a publisher costs no switch. One thing cannot be had: gorilla writes each message with
// a write(2) of its own.
package main

import (
	"fmt"
	"net/http"
	"os"
	"sync"

	"github.com/gorilla/websocket"
)

// Messages that a member may be behind before it is closed.
const behindLimit = 1024

// net/http sets TCP_NODELAY by itself, as Go does on every connection.
var upgrader = websocket.Upgrader{CheckOrigin: func(*http.Request) bool { return true }}

type member struct {
	connection *websocket.Conn
	unsent     chan *websocket.PreparedMessage
}

type room struct {
	lock    sync.Mutex
	members map[*member]struct{}
}

var (
	roomsLock sync.Mutex
	rooms     = map[string]*room{}
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: hub ADDRESS:PORT")
		os.Exit(2)
	}
	http.HandleFunc("/ws", chat)
	http.HandleFunc("/echo", echo)
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("OK")) })
	fmt.Fprintln(os.Stderr, http.ListenAndServe(os.Args[1], nil))
	os.Exit(1)
}

func chat(w http.ResponseWriter, r *http.Request) {
	connection, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer connection.Close()
	_, name, err := connection.ReadMessage()
	if err != nil {
		return
	}
	self := &member{connection, make(chan *websocket.PreparedMessage, behindLimit)}
	joined := enter(string(name), self)
	defer leave(string(name), joined, self)
	go self.write()
	for {
		kind, content, err := connection.ReadMessage()
		if err != nil {
			return
		}
		message, err := websocket.NewPreparedMessage(kind, content)
		if err != nil {
			return
		}
		joined.publish(message)
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	connection, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer connection.Close()
	for {
		kind, content, err := connection.ReadMessage()
		if err != nil || connection.WriteMessage(kind, content) != nil {
			return
		}
	}
}

// A room lives while it has members.
func enter(name string, self *member) *room {
	roomsLock.Lock()
	defer roomsLock.Unlock()
	entered := rooms[name]
	if entered == nil {
		entered = &room{members: map[*member]struct{}{}}
		rooms[name] = entered
	}
	entered.lock.Lock()
	defer entered.lock.Unlock()
	entered.members[self] = struct{}{}
	return entered
}

func leave(name string, left *room, self *member) {
	roomsLock.Lock()
	defer roomsLock.Unlock()
	left.lock.Lock()
	defer left.lock.Unlock()
	delete(left.members, self)
	if len(left.members) == 0 {
		delete(rooms, name)
	}
	close(self.unsent) // nobody sends to it any more: it is in no room
}

func (r *room) publish(message *websocket.PreparedMessage) {
	r.lock.Lock()
	defer r.lock.Unlock()
	for one := range r.members {
		select {
		case one.unsent <- message:
		default:
			one.connection.Close() // its reader then leaves the room
		}
	}
}

func (m *member) write() {
	for message := range m.unsent {
		if m.connection.WritePreparedMessage(message) != nil {
			m.connection.Close()
			return
		}
	}
}
