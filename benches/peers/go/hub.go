// A hub with gorilla/websocket, in the style of the chat example that most Go hubs descend from: a goroutine that reads and one
// that writes a connection, and channels between them.
//
//	hub 127.0.0.1:PORT
//
// At /ws the first text message names the room, and each one after it goes to every member of the room, its sender included, as
// it came. /echo sends back what it gets. /health answers OK. Run it with GOMAXPROCS=1 to compare it with one core of others.
//
// Three things differ from the example, for speed. A message is framed once for all (PreparedMessage). A room is a map under
// a lock instead of a goroutine, so that publishing costs no switch. And where the example glues what has queued up into one message,
// here each stays a message of its own, but they leave in one write(2): see gathering.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"

	"github.com/gorilla/websocket"
)

// Messages that a member may be behind before it is closed.
const behindLimit = 1024

var upgrader = websocket.Upgrader{
	ReadBufferSize:  1024,
	WriteBufferPool: &sync.Pool{},
	CheckOrigin:     func(*http.Request) bool { return true },
}

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
	listener, err := net.Listen("tcp", os.Args[1])
	if err == nil {
		err = http.Serve(gatheringListener{listener}, nil)
	}
	fmt.Fprintln(os.Stderr, err)
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
	wire := m.connection.UnderlyingConn().(*gathering)
	for message := range m.unsent {
		wire.hold()
		err := m.connection.WritePreparedMessage(message)
		for waiting := len(m.unsent); waiting > 0 && err == nil; waiting-- {
			if message, isOpen := <-m.unsent; isOpen {
				err = m.connection.WritePreparedMessage(message)
			}
		}
		if wire.release() != nil || err != nil {
			m.connection.Close()
			return
		}
	}
}

// A connection whose writes can be held and then written as one: gorilla itself does a write(2) a message.
// Go has set TCP_NODELAY on it, as on every connection.
type gathering struct {
	net.Conn
	lock   sync.Mutex // a reader answers pings and closes while the writer writes
	isHeld bool
	held   []byte
}

func (g *gathering) Write(data []byte) (int, error) {
	g.lock.Lock()
	defer g.lock.Unlock()
	if g.isHeld {
		g.held = append(g.held, data...)
		return len(data), nil
	}
	return g.Conn.Write(data)
}

func (g *gathering) hold() {
	g.lock.Lock()
	g.isHeld = true
	g.lock.Unlock()
}

func (g *gathering) release() error {
	g.lock.Lock()
	defer g.lock.Unlock()
	g.isHeld = false
	_, err := g.Conn.Write(g.held)
	g.held = g.held[:0]
	return err
}

type gatheringListener struct{ net.Listener }

func (l gatheringListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	return &gathering{Conn: connection}, err
}
